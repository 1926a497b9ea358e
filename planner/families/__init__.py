"""From the fields of a ``config.json`` to a ``ModelSpec``, one table per kind of architecture."""

from planner.families.build import COVERED, family_of, model_from_config, opaque_model
from planner.families.document import parse_config

__all__ = ["COVERED", "family_of", "model_from_config", "opaque_model", "parse_config"]

"""What each trainer does when the user says nothing, by version, as data; and the resolver that applies it.

A stack is named like ``trl`` or ``hf,transformers=4.48.1,torch=2.4``; packages that are not named
are the newest we know. Rules live in ``libraries.toml`` (what the libraries do for anybody) and in
``<trainer>.toml``; the last rule that holds wins, and every rule carries its source.
"""

from planner.stacks.resolve import resolve
from planner.stacks.rules import (
    STACKS,
    Defaults,
    describe_stack,
    describe_unset,
    load_stack,
    newer_versions,
    unset_settings,
)

__all__ = [
    "STACKS",
    "Defaults",
    "describe_stack",
    "describe_unset",
    "load_stack",
    "newer_versions",
    "resolve",
    "unset_settings",
]

"""A ``Scenario`` as JSON that outlives the version that wrote it, and back without losing a byte of any estimate.

What this version can build anew is not copied but named: a model by its configuration, a stack by its versions.
Where the scenario differs from what is built so, the differing fields stand beside the name. So a record keeps pace
when the description of an architecture or of a trainer is mended later, and settings and card stay as they were.

A field that a later version adds is read with its default, which is what holds where nobody speaks of it. A field or a
name that this version does not know is refused: it means something, and we cannot say what.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from planner.errors import PlannerError, UnsupportedScenario, first_line, show
from planner.records.codec import Mismatch, canonical, plain, restored, restored_field
from planner.spec import Behaviour, Cluster, ModelSpec, Scenario, TrainSpec

SCHEMA = 1
"""Of the document. A new number where an old document would be read as something else."""

Document = Mapping[str, Any]


def scenario_document(scenario: Scenario) -> dict[str, Any]:
    """The scenario as JSON data."""
    return {
        "schema": SCHEMA,
        "model": _model_document(scenario.model),
        "train": plain(scenario.train),
        "cluster": plain(scenario.cluster),
        "stack": _stack_document(scenario.stack),
        "origins": dict(scenario.origins),
    }


def scenario_from(document: Document) -> Scenario:
    """The scenario that a document describes; raise ``UnsupportedScenario`` where this version does not know it all."""
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise UnsupportedScenario("the scenario was written by another version: update finetune-planner to use it")
    try:
        return Scenario(
            model=_model(canonical(document["model"])),
            train=_train(document["train"]),
            cluster=restored(Cluster, document["cluster"]),
            stack=_stack(document["stack"]),
            origins=restored_field(Scenario, "origins", document.get("origins", {})),
        )
    except KeyError as error:
        raise UnsupportedScenario(f"the scenario has no {error.args[0]}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedScenario(f"the scenario is not one that this version knows: {first_line(error)}") from None


COUNTS = ("seq_len", "micro_batch_size", "grad_accumulation", "lora_rank", "eval_batch_size", "eval_samples")
"""Settings of which there is at least one, and not more than ``MOST``."""
MOST = 2**40


def _train(data: object) -> TrainSpec:
    """The settings; those that no option could have set are refused."""
    train = restored(TrainSpec, data)
    for name in COUNTS:
        if not 1 <= getattr(train, name) <= MOST:
            raise Mismatch(f"train.{name} {show(getattr(train, name))} is no count")
    if not isinstance(train.adapter, Mapping | None):
        raise Mismatch("train.peft_config is no JSON object")
    return train


# ---------------------------------------------------------------- differences


def _differences(value: object, built: object) -> dict[str, Any]:
    """Fields of ``value`` that are not as ``built`` has them."""
    names = (field.name for field in fields(value) if field.name != "config")  # type: ignore[arg-type]
    return {name: plain(getattr(value, name)) for name in names if getattr(value, name) != getattr(built, name)}


def _changed(kind: type, document: Document) -> dict[str, Any]:
    return {name: restored_field(kind, name, data) for name, data in document.get("differs", {}).items()}


# ---------------------------------------------------------------- model


def _model_document(model: ModelSpec) -> dict[str, Any]:
    """The configuration and what it does not settle; all fields where there is no configuration."""
    built = _built(model.name, model.config) if model.config else None
    if built is None:
        return {"name": model.name, "spec": plain(model)}
    return {"name": model.name, "config": plain(model.config), "differs": _differences(model, built)}


def _built(name: str, config: Document) -> ModelSpec | None:
    """The model that this version builds from a configuration; ``None`` where it builds none."""
    from planner.families.build import model_from_config, opaque_model  # noqa: PLC0415  (records are read without)

    for build in (model_from_config, opaque_model):
        with suppress(PlannerError):
            return build(config, name=name)
    return None


@lru_cache(maxsize=256)
def _model(text: str) -> ModelSpec:
    """Records of the same model are many, and a model is frozen."""
    document = json.loads(text)
    if "spec" in document:
        return restored(ModelSpec, document["spec"])
    built = _built(document["name"], document["config"])
    if built is None:
        raise Mismatch(f"no model can be built from the configuration of {document['name']!r}")
    return replace(built, **_changed(ModelSpec, document))


# ---------------------------------------------------------------- stack


def _stack_document(stack: Behaviour) -> dict[str, Any]:
    """Name and versions, and what differs from the rules for them; all fields where there are no rules."""
    built = _behaviour(stack.name, stack.versions)
    if built is None:
        return {"name": stack.name, "versions": dict(stack.versions), "spec": plain(stack)}
    differs = _differences(stack, replace(built, versions=stack.versions))
    return {"name": stack.name, "versions": dict(stack.versions), "differs": differs}


def _behaviour(name: str, versions: Mapping[str, str]) -> Behaviour | None:
    from planner.stacks.rules import load_stack  # noqa: PLC0415  (records are read without)

    try:
        return load_stack(
            ",".join((name, *(f"{package}={version}" for package, version in versions.items())))
        ).behaviour
    except PlannerError:
        return None


def _stack(document: Document) -> Behaviour:
    if "spec" in document:
        return restored(Behaviour, document["spec"])
    versions = restored_field(Behaviour, "versions", document["versions"])
    built = _behaviour(document["name"], versions)
    if built is None:
        raise Mismatch(f"there are no rules for stack {document['name']!r} with its versions")
    ordered = {name: versions[name] for name in (*built.versions, *versions) if name in versions}
    return replace(built, versions=MappingProxyType(ordered), **_changed(Behaviour, document))

"""What is here to plan, trace and measure with: ``examine()``. No framework is imported, no device initialised."""

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from planner.doctor.cards import cards
from planner.doctor.environment import environment
from planner.doctor.places import machine, stored
from planner.doctor.software import Build, software, torch_build
from planner.doctor.values import ABILITIES, Ability, Examination, Fact
from planner.errors import PlannerError
from planner.local import Machine, look

__all__ = ["ABILITIES", "Ability", "Examination", "Fact", "examine"]

TRACED = ("torch", "transformers", "accelerate", "peft")
"""What every trace and every measurement runs; TRL and bitsandbytes only where a scenario asks for them."""


def examine(environ: Mapping[str, str] = os.environ) -> Examination:
    """Everything that can be said without running anything."""
    here, build = _look(), torch_build()
    facts = (*software(), *cards(here, build), *environment(environ), *machine(), *stored(environ))
    return Examination(facts=facts, lacking=MappingProxyType(lacking(facts, here, build)))


def _look() -> Machine | PlannerError:
    try:
        return look()
    except PlannerError as error:
        return error


def lacking(facts: Iterable[Fact], here: Machine | PlannerError, build: Build | None) -> dict[Ability, str]:
    """Why each ability is missing; ``""`` where it is there."""
    wrong = {fact.name: fact for fact in facts if fact.topic == "software" and fact.state == "bad"}
    absent = {fact.name for fact in facts if fact.topic == "software" and fact.value.startswith("missing")}
    traced = "; ".join(f"{name} {wrong[name].value}: {wrong[name].advice}" for name in TRACED if name in wrong)
    mute = str(here) if isinstance(here, PlannerError) else ""
    return {
        "local": mute,
        "gpu": mute or _no_card(facts, here, build),
        "traced": traced,
        "measure": traced or mute,
        "hub": "huggingface_hub is missing" if "huggingface_hub" in absent else "",
        "pictures": " and ".join(name for name in ("altair", "vl-convert-python") if name in absent),
    }


def _no_card(facts: Iterable[Fact], here: Machine | PlannerError, build: Build | None) -> str:
    """Why torch cannot use a card here."""
    if isinstance(here, PlannerError) or not here.boards:
        return "no card is here"
    if build is None:
        return "torch is missing"
    return "; ".join(f"{fact.name}: {fact.advice}" for fact in facts if fact.topic == "cards" and fact.state == "bad")

"""The published schemas: what the commands print, what goldens are drawn from, and no key of schema 1 ever lost."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from docs.schemas import PUBLISHED, identifier
from planner.cli import main
from planner.render.machine import plan_document, to_json
from planner.result import Plan
from tests.docs.published import FILES, Keys, complaints, described, kind_of, lost, printed, schema

KEPT = Path(__file__).with_name("keys_of_schema_1.json")
"""Every key that schema 1 has had: ``python -m tests.docs.keys`` adds new ones, and takes none away."""

CALLS: dict[str, tuple[str, ...]] = {
    "plan": ("--model", "8b", "--gpu", "4090"),
    "plan that fits nowhere": ("--model", "70b", "--gpu", "4090"),
    "plan with data": ("--model", "8b", "--gpu", "4090", "--dataset", "docs/examples/conversions.jsonl"),
    "plan on many": ("--model", "8b", "--gpu", "h100-sxm", "--gpus", "16", "--sharding", "hsdp"),
    "plan with money": ("--model", "1b", "--gpu", "l4", "--dataset-tokens", "20M"),
    "rent": ("rent", "--model", "8b", "--dataset-tokens", "20M"),
    "what-if": ("what-if", "--model", "8b", "--gpu", "4090"),
    "frontier": ("frontier", "--model", "8b", "--gpu", "4090"),
    "frontier of nothing": ("frontier", "--model", "70b", "--gpu", "rtx3080-10gb"),
    "sweep": ("sweep", "--model", "1b", "--gpu", "4090", "--method", "lora"),
    "sweep of nothing": ("sweep", "--model", "8b", "--gpu", "4090", "--method", "full", "--weights-dtype", "fp16"),
    "dataset": ("dataset", "docs/examples/conversions.jsonl"),
    "check": ("check", "fuzz/seeds/axolotl.yaml", "--gpu", "24gb"),
    "check of what fits nowhere": ("check", "fuzz/seeds/axolotl.yaml", "--gpu", "24gb", "--model", "70b"),
    "check without a card": ("check", "fuzz/seeds/trl.yaml"),
    "export": ("export", "trl", "--model", "1b", "--gpu", "4090", "--out", "FOLDER"),
    "export of a job": ("export", "slurm", "--model", "1b", "--gpu", "4090", "--out", "FOLDER"),
    "compare": ("compare", "--model", "8b", "--gpu", "4090"),
    "explain memory": ("explain", "memory", "--model", "8b", "--gpu", "4090"),
    "explain interval": ("explain", "interval", "--model", "8b", "--gpu", "4090"),
    "explain time": ("explain", "time", "--model", "8b", "--gpu", "4090"),
    "explain stack": ("explain", "stack"),
    "explain rule": ("explain", "fit001"),
    "why": ("why", "--observed", "10.4GiB", "--model", "8b", "--gpu", "4090", "--method", "qlora"),
    "gpus": ("gpus", "4090"),
    "models": ("models", "llama-3"),
    "rules": ("rules",),
}


def asked(name: str) -> int:
    """Run a command; what it writes goes to a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        words = [f"{folder}/run" if word == "FOLDER" else word for word in CALLS[name]]
        return main([*words, "--format", "json"])


def answer(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = asked(name)
    captured = capsys.readouterr()
    assert (code in (0, 4), captured.err) == (True, "")
    found: dict[str, Any] = json.loads(captured.out.splitlines()[0] if name.startswith("sweep") else captured.out)
    return found


# ---------------------------------------------------------------- the files


def test_every_published_document_has_its_file() -> None:
    assert sorted(FILES) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", FILES)
def test_a_schema_is_one(name: str) -> None:
    found = schema(name)

    Draft202012Validator.check_schema(found)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"] == identifier(name)
    assert found["version"] == found["properties"]["schema"]["const"] == 1
    assert sorted(found["required"]) == sorted(found["properties"])


@pytest.mark.parametrize("name", FILES)
def test_a_schema_allows_what_later_versions_add(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(name, capsys) | {"some_later_key": 1}

    assert not list(Draft202012Validator(schema(name)).iter_errors(document))
    assert complaints(name, document)


# ---------------------------------------------------------------- what is printed


@pytest.mark.parametrize("name", [name for name in CALLS if name.split()[0] in FILES])
def test_what_is_printed_is_what_the_schema_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = answer(name, capsys)

    assert kind_of(document) == name.split()[0]
    assert complaints(kind_of(document) or "", document) == []


@pytest.mark.parametrize("name", ["nothing_fits", "something_fits"])
def test_plans_that_goldens_are_drawn_from(name: str, request: pytest.FixtureRequest) -> None:
    plan: Plan = request.getfixturevalue(name)

    assert complaints("plan", json.loads(to_json(plan_document(plan)))) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda one: one["candidates"][0]["peak"].pop("required_bytes"), "$.candidates[0].peak"),
        (lambda one: one["candidates"][0]["peak"].update(required_bytes=1.5), "$.candidates[0].peak.required_bytes"),
        (lambda one: one["candidates"][0].update(verdict="perhaps"), "$.candidates[0].verdict"),
        (lambda one: one["gpu"].update(colour="green"), "$.gpu"),
        (lambda one: one.update(schema=2), "$.schema"),
    ],
)
def test_faults_are_found(
    change: Callable[[dict[str, Any]], object], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = answer("plan", capsys)
    change(document)

    assert [one.partition(": ")[0] for one in complaints("plan", document)] == [place]


# ---------------------------------------------------------------- compatibility


def kept(name: str) -> Keys:
    return {one: set(keys.split()) for one, keys in json.loads(KEPT.read_text(encoding="utf-8"))[name].items()}


@pytest.mark.parametrize("name", FILES)
def test_no_key_of_a_schema_has_vanished(name: str) -> None:
    """Adding is free; renaming or removing is a new schema number."""
    assert lost(kept(f"{name} (schema)"), described(name)) == {}


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_a_schema_is_kept(name: str) -> None:
    assert lost(described(name), kept(f"{name} (schema)")) == {}, "run: python -m tests.docs.keys"


@pytest.mark.parametrize("name", CALLS)
def test_no_printed_key_has_vanished(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those too that a schema leaves open: settings, quantities, and answers without a schema file."""
    assert lost(kept(name), printed(answer(name, capsys))) == {}


def test_a_lost_key_is_seen() -> None:
    assert lost({"peak": {"phase", "bytes"}}, {"peak": {"phase", "allocated_bytes"}}) == {"peak": {"bytes"}}
    assert lost({"peak": {"phase"}}, {"peak": {"phase", "more"}, "host": {"bytes"}}) == {}

"""Every model file: it loads, its names are its own, and the formulas hit its published counts exactly."""

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from planner.catalog import find_name, index, spellings, squeeze
from planner.catalog_files import INDEX, UNCOVERED, Entry, catalogue_model, index_text, model_files, read_entry
from planner.errors import BrokenInput
from planner.families import COVERED
from planner.families.text import UNCOVERED as REASONS
from planner.formulas.params import active_params, model_params

FILES = model_files()
ENTRIES = [read_entry(path) for path in FILES]


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", FILES, ids=stem)
def test_file_loads_and_is_named_after_its_id(path: Path) -> None:
    entry = read_entry(path)

    assert entry.id == path.stem
    assert entry.model_type in COVERED
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", entry.id)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub_id)
    assert entry.context is None or entry.context > 0


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_formula_hits_the_text_count_and_the_extras_explain_the_rest(entry: Entry) -> None:
    assert model_params(catalogue_model(entry.id)) == entry.text
    if entry.published is not None:
        assert entry.text + sum(extra.params for extra in entry.extra) == entry.published


@pytest.mark.parametrize("path", FILES, ids=stem)
def test_every_section_has_a_source(path: Path) -> None:
    data = tomllib.loads(path.read_text())

    sections = {row["field"].partition(".")[0] for row in data["source"]}

    assert {"config", "parameters"} <= sections
    assert all(row["note"] for row in data["source"])


def test_there_are_at_least_150_models_of_at_least_40_architectures() -> None:
    assert len(ENTRIES) >= 150
    assert len({entry.model_type for entry in ENTRIES}) >= 40


def test_no_name_means_two_models() -> None:
    owners: dict[str, set[str]] = {}
    for entry in ENTRIES:
        for name in entry.names:
            owners.setdefault(squeeze(name.lower()), set()).add(entry.id)
        for size in entry.generic_aliases:
            owners.setdefault(size, set()).add(entry.id)

    assert {name: ids for name, ids in owners.items() if len(ids) > 1} == {}


def test_no_covered_name_is_listed_as_uncovered() -> None:
    known = index()

    assert set(known.uncovered) & {*known.names, *known.sizes} == set()
    assert {model_type for _, model_type in known.uncovered.values()} <= set(REASONS)
    assert all(find_name(name) is None for name in known.uncovered)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_every_name_of_a_model_finds_it(entry: Entry) -> None:
    for name in (*entry.names, *entry.generic_aliases):
        assert find_name(name) == entry.id, name


def test_the_index_is_current() -> None:
    written = INDEX.read_text(encoding="utf-8")

    assert written == index_text(), "run: python -m planner.catalog --write-index"
    assert json.loads(written)["models"].keys() == {entry.id for entry in ENTRIES}


PUBLISHED = {  # what the model cards and papers print, to the digit
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-3b": 3_212_749_824,  # PEFT's method comparison prints it for full fine-tuning
    "mistral-7b-v0.1": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-7b": 7_615_616_512,
    "gpt2": 124_439_808,
    "opt-6.7b": 6_658_473_984,
}


@pytest.mark.parametrize(("model_id", "printed"), PUBLISHED.items())
def test_well_known_counts(model_id: str, printed: int) -> None:
    assert model_params(catalogue_model(model_id)) == printed


ACTIVE = {  # in billions as the model cards say it; cards round, and some leave the embeddings out
    "mixtral-8x7b": 12.9,
    "deepseek-v3": 37.0,
    "qwen3-30b-a3b": 3.3,
    "gpt-oss-20b": 3.6,
    "gpt-oss-120b": 5.1,
}


@pytest.mark.parametrize(("model_id", "printed"), ACTIVE.items())
def test_active_parameters_agree_with_the_model_cards(model_id: str, printed: float) -> None:
    assert active_params(catalogue_model(model_id)) / 1e9 == pytest.approx(printed, rel=0.17)


def test_an_unknown_key_in_a_model_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "odd.toml"
    file.write_text(FILES[0].read_text().replace("model_type", "licence_fee = 3\nmodel_type", 1))

    with pytest.raises(BrokenInput, match="unknown key 'licence_fee'"):
        read_entry(file)


def test_uncovered_models_are_known_by_hub_id() -> None:
    rows = tomllib.loads(UNCOVERED.read_text())["model"]

    assert len(rows) >= 25
    assert Counter(row["id"] for row in rows).most_common(1)[0][1] == 1
    assert all(row["hub_id"].lower() in index().uncovered for row in rows)


def test_short_forms_end_with_the_bare_name() -> None:
    assert spellings("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit")[-1] == "meta-llama-3.1-8b"

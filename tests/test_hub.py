"""Repositories that the catalogue lacks, with a ``huggingface_hub`` of our own making: no test needs a network."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from planner.catalog import load_model
from planner.errors import BrokenInput, UsageError
from tests.families.llama import LLAMA


def write(folder: Path, config: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    return file


class FakeError(Exception):
    """Stands for one class of ``huggingface_hub.errors``."""


def fake_hub(monkeypatch: pytest.MonkeyPatch, **behaviour: Any) -> None:
    """A ``huggingface_hub`` that answers or fails as told."""
    kinds = (
        "RepositoryNotFoundError",
        "GatedRepoError",
        "HfHubHTTPError",
        "LocalEntryNotFoundError",
        "EntryNotFoundError",
        "HFValidationError",
    )
    errors = ModuleType("huggingface_hub.errors")
    for kind in kinds:
        setattr(errors, kind, type(kind, (FakeError,), {}))

    def model_info(*_: Any, **__: Any) -> Any:
        if "info" in behaviour:
            raise getattr(errors, behaviour["info"], OSError)("no luck\nsecond line")
        return SimpleNamespace(safetensors=SimpleNamespace(total=behaviour.get("total")))

    def download(*_: Any, local_files_only: bool, **__: Any) -> str:
        if "file" in behaviour:
            raise getattr(errors, behaviour["file"])("no luck")
        assert local_files_only == ("info" in behaviour)
        return str(behaviour["config"])

    hub = ModuleType("huggingface_hub")
    hub.HfApi = lambda: SimpleNamespace(model_info=model_info)  # type: ignore[attr-defined]
    hub.errors = errors  # type: ignore[attr-defined]
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    utils = ModuleType("huggingface_hub.utils")
    utils.disable_progress_bars = lambda: None  # type: ignore[attr-defined]
    for name, module in (("", hub), (".errors", errors), (".utils", utils)):
        monkeypatch.setitem(sys.modules, f"huggingface_hub{name}", module)


def test_a_repository_that_the_catalogue_lacks_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, total=8_030_261_248, config=write(tmp_path, LLAMA))

    resolved = load_model("someone/New-Model")

    assert resolved.line == "someone/New-Model (read from the Hub)"
    assert resolved.model.hub_id == "someone/New-Model"
    assert resolved.model.notes == ()


def test_other_weights_than_the_formula_counts_are_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, total=9_000_000_000, config=write(tmp_path, LLAMA))

    assert load_model("someone/New-Model").model.notes == (
        "the repository stores 9B parameters, its text model has 8.03B",
    )


def test_without_network_the_local_cache_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, info="ConnectError", config=write(tmp_path, LLAMA))

    assert "could not be checked" in load_model("someone/New-Model").model.notes[0]


HUB_FAILURES = [
    ({"info": "RepositoryNotFoundError"}, "is neither in the catalogue nor on the Hub"),
    ({"info": "HFValidationError"}, "no name that the Hub could hold"),
    ({"info": "HfHubHTTPError"}, "could not be read from the Hub: no luck"),
    ({"info": "ConnectError", "file": "LocalEntryNotFoundError"}, "the Hub cannot be reached"),
    ({"file": "GatedRepoError"}, "is gated: accept its licence"),
    ({"file": "EntryNotFoundError"}, "holds no config.json"),
]


@pytest.mark.parametrize(("behaviour", "message"), HUB_FAILURES, ids=[message for _, message in HUB_FAILURES])
def test_each_way_in_which_the_hub_fails(
    monkeypatch: pytest.MonkeyPatch, behaviour: dict[str, str], message: str
) -> None:
    fake_hub(monkeypatch, **behaviour)

    with pytest.raises((UsageError, BrokenInput), match=message) as caught:
        load_model("someone/New-Model")

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["foo/b--c", "foo/b..c", "foo/bar.git", "foo/bar.", "foo./bar"])
def test_the_library_refuses_names_of_no_repository(name: str) -> None:
    """Checked by huggingface_hub itself, before any request."""
    pytest.importorskip("huggingface_hub")

    with pytest.raises(UsageError, match="no name that the Hub could hold"):
        load_model(name)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(UsageError, match=r"pip install huggingface_hub, or give a local config\.json"):
        load_model("someone/New-Model")

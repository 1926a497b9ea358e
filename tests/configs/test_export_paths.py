"""Files of a user are found from the folder of an export, wherever it stands."""

import json
from pathlib import Path

import pytest

from planner.cli import main
from planner.configs.exporting import export
from planner.recommend.request import request_of
from tests.cli.test_paths import CONFIG, ROWS

NAMES = {
    "trl": "sft.yaml",
    "axolotl": "sft.yml",
    "llamafactory": "dataset_info.json",
    "accelerate": "training_args.json",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("\n".join(ROWS), encoding="utf-8")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("target", sorted(NAMES))
def test_data_is_named_from_the_root(home: Path, target: str) -> None:
    """The launch command starts in the export's folder, where a relative name would mean another file."""
    asked = ("--model", "1b", "--gpu", "4090", "--method", "lora", "--dataset", "rows.jsonl")

    assert main(["export", target, "--out", "run", *asked]) == 0
    assert str(home / "rows.jsonl") in (home / "run" / NAMES[target]).read_text(encoding="utf-8")


def test_a_job_has_its_data_in_the_folder(home: Path) -> None:
    asked = ("--model", "1b", "--gpu", "4090", "--method", "lora", "--dataset", "rows.jsonl")

    assert main(["export", "sky", "--out", "run", *asked]) == 0
    assert str(home) not in (home / "run" / "sft.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("named", ["small", "small/config.json"])
def test_a_model_that_is_here_is_its_folder(home: Path, named: str) -> None:
    found = export("trl", request_of(model=named, gpu="4090", method="lora", settings={"seq_len": 256}))

    assert f"model_name_or_path: {home / 'small'}\n" in found.files[0].text

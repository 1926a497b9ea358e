r"""Files of a user are found from where the launch command starts; nothing is written by halves."""

import ast
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.cli import main
from planner.configs.exporting import export
from planner.configs.hf_write import WILD
from planner.errors import UnsupportedScenario
from planner.recommend.request import Request, request_of
from tests.cli.test_paths import ADAPTER, CONFIG, ROWS

ASKED = ("--model", "1b", "--gpu", "4090", "--method", "lora")
Said = Callable[[str], Any]

DATA: dict[str, tuple[str, Said]] = {
    "trl": ("sft.yaml", lambda text: yaml.safe_load(text)["datasets"][0]["data_files"]),
    "axolotl": ("sft.yml", lambda text: yaml.safe_load(text)["datasets"][0]["path"]),
    "llamafactory": ("dataset_info.json", lambda text: json.loads(text)["train"]["file_name"]),
    "unsloth": ("train.py", lambda text: argument(text, "load_dataset", "data_files")),
    "torchtune": ("recipe.yaml", lambda text: yaml.safe_load(text)["dataset"]["data_files"]),
    "accelerate": ("training_args.json", lambda text: json.loads(text)["data_files"]),
    "deepspeed": ("training_args.json", lambda text: json.loads(text)["data_files"]),
}
MODEL: dict[str, tuple[str, Said]] = {
    "trl": ("sft.yaml", lambda text: yaml.safe_load(text)["model_name_or_path"]),
    "axolotl": ("sft.yml", lambda text: yaml.safe_load(text)["base_model"]),
    "llamafactory": ("sft.yaml", lambda text: yaml.safe_load(text)["model_name_or_path"]),
    "unsloth": ("train.py", lambda text: argument(text, "from_pretrained", "model_name")),
    "accelerate": ("training_args.json", lambda text: json.loads(text)["model_name_or_path"]),
}
"""Where each target names its data and its model; torchtune builds only models that it knows."""

NAMES = ("rows.jsonl", "two words.jsonl", 'it\'s "quoted".jsonl', "5$ a#b.jsonl", "übung 模型.jsonl", "-dash: x.jsonl")
WINDOWS = r"C:\Users\me\my data\rows.jsonl"


def argument(script: str, call: str, name: str) -> Any:
    """A literal argument of the first call of that name in a script."""
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.Call) and call in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
            return next(ast.literal_eval(one.value) for one in node.keywords if one.arg == name)
    raise AssertionError(call)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / name).write_text("\n".join(ROWS), encoding="utf-8")
    model = tmp_path / "a small 'one'"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("target", sorted(DATA))
@pytest.mark.parametrize("name", NAMES)
def test_data_is_found_from_the_folder_of_the_run(home: Path, target: str, name: str) -> None:
    """The launch command starts in the export's folder, where a relative name would mean another file."""
    assert main(["export", target, "--out", "the run", *ASKED, f"--dataset={name}"]) == 0
    file, said = DATA[target]

    found = said((home / "the run" / file).read_text(encoding="utf-8"))

    assert found == str(home / name), "the whole path"
    assert Path(found).read_text(encoding="utf-8").splitlines() == ROWS


@pytest.mark.parametrize("target", sorted(DATA))
def test_a_path_of_windows_is_written_as_it_is(target: str) -> None:
    request = Request(model="1b", gpu="4090", methods=("lora",), stack="")
    file, said = DATA[target]
    files = {one.name: one.text for one in export(target, request, dataset=WINDOWS).files}

    assert said(files[file]) == WINDOWS


@pytest.mark.parametrize("target", sorted(DATA))
def test_a_name_that_is_a_pattern_is_written_as_one_or_refused(home: Path, target: str) -> None:
    (home / "a[1]*.jsonl").write_text("\n".join(ROWS), encoding="utf-8")
    request = Request(model="1b", gpu="4090", methods=("lora",), stack="")

    if target in ("axolotl", "llamafactory"):
        with pytest.raises(UnsupportedScenario, match="as a pattern: rename it"):
            export(target, request, dataset="a[1]*.jsonl")
        return
    file, said = DATA[target]
    files = {one.name: one.text for one in export(target, request, dataset="a[1]*.jsonl").files}
    assert said(files[file]) == str(home / "a[[]1][*].jsonl")


@pytest.mark.parametrize("name", ["of $HOME.jsonl", "${x}.jsonl", "a::b.jsonl", "rows.tsv"])
def test_a_file_that_no_trainer_would_find_is_refused(home: Path, name: str) -> None:
    (home / name).write_text("prompt\tcompletion\na\tb\n" if name.endswith("tsv") else ROWS[0], encoding="utf-8")

    with pytest.raises(UnsupportedScenario, match=r"rename it|save it as"):
        export("trl", Request(model="1b", gpu="4090", methods=("lora",), stack=""), dataset=name)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("datasets") is None, reason="not installed: datasets")
@pytest.mark.parametrize("name", [*NAMES, "a[1].jsonl", "a*.jsonl", "a?.jsonl"])
def test_datasets_itself_finds_the_file(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset  # noqa: PLC0415

    (home / "another.jsonl").write_text('{"prompt": "not", "completion": "this"}', encoding="utf-8")
    (home / name).write_text("\n".join(ROWS), encoding="utf-8")
    monkeypatch.chdir("/")

    found = load_dataset(
        "json", data_files=WILD.sub(r"[\g<0>]", str(home / name)), split="train", cache_dir=str(home / "cache")
    )

    assert [json.dumps(row) for row in found] == ROWS


@pytest.mark.skipif(os.name == "nt", reason="names of Windows are text")
@pytest.mark.parametrize("option", ["--dataset", "--model"])
def test_a_name_that_is_no_text_is_refused(home: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9")
    if option == "--dataset":
        (home / f"{name}.jsonl").write_text("\n".join(ROWS), encoding="utf-8")
    else:
        shutil.copytree(home / "a small 'one'", home / name)
    words = [*ASKED, "--dataset", f"{name}.jsonl"] if option == "--dataset" else [*ASKED[2:], "--model", f"./{name}"]

    assert main(["export", "trl", "--out", "run", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no text in UTF-8" in line
    assert not (home / "run").exists()


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("target", sorted(MODEL))
@pytest.mark.parametrize("named", ["a small 'one'", "a small 'one'/config.json"])
def test_a_model_that_is_here_is_its_folder(home: Path, target: str, named: str) -> None:
    file, said = MODEL[target]
    asked = request_of(model=named, gpu="4090", method="lora", settings={"seq_len": 256}, stack="")
    files = {one.name: one.text for one in export(target, asked).files}

    assert said(files[file]) == str(home / "a small 'one'")


def test_torchtune_does_not_download_a_model_that_is_here(home: Path) -> None:
    config = {**CONFIG, "vocab_size": 128256}
    (home / "llama-3.2-1b").mkdir()
    (home / "llama-3.2-1b" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    asked = request_of(model="./llama-3.2-1b", gpu="4090", method="lora", settings={"seq_len": 256}, stack="")

    found = export("torchtune", asked)

    recipe = yaml.safe_load(found.files[0].text)
    assert found.setup == ()
    assert recipe["checkpointer"]["checkpoint_dir"] == str(home / "llama-3.2-1b")
    assert recipe["tokenizer"]["path"].startswith(str(home / "llama-3.2-1b"))


# ---------------------------------------------------------------- jobs


def job(tool: str, name: str) -> Any:
    asked = request_of(model="a small 'one'", gpu="4090", method="lora", settings={"seq_len": 256}, stack="")
    return export(tool, asked, dataset=name)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("tool", ["sky", "dstack"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_uploaded_holds_data_and_model(home: Path, tool: str, name: str) -> None:
    """The commands before the launch, really run in the folder: what the files name is there then."""
    found = job(tool, name)
    folder = home / "run"
    folder.mkdir()
    for command in found.setup:
        subprocess.run(["bash", "-c", command], cwd=folder, check=True)
    said = yaml.safe_load(found.files[0].text)

    assert (folder / said["datasets"][0]["data_files"]).read_text(encoding="utf-8").splitlines() == ROWS
    assert json.loads((folder / said["model_name_or_path"] / "config.json").read_text(encoding="utf-8")) == CONFIG
    assert said["model_name_or_path"].startswith("./"), "no name of the Hub"
    yaml.safe_load(found.files[-1].text)


def test_slurms_machines_see_the_files_of_this_one(home: Path) -> None:
    found = job("slurm", "two words.jsonl")
    said = yaml.safe_load(found.files[0].text)

    assert said["datasets"][0]["data_files"] == str(home / "two words.jsonl")
    assert said["model_name_or_path"] == str(home / "a small 'one'")
    assert found.setup == ()


def test_a_cluster_has_them_on_a_volume(home: Path) -> None:
    found = job("k8s", "two words.jsonl")

    assert "# two words.jsonl has to lie in /work, on a volume" in found.files[-1].text
    said = yaml.safe_load(found.files[0].text)
    assert (said["datasets"][0]["data_files"], said["model_name_or_path"]) == ("two words.jsonl", "./a small 'one'")
    assert found.setup == (), "the folder is not uploaded"


def test_data_that_is_called_like_a_file_of_the_export_is_refused(home: Path) -> None:
    (home / "requirements.txt").write_text("some text to learn\n", encoding="utf-8")

    with pytest.raises(UnsupportedScenario, match=r"'requirements.txt' is what a file of the export is called"):
        job("sky", "requirements.txt")


# ---------------------------------------------------------------- the folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["export", *words])
    (line,) = capsys.readouterr().err.splitlines()
    return code, line


def test_files_that_are_there_stay(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run").mkdir()
    (home / "run" / "requirements.txt").write_text("mine", encoding="utf-8")
    (home / "run" / "notes.txt").write_text("mine", encoding="utf-8")

    code, line = refused(capsys, "trl", "--out", "run", *ASKED)

    assert (code, "holds requirements.txt already: name another folder, or add --force" in line) == (2, True)
    assert sorted(path.name for path in (home / "run").iterdir()) == ["notes.txt", "requirements.txt"]
    assert main(["export", "trl", "--out", "run", *ASKED, "--force"]) == 0
    assert (home / "run" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert (home / "run" / "requirements.txt").read_text(encoding="utf-8") != "mine"


def test_a_file_is_no_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("rows.jsonl", "rows.jsonl/below"):
        code, line = refused(capsys, "trl", "--out", out, *ASKED)
        assert (code, line.endswith("is a file: name a folder")) == (2, True)
    assert (home / "rows.jsonl").read_text(encoding="utf-8").splitlines() == ROWS


def test_where_one_file_cannot_be_written_none_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run" / "requirements.txt").mkdir(parents=True)

    code, line = refused(capsys, "trl", "--out", "run", *ASKED, "--force")

    assert (code, "cannot write run/requirements.txt: there is a folder" in line) == (2, True)
    assert [path.name for path in (home / "run").iterdir()] == ["requirements.txt"]


def test_a_folder_that_cannot_be_written_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, line = refused(capsys, "trl", "--out", "new/run", *ASKED)

    assert (code, "No space left on device" in line) == (2, True)
    assert not (home / "new").exists(), "a folder that was made for it goes again"


def test_what_does_not_fit_is_not_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--model", "70b", "--gpu", "4090", "--method", "full")

    assert main(["export", "trl", "--out", "run", *asked]) == 4
    told = capsys.readouterr().out
    assert "nothing fits, so nothing was written; what would:" in told
    assert "plan --model 70b --gpu" in told
    assert not (home / "run").exists()


@pytest.mark.parametrize("target", sorted(DATA))
def test_adapters_from_a_file_are_refused(home: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "adapter_config.json").write_text(json.dumps(ADAPTER), encoding="utf-8")
    words = (target, "--out", "run", "--model", "1b", "--gpu", "4090", "--peft-config", "adapter_config.json")

    code, line = refused(capsys, *words)

    assert (code, f"{target} cannot express --peft-config: its" in line) == (3, True)
    assert not (home / "run").exists()

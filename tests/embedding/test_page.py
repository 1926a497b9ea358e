"""docs/api.md: its scripts do what it says. Its Python examples run with those of all other pages."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.cli import main
from tests.embedding.conftest import PAGE, ROOT, Bash, blocks, fake

HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))


def test_every_block_is_run_somewhere_here() -> None:
    languages = re.findall(r"^```(\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(languages) == ["py", "python", "python", "sh", "sh", "yaml", "yaml"]


# ---------------------------------------------------------------- frames


def test_polars() -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples("\n".join(blocks("python"))):
        if "pandas" not in example.source and "frame" not in example.source:
            exec(compile(example.source, str(PAGE), "single"), names)
    (body,) = blocks("py")

    exec(compile(body, str(PAGE), "exec"), names)

    found = names["fastest"]
    assert isinstance(found, polars.DataFrame)
    best = {name: max(one["tokens_per_s"] for one in names["planned"] if one["model"] == name) for name in ("1b", "8b")}
    assert dict(zip(found["model"], found["tokens_per_s"], strict=True)) == best


# ---------------------------------------------------------------- Slurm

PROLOG, GATE = blocks("sh")
JOB = {"SLURM_JOB_ID": "42", "SLURM_PROCID": "0", "PLAN_GPU": "24gb"}


@pytest.fixture
def prolog(folder: Path, bash: Bash) -> Any:
    fake(folder, "scancel", 'echo "$*" > cancelled')

    def run(**variables: str) -> tuple[int, str, bool]:
        done = bash(PROLOG, {"TMPDIR": str(folder), **JOB, **variables}, ("sh",))
        assert done.err == ""
        cancelled = folder / "cancelled"
        assert not cancelled.exists() or cancelled.read_text() == "42\n"
        return done.code, done.out, cancelled.exists()

    return run


def test_a_job_that_fits_starts(prolog: Any) -> None:
    assert prolog(PLAN_CONFIG="fits.yaml") == (0, "print plan: fits.yaml fits 1 GPUs\n", False)


def test_a_job_that_does_not_fit_is_cancelled(prolog: Any, folder: Path) -> None:
    code, out, cancelled = prolog(PLAN_CONFIG="too large.yaml")

    assert (code, cancelled) == (1, True)
    assert out.startswith("print plan: too large.yaml does not fit 1 GPUs, so the job is cancelled")
    assert "does not fit" in (folder / "plan.42.txt").read_text(encoding="utf-8")


def test_the_cards_of_all_nodes_count(prolog: Any, folder: Path) -> None:
    """Each of them would hold the whole model, as the file says, so more are no help."""
    prolog(PLAN_CONFIG="too large.yaml", PLAN_GPU="h100", SLURM_GPUS_ON_NODE="8", SLURM_JOB_NUM_NODES="2")

    assert "on 16 × NVIDIA H100" in " ".join((folder / "plan.42.txt").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("config", ["unknown.yaml", "nowhere.yaml"])
def test_what_is_not_understood_passes(prolog: Any, config: str) -> None:
    code, out, cancelled = prolog(PLAN_CONFIG=config)

    assert (code, cancelled, "is not planned: error:" in out) == (0, False, True)


@pytest.mark.parametrize("variables", [{}, {"PLAN_CONFIG": ""}, {"PLAN_CONFIG": "too large.yaml", "SLURM_PROCID": "3"}])
def test_other_jobs_and_other_tasks_are_left_alone(prolog: Any, variables: dict[str, str]) -> None:
    assert prolog(**variables) == (0, "", False)


# ---------------------------------------------------------------- gates


@pytest.mark.parametrize(("name", "code", "says"), [("fits.yaml", 0, True), ("too large.yaml", 4, False)])
def test_the_exit_code_is_a_gate(folder: Path, bash: Bash, name: str, code: int, says: bool) -> None:
    (folder / "sft.yaml").write_text((folder / name).read_text())

    done = bash(GATE, {}, ("bash",))

    assert (done.code, "it fits: accelerate launch" in done.out) == (code, says)


def test_the_hook_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its entry with the words of the page, as pre-commit starts it: from the root, without names of files."""
    (hook,) = HOOKS
    (shown,) = [yaml.safe_load(body)["repos"][0]["hooks"][0] for body in blocks("yaml") if "rev:" in body]
    assert (hook["id"], hook["language"], hook["pass_filenames"]) == (shown["id"], "python", False)
    assert {"id", "name", "description", "entry", "language", "types_or", "pass_filenames"} == set(hook)
    pattern = re.compile(shown["files"])
    assert all(pattern.search(word) for word in shown["args"] if word.endswith(".yaml"))

    (folder / "train").mkdir()
    (folder / "train" / "accelerate.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 2\n")
    monkeypatch.chdir(folder)
    program, *words = hook["entry"].split()
    assert program == "plan"
    for name, code in (("fits.yaml", 0), ("too large.yaml", 4)):
        (folder / "train" / "sft.yaml").write_text((folder / name).read_text())
        assert main([*words, *shown["args"]]) == code
        assert "sft.yaml" in capsys.readouterr().out

"""What an export recommends by itself is what its target can write; a refusal names what the user asked for."""

import json
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.configs.exporting import export
from planner.configs.targets import JOBS, TARGETS, TRAINERS
from planner.errors import UnknownName, UnsupportedScenario, UsageError
from planner.recommend.request import Request
from planner.spec import Job, Method
from planner.stacks.rules import pinned

RUNS = (("8b", "4090", 1), ("1b", "4090", 2), ("8b", "h100", 16))
METHODS: tuple[tuple[Method | None, str], ...] = (
    (None, ""),
    ("full", ""),
    ("lora", ""),
    ("qlora", "nf4"),
    ("qlora", "int8"),
)


def asked(method: Method | None = None, *, run: tuple[str, str, int] = RUNS[0], **settings: Any) -> Request:
    model, gpu, gpus = run
    return Request(model=model, gpu=gpu, gpus=gpus, methods=(method,) if method else (), settings=settings, stack="")


# ---------------------------------------------------------------- by itself


@pytest.mark.parametrize(("target", "run"), tuple(product(TRAINERS, RUNS)), ids=str)
def test_what_is_recommended_unasked_can_be_written(target: str, run: tuple[str, str, int]) -> None:
    for method, quant in METHODS:
        said = outcome(target, asked(method, run=run, **({"quant": quant} if quant else {})))

        assert said in ("written", "nothing fits") or (quant == "int8" and re.search("int8|8-bit", said)), (
            method,
            said,
        )


def outcome(target: str, request: Request) -> str:
    """What became of an export, in words."""
    try:
        found = export(target, request)
    except UnsupportedScenario as error:
        return str(error)
    assert bool(found.files) == (found.plan.recommendation.candidate is not None)
    return "written" if found.files else "nothing fits"


def test_the_choice_is_made_among_what_the_target_can_write() -> None:
    """accelerate's Trainer has Liger's head with all of its kernels only: by itself the plan takes the head alone."""
    found = export("accelerate", asked("qlora", quant="int8"))
    train = found.plan.candidates[found.plan.recommendation.candidate or 0].scenario.train

    assert found.files
    assert (train.kernels, train.loss) in {("fused", "fused"), ("eager", "full")}


@pytest.mark.parametrize(
    ("target", "name", "value"), [("deepspeed", "sharding", "zero2"), ("axolotl", "kernels", "eager")]
)
def test_what_the_stack_does_and_the_target_cannot_say_is_planned_otherwise(target: str, name: str, value: str) -> None:
    found = export(target, asked("qlora", quant="int8"))
    scenario = found.plan.candidates[found.plan.recommendation.candidate or 0].scenario

    assert (getattr(scenario.train, name), scenario.origins[name]) == (value, "plan")


# ---------------------------------------------------------------- what the user asked for


@pytest.mark.parametrize(
    ("target", "request_", "told"),
    [
        ("deepspeed", asked(run=RUNS[1], sharding="fsdp"), "--sharding fsdp: use --sharding zero2 or zero3"),
        ("axolotl", asked("qlora", quant="int8", kernels="fused"), "8-bit weights: use --kernels eager"),
        ("trl", asked("lora", optimizer="adamw_loop"), "--optimizer adamw_loop"),
        ("accelerate", asked("lora", loss="chunked"), "--loss"),
        ("unsloth", asked("lora", autocast="none"), "--autocast none"),
    ],
    ids=str,
)
def test_a_refusal_names_the_users_own_setting(target: str, request_: Request, told: str) -> None:
    with pytest.raises(UnsupportedScenario, match=told):
        export(target, request_)


@pytest.mark.parametrize(
    ("target", "stack", "told"),
    [
        ("trl", "axolotl", "trl is written for the stack trl, and --stack 'axolotl' is another.* plan export axolotl"),
        ("accelerate", "trl,trl=1.7", "accelerate is written for the stack hf, .* plan export trl"),
        ("sky", "unsloth", "trl is written for the stack trl, .* --trainer unsloth"),
        ("trl", "plain", "--stack 'plain' is another: leave it out$"),
    ],
)
def test_a_stack_that_is_not_the_targets_is_told(target: str, stack: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        export(target, Request(model="1b", gpu="4090", methods=("lora",), stack=stack))


def test_the_targets_own_stack_may_be_named_with_versions() -> None:
    assert export("accelerate", Request(model="1b", gpu="4090", methods=("lora",), stack="hf,transformers=5.10")).files


@pytest.mark.parametrize(
    ("target", "stack", "settings"),
    [
        ("trl", "trl,trl=1.0", {}),
        ("trl", "trl,trl=1.0", {"objective": "dpo"}),
        ("trl", "trl,trl=0.24", {}),
        ("trl", "trl,trl=0.24", {"objective": "dpo"}),
        ("trl", "trl,trl=1.7,fsdp=1", {"gpus": 2, "sharding": "fsdp"}),
        ("axolotl", "axolotl,axolotl=0.17", {}),
        ("axolotl", "axolotl,axolotl=0.17,liger=0.8", {"gpus": 2, "sharding": "fsdp"}),
        ("llamafactory", "", {"gpus": 2, "sharding": "ddp"}),
        ("llamafactory", "", {"gpus": 2, "sharding": "fsdp"}),
        ("accelerate", "hf,transformers=5.10", {}),
        ("trl", "", {"objective": "grpo", "seq_len": 1000, "completion_len": 512}),
    ],
    ids=str,
)
def test_the_check_command_plans_the_same_bytes(
    target: str, stack: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the versions, and what no file says: cards, and the length of prompts under GRPO."""
    said = {"model": "1b", "gpu": "a100-80gb", "method": "lora", **settings, **({"stack": stack} if stack else {})}
    words = ["export", target, *words_of(said), "--format", "json", "--out", str(tmp_path)]
    assert main(words) == 0
    exported = json.loads(capsys.readouterr().out)

    plan, *check = shlex.split(exported["check"])
    assert plan == "plan"
    assert main([*check, "--format", "json"]) == 0
    checked = json.loads(capsys.readouterr().out)

    chosen = exported["plan"]["candidates"][exported["plan"]["recommendation"]["candidate"]]
    (run,) = checked["candidates"]
    assert (run["peak"], run["phases"]) == (chosen["peak"], chosen["phases"])
    for version in pinned(stack or "trl"):
        assert version in exported["check"]
        assert f"{version.replace('=', '==')}.*" in (tmp_path / "requirements.txt").read_text()


def words_of(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("target", TRAINERS)
def test_only_a_job_takes_a_trainer(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("export", target, "--trainer", "axolotl", "--out", "run", "--model", "1b", "--gpu", "4090")

    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--trainer says what a job runs, and {target} runs itself" in line


@pytest.mark.parametrize("trainer", ["sky", "trll"])
def test_a_job_runs_a_trainer_that_there_is(trainer: str) -> None:
    with pytest.raises(UnknownName, match="unknown trainer"):
        export("slurm", asked("lora"), trainer=trainer)


def test_the_commands_help_names_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    told = capsys.readouterr().out

    assert all(re.search(rf"\b{name}\b", told) for name in TARGETS)
    assert set(TRAINERS) | set(JOBS) == set(TARGETS)


def test_long_times_are_told_in_whole_digits() -> None:
    """A step of 65 s took "32 to 1.3e+02"."""
    request = Request(
        model="8b",
        gpu="a100-80gb",
        methods=("lora",),
        settings={"objective": "grpo"},
        stack="",
        job=Job(tokens=500_000_000, task="rl"),
    )
    text = export("trl", request).files[0].text
    step, run = (re.search(rf"# {start} about (.*)", text) for start in ("a step takes", "the whole run"))

    assert step is not None
    assert re.fullmatch(r"[\d.]+ s \([\d.]+ s to \d{3} s\)", step[1])
    assert run is not None
    assert re.fullmatch(r"\d+ days", run[1])

"""Laws of the recommendation, on drawn questions: it passes its own plan, and more memory takes no answer away."""

import contextlib
import io
import json
import shlex
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from planner.cli import main
from planner.errors import UnsupportedScenario
from planner.estimators import remember
from planner.planning import plan
from planner.recommend.candidates import candidate, candidates
from planner.recommend.changes import RANKS
from planner.recommend.choice import choose
from planner.recommend.informed import informed
from planner.recommend.names import understand
from planner.recommend.order import preference
from planner.recommend.request import Ask, Request
from planner.recommend.shared import shared_estimator
from planner.result import Plan
from planner.spec import METHODS, TASKS, Job, Lengths

MODELS = (
    "gpt2", "smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "gemma-2-2b", "phi-3-mini", "qwen3-8b", "llama-3.1-8b",
    "falcon-7b", "llama-2-13b", "qwen3-32b", "qwen3-30b-a3b", "gpt-oss-20b", "mixtral-8x7b", "llama-3.1-70b",
)  # fmt: skip
CARDS = (
    "t4",
    "rtx4090",
    "rtx3090",
    "l40s",
    "a100-80gb",
    "h100",
    "b200",
    "jetson-orin-nx-16gb",
    "dgx-spark",
    "v100-32gb",
)
ESTIMATE = remember(shared_estimator())

few = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

# ---------------------------------------------------------------- questions


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """A job of any task; of unknown data, of counted tokens, or of lengths."""
    task = draw(st.sampled_from(TASKS))
    kind = draw(st.sampled_from(["unknown", "tokens", "lengths"]))
    about: dict[str, Any] = {
        "adapters": draw(st.sampled_from([1, 1, 10])),
        "keep_skills": draw(st.booleans()),
        "new_vocabulary": draw(st.booleans()),
        "epochs": draw(st.sampled_from([1.0, 3.0])),
    }
    if kind == "tokens":
        about["tokens"] = draw(st.sampled_from([10**5, 20 * 10**6, 2 * 10**8, 5 * 10**9]))
    if kind == "lengths":
        longest = draw(st.integers(2, 4096))
        lengths = Lengths(((longest // 2, 900), (longest, 100)))
        about |= {"lengths": lengths, "tokens": lengths.tokens, "sequences": lengths.sequences}
    return Job(task=task, **about)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any question, with a few settings held."""
    held: dict[str, Any] = {
        "seq_len": st.sampled_from([128, 1000, 2048, 8192]),
        "micro_batch_size": st.sampled_from([1, 4]),
        "grad_accumulation": st.sampled_from([1, 8]),
        "gradient_checkpointing": st.booleans(),
        "lora_rank": st.sampled_from([8, 64]),
        "loss": st.sampled_from(["full", "chunked"]),
    }
    names = draw(st.lists(st.sampled_from(sorted(held)), unique=True, max_size=2))
    return Request(
        model=draw(st.sampled_from(MODELS)),
        gpu=draw(st.sampled_from(CARDS)),
        gpus=draw(st.sampled_from([1, 1, 2, 8])),
        network_gbps=100.0,
        methods=draw(st.sampled_from([(), (), (), *((method,) for method in METHODS)])),
        settings={name: draw(held[name]) for name in names},
        job=draw(jobs()),
    )


def question_of(request: Request) -> Ask:
    return informed(understand(request)[0])


REFUSED = ("--loss", "completions of a step")
"""Held settings that TRL's trainers of pairs and of completions do not take."""


def planned(request: Request) -> Plan:
    """The plan; a question whose held settings its task's trainer refuses is drawn anew."""
    try:
        return plan(request)
    except UnsupportedScenario as error:
        if request.job.task not in ("dpo", "rl") or not any(word in str(error) for word in REFUSED):
            raise
        reject()


def with_memory(question: Ask, factor: float) -> Ask:
    gpu = question.cluster.gpu
    more = replace(gpu, memory_bytes=int(gpu.memory_bytes * factor))
    return replace(question, cluster=replace(question.cluster, gpu=more))


def decides(question: Ask) -> bool:
    found, _ = candidates(question, ESTIMATE)
    return choose(found, preference(question, found), question, ESTIMATE) is not None


# ---------------------------------------------------------------- laws


@few
@given(request=requests())
def test_recommended_settings_pass_their_own_plan(request: Request) -> None:
    """The same settings, all of them held, give the same candidate: same verdict, same bytes."""
    found = planned(request)
    if found.recommendation.candidate is None:
        return
    one = found.candidates[found.recommendation.candidate]
    train = one.scenario.train
    held = {name: getattr(train, name) for name in train.settings if name not in ("method", "peft_config", "moments")}

    again = candidate(question_of(replace(request, methods=(train.method,), settings=held)), train.method, ESTIMATE)

    assert one.verdict in ("fits", "tight")
    assert again.scenario.train == train
    assert again.verdict == one.verdict
    assert again.estimate.peak == one.estimate.peak


@few
@given(request=requests())
def test_recommended_command_gives_what_was_recommended(request: Request) -> None:
    """The command that the plan prints, run as it stands; data are not part of it where they came as lengths."""
    request = replace(request, job=replace(request.job, lengths=None))
    found = planned(request)
    if found.recommendation.command is None or found.recommendation.candidate is None:
        return
    one = found.candidates[found.recommendation.candidate]

    document = run(found.recommendation.command)

    best = document["candidates"][document["recommendation"]["candidate"]]
    assert best["method"] == one.method
    assert best["verdict"] == one.verdict
    assert best["peak"]["required_bytes"] == one.estimate.peak.required_bytes


@few
@given(request=requests(), factor=st.sampled_from([1.001, 1.1, 2.0]))
def test_more_memory_never_takes_a_verdict_away(request: Request, factor: float) -> None:
    question = question_of(request)
    more = with_memory(question, factor)

    before, _ = candidates(question, ESTIMATE)
    after, _ = candidates(more, ESTIMATE)

    assert [one.method for one in before] == [one.method for one in after]
    assert all(RANKS[new.verdict] >= RANKS[old.verdict] for old, new in zip(before, after, strict=True))
    assert decides(more) or not decides(question)


def run(command: str) -> dict[str, Any]:
    """The document that a command prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main([*shlex.split(command)[1:], "--format", "json"])
    assert code == 0, command
    found: dict[str, Any] = json.loads(output.getvalue())
    return found

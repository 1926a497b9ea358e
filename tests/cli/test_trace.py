"""``plan trace``: what it prints, what it writes, and how it refuses."""

import json
import pickle
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("trl")

from planner.result import OWNERS, PHASES
from tests.cli.conftest import Run
from tests.families.tiny import tiny

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A tiny Llama of six layers on disk."""
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny("llama", {"num_hidden_layers": 6})), encoding="utf-8")
    return str(folder)


def test_text_shows_phases_allocator_and_places(run: Run, model: str) -> None:
    answer = run("trace", "--model", model, "--gpu", "4090", "--method", "lora", "--seq-len", "64")

    assert (answer.code, answer.err) == (0, "")
    for expected in ("GiB at each phase's peak", "optimizer states", "in the first step", "in further steps"):
        assert expected in answer.out
    for expected in ("expandable segments", "smallest card", "Alive at the peak", "4 of 6 layers"):
        assert expected in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80


def test_json_is_the_candidate_with_its_trace(run: Run, model: str) -> None:
    answer = run("trace", "--model", model, "--gpu", "4090", "--seq-len", "64", "--format", "json")
    found = json.loads(answer.out)

    assert [one["method"] for one in found["candidates"]] == ["full", "lora", "qlora"]
    for one in found["candidates"]:
        assert one["evidence"] == "traced"
        assert [phase["name"] for phase in one["phases"]] == list(PHASES)
        for phase in one["phases"]:
            assert set(phase["owners"]) == set(OWNERS)
            assert sum(phase["owners"].values()) == phase["allocated_bytes"]
        assert sum(place["bytes"] for place in one["trace"]["alive"]) == one["peak"]["allocated_bytes"]
        assert one["trace"]["layers"] == {"total": 6, "recorded": 4}


def test_every_layer_gives_the_same_bytes(run: Run, model: str) -> None:
    options = ("trace", "--model", model, "--gpu", "4090", "--method", "full", "--seq-len", "64", "--format", "json")
    few, every = (json.loads(run(*options, *extra).out)["candidates"][0] for extra in ((), ("--all-layers",)))

    assert every["trace"]["layers"]["recorded"] == 6
    assert few["peak"] == every["peak"]


def test_ragged_batches_are_decided_by_the_longest(run: Run, model: str, tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("32,2\n96\n64\n", encoding="utf-8")
    options = ("trace", "--model", model, "--gpu", "4090", "--method", "lora", "--format", "json")
    ragged = json.loads(run(*options, "--lengths", str(lengths)).out)["candidates"][0]
    longest = json.loads(run(*options, "--seq-len", "96").out)["candidates"][0]

    assert sorted(ragged["trace"]["lengths"]) == [32, 32, 64, 96]
    assert ragged["peak"]["allocated_bytes"] == pytest.approx(longest["peak"]["allocated_bytes"], rel=0.01)


def test_a_snapshot_opens(run: Run, model: str, tmp_path: Path) -> None:
    out = tmp_path / "step.pickle"
    answer = run(
        "trace", "--model", model, "--gpu", "4090", "--method", "lora", "--seq-len", "64", "--snapshot", str(out)
    )
    snapshot = pickle.loads(out.read_bytes())

    assert answer.code == 0
    assert {"segments", "device_traces"} <= set(snapshot)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("step")] == ["step.pickle"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--snapshot", "x.pickle"), "--snapshot draws one method: name one --method"),
        (("--method", "lora", "--snapshot", "no/such/x.pickle"), "no such folder"),
        (("--method", "lora", "--timeline", "x.gif"), ".html"),
        (("--method", "lora", "--lengths", "absent.txt"), "--lengths 'absent.txt': no such file"),
        (("--method", "lora", "--alloc-conf", "expandable"), "is not a key:value pair"),
        (("--method", "lora", "--stack", "hf,transformers=4.48.1"), "is installed: a trace runs what is installed"),
        (("--method", "full", "--peft-config", "absent.json"), "no such file"),
        (("--method", "lora", "--evidence", "closed-form"), "plan trace traces"),
        (("--method", "lora", "--snapshot", "~nobody-of-this-name/x.pickle"), "no such folder"),
        (("--method", "lora", "--timeline", "~nobody-of-this-name/x.html"), "no such folder"),
        (("--method", "lora", "--snapshot", "x" * 300 + "/x.pickle"), "no such folder"),
        (("--method", "lora", "--snapshot", ""), "no such folder"),
    ],
)
def test_what_has_no_meaning_is_one_line(run: Run, model: str, arguments: tuple[str, ...], message: str) -> None:
    answer = run("trace", "--model", model, "--gpu", "4090", *arguments)

    assert answer.code in (2, 3)
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert message in answer.err


def test_a_plan_on_traced_evidence(run: Run, model: str) -> None:
    answer = run(
        "--model",
        model,
        "--gpu",
        "4090",
        "--method",
        "lora",
        "--evidence",
        "traced",
        "--seq-len",
        "64",
        "--format",
        "json",
    )
    found = json.loads(answer.out)

    assert answer.code == 0
    assert found["candidates"][0]["evidence"] == "traced"
    assert found["scenario"]["evidence"] == {"value": "traced", "from": "user"}


@pytest.mark.parametrize("command", [("compare",), ("explain", "memory")])
def test_commands_of_closed_forms_refuse_other_evidence(run: Run, command: tuple[str, ...]) -> None:
    answer = run(*command, "--model", "8b", "--gpu", "4090", "--evidence", "traced")

    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert "rests on closed forms" in answer.err


def test_an_adapter_from_a_file(run: Run, model: str, tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(
        json.dumps({"peft_type": "LOHA", "r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}),
        encoding="utf-8",
    )
    options = ("--model", model, "--gpu", "4090", "--peft-config", str(file), "--seq-len", "64")
    refused, found = run(*options), run(*options, "--evidence", "traced", "--format", "json")
    candidate = json.loads(found.out)["candidates"][0]

    assert (refused.code, refused.err.count("\n")) == (3, 1)
    assert "use --evidence traced" in refused.err
    assert (candidate["method"], candidate["peft_type"]) == ("peft", "LOHA")
    # LoHa has two pairs of factors: 2 * 4 * (64 + 64) for q_proj, in each of 6 layers.
    assert candidate["parameters"]["trainable"] == 6 * 2 * 4 * (64 + 64)


def test_an_architecture_without_formulas(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "tiny-mamba"
    folder.mkdir()
    config = {"model_type": "mamba2", "hidden_size": 64, "num_hidden_layers": 5, "num_heads": 4, "head_dim": 32}
    sizes = {"state_size": 8, "n_groups": 1, "vocab_size": 160, "expand": 2, "chunk_size": 16}
    (folder / "config.json").write_text(json.dumps({**config, **sizes}), encoding="utf-8")
    options = ("--model", str(folder), "--gpu", "4090", "--method", "full", "--seq-len", "32")

    assert run(*options).code == 3
    answer = run("trace", *options, "--format", "json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["candidates"][0]["parameters"]["quantized"] == 0

"""``plan why`` as it is typed: where the text comes from, what is printed, and what is refused."""

import io
import json
from pathlib import Path

import pytest

from planner.cli import main
from planner.cli.why import rounded
from planner.units import GIB
from planner.why.clues import CODES as CLUE_CODES
from planner.why.table import CHANGES
from planner.why.table import CODES as CHANGE_CODES
from tests.why.test_messages import TORCH_2_9

RUN = ["--model", "8b", "--gpu", "4090", "--method", "qlora"]
EVALUATION = (
    "Traceback (most recent call last):\n"
    '  File "/v/transformers/trainer.py", line 4000, in evaluation_loop\n    all_preds.add(logits)\n'
    '  File "/v/transformers/trainer_pt_utils.py", line 99, in nested_concat\n    return torch.cat((a, b), dim=0)\n'
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 7.83 GiB. GPU 0 has a total capacity of 23.64 GiB "
    "of which 5.20 GiB is free. Including non-PyTorch memory, this process has 18.40 GiB memory in use. Of the "
    "allocated memory 17.20 GiB is allocated by PyTorch, and 800.00 MiB is reserved by PyTorch but unallocated.\n"
)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    code = main(["why", *arguments, "--format", "json"])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    found: dict[str, object] = json.loads(printed.out)
    return found


def test_an_argument_a_file_and_standard_input_are_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "train.log"
    log.write_text(f"step 1\n{TORCH_2_9}\n", encoding="utf-8")
    by_argument = answer(capsys, TORCH_2_9, *RUN)
    by_file = answer(capsys, "--message", str(log), *RUN)
    monkeypatch.setattr("sys.stdin", io.StringIO(TORCH_2_9))
    by_stdin = answer(capsys, *RUN)
    monkeypatch.setattr("sys.stdin", io.StringIO(TORCH_2_9))

    assert by_argument == by_file == by_stdin == answer(capsys, "--message", "-", *RUN)


def test_the_end_of_a_long_log_is_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"loss 0.1\xff\n" * 600_000 + TORCH_2_9.encode())

    assert answer(capsys, "--message", str(log))["message"] is not None


def test_a_message_alone_is_explained_without_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, TORCH_2_9)

    assert found["candidate"] is None
    assert [clue["code"] for clue in found["clues"]] == ["WHY005", "WHY006"]  # type: ignore[attr-defined]


def test_observed_bytes_name_the_change(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "8b", "--gpu", "4090", "--method", "qlora", "--loss", "full", "--format", "json"])
    real = json.loads(capsys.readouterr().out)["candidates"][0]["peak"]["allocated_bytes"]

    found = answer(capsys, "--observed", f"{real}B", "--metric", "allocated", *RUN)

    first = found["differences"][0]  # type: ignore[index]
    assert first["codes"] == ["WHY112"]
    assert first["command"].endswith("--loss full")
    assert (first["remaining_bytes"], first["predicted_bytes"]) == (0, real)
    assert found["gap_bytes"] == first["bytes"]


def test_less_than_planned_is_explained_alike(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--model", "8b", "--gpu", "h100", "--method", "lora", "--loss", "full"]
    found = answer(capsys, "--observed", "18.2GiB", *run)

    gap = found["gap_bytes"]
    assert isinstance(gap, int)
    assert gap < 0
    assert all(one["bytes"] < 0 for one in found["differences"])  # type: ignore[attr-defined]


def test_agreement_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--observed", "7.3GiB", *RUN)

    assert found["agrees"] is True
    assert str(found["conclusion"]).endswith("That agrees within the interval: nothing has to be explained.")
    main(["why", "--observed", "7.3GiB", *RUN])
    assert "What may have differed" not in capsys.readouterr().out


def test_nothing_that_explains_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--observed", "20.0TiB", "--metric", "allocated", *RUN)

    assert not any(one["explains"] for one in found["differences"])  # type: ignore[attr-defined]
    assert str(found["conclusion"]).endswith("nothing that is known here explains it, alone or in pairs.")


def test_two_changes_are_named_where_one_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--loss", "full", "--weights-dtype", "fp32", "--optimizer", "sgd", "--format", "json"]
    main(["--model", "8b", "--gpu", "h100", "--method", "lora", "--no-gradient-checkpointing", *arguments])
    real = json.loads(capsys.readouterr().out)["candidates"][0]["peak"]["allocated_bytes"]

    found = answer(
        capsys,
        *("--observed", f"{real}B", "--metric", "allocated", "--model", "8b", "--gpu", "h100"),
        *("--method", "lora", "--loss", "full", "--optimizer", "sgd"),
    )

    pairs = [one["codes"] for one in found["pairs"]]  # type: ignore[attr-defined]
    assert ["WHY101", "WHY118"] in pairs or ["WHY118", "WHY101"] in pairs


def test_the_phase_of_a_traceback_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, EVALUATION, *RUN)

    assert found["phase"] == "evaluation"
    assert found["observed"]["phase"] == "evaluation"  # type: ignore[index]
    clue = found["clues"][0]  # type: ignore[index]
    assert clue["code"] == "WHY001"
    assert "fp32 logits of an evaluation batch (8 x 2,048 x 128,256 x 4 bytes)" in clue["text"]
    assert str(found["command"]).endswith("--moments evaluation")


def test_a_phase_that_cannot_be_planned_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, EVALUATION, *RUN, "--gpus", "2")

    assert any("the step is compared alone" in note for note in found["notes"])  # type: ignore[attr-defined]


def test_a_request_that_is_a_tensor_of_another_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = TORCH_2_9.replace("2.00 GiB", "5.00 GiB")  # 32 heads x 6,476 x 6,476 x 4 bytes
    found = answer(capsys, text, *RUN, "--seq-len", "6476")

    best = found["differences"][0]  # type: ignore[index]
    assert best["codes"] == ["WHY115"]
    assert best["matched"] == "fp32 attention scores of one layer (1 x 32 x 6,476 x 6,476 x 4 bytes)"


def test_the_table_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    code = main(["why", TORCH_2_9, *RUN])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert any("said by" in line for line in lines)
    assert any("observed" in line and "≥ 22.0" in line for line in lines)


def test_markdown_is_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(["why", TORCH_2_9, *RUN, "--format", "markdown"])

    printed = capsys.readouterr().out
    assert "| code | clue |" in printed
    assert "| code | it may be that | moves | leaves |" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--observed", "22.3GiB"], "--model is missing"),
        (["--observed", "22.3", *RUN], "--observed '22.3' has no unit"),
        (["--observed", "22.3GiB", "--metric", "vram", *RUN], "unknown metric 'vram'"),
        (["--observed", "22.3GiB", "--model", "8b", "--gpu", "4090"], "--method is missing"),
        (
            ["--observed", "22.3GiB", "--model", "8b", "--gpu", "4090", "--method", "lora", "--method", "full"],
            "--method",
        ),
        (["CUDA out of memory.", "--observed", "22.3GiB", *RUN], "not both"),
        (["CUDA out of memory.", "--message", "x", *RUN], "given twice"),
        ([TORCH_2_9, "--metric", "device"], "give both"),
        ([TORCH_2_9, "--model", "8b", "--method", "lora"], "23.64 GiB in all, as the message says, have "),
        (["nothing here", *RUN], "no out-of-memory message"),
        (["--message", "/nowhere/at.all", *RUN], "No such file"),
    ],
)
def test_misuse_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["why", *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_terminal_is_not_waited_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())

    assert main(["why", *RUN]) == 2
    assert "what happened?" in capsys.readouterr().err


def test_a_number_is_the_range_that_it_was_rounded_from() -> None:
    found = rounded("22.3GiB")

    assert found.low == pytest.approx(22.25 * GIB)
    assert found.high == pytest.approx(22.35 * GIB)
    assert rounded("0").middle == 0


def test_codes_are_told_once_and_documented() -> None:
    codes = [change.code for change in CHANGES]

    assert len(set(codes)) == len(codes)
    assert set(codes) <= set(CHANGE_CODES)
    assert not set(CHANGE_CODES) & set(CLUE_CODES)


EAGER = (
    "Traceback (most recent call last):\n"
    '  File "/v/transformers/models/llama/modeling_llama.py", line 180, in eager_attention_forward\n'
    "    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32)\n"
)


def test_a_frame_that_was_not_planned_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, EAGER + TORCH_2_9, *RUN)

    assert found["differences"][0]["codes"] == ["WHY115"]  # type: ignore[index]
    assert found["differences"][0]["frame"] == "eager_attention_forward"  # type: ignore[index]
    assert "WHY010" in [clue["code"] for clue in found["clues"]]  # type: ignore[attr-defined]


def test_a_frame_that_was_planned_is_no_clue(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, EAGER + TORCH_2_9, *RUN, "--attention", "eager")

    assert "WHY010" not in [clue["code"] for clue in found["clues"]]  # type: ignore[attr-defined]

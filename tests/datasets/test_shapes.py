"""What a row is for, and which of its tokens bear loss."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.datasets import read
from planner.datasets.counting import ENDING, LARGE, PER_MESSAGE, SMALL, kinds
from planner.datasets.shapes import Unusable, example, shape_of
from planner.spec.job import Task
from tests.datasets.writing import ASKED, CHAT, COMPARED, PAIR, TEXT, jsonl

SHAPES: list[tuple[dict[str, Any], str]] = [
    (CHAT, "chat"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "chat"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]}, "chat"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}]}, "chat"),
    (PAIR, "prompt-completion"),
    ({"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, "prompt-completion"),
    ({"instruction": "Add.", "input": "1 1", "output": "2"}, "prompt-completion"),
    ({"instruction": "Add.", "input": "", "output": "2"}, "prompt-completion"),
    ({"input": "1 + 1", "output": "2"}, "prompt-completion"),
    ({"question": "1 + 1?", "answer": "2"}, "prompt-completion"),
    (COMPARED, "preference"),
    ({"chosen": CHAT["messages"], "rejected": CHAT["messages"]}, "preference"),
    (ASKED, "prompt"),
    (TEXT, "text"),
    ({"id": 3, "meta": {"deep": [1]}, "text": "x", "score": float("nan")}, "text"),
]


@pytest.mark.parametrize(("row", "shape"), SHAPES)
def test_shapes(row: dict[str, Any], shape: str) -> None:
    assert shape_of(row) == shape
    assert example(row, None).shape == shape


def supervised(rows: list[dict[str, Any]], task: Task | None, folder: Path) -> tuple[int | None, int, int]:
    data = read(jsonl(folder / "x.jsonl", rows), task=task)
    return data.supervised_tokens, data.tokens, data.answer_tokens


def test_sft_learns_all_of_a_chat_as_trl_does(tmp_path: Path) -> None:
    learned, tokens, answers = supervised([CHAT], "sft", tmp_path)

    assert learned == tokens > answers > 0


def test_sft_learns_completions_only_as_trl_does(tmp_path: Path) -> None:
    learned, tokens, answers = supervised([PAIR], "sft", tmp_path)

    assert learned == answers < tokens


def test_continued_pretraining_learns_every_token(tmp_path: Path) -> None:
    learned, tokens, _ = supervised([PAIR, TEXT], "cpt", tmp_path)

    assert learned == tokens


def test_dpo_has_two_sequences_a_row_and_learns_what_differs(tmp_path: Path) -> None:
    data = read(jsonl(tmp_path / "x.jsonl", [COMPARED]))

    assert (data.task, data.rows, data.lengths.sequences) == ("dpo", 1, 2)
    assert data.supervised_tokens is not None
    assert data.supervised_tokens < data.tokens


def test_sft_on_preferences_takes_the_chosen_side(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path / "x.jsonl", [COMPARED]), task="sft").lengths.sequences == 1


def test_a_prompt_that_both_sides_share_is_no_answer() -> None:
    said = example({"chosen": "Q: 1+1? A: 2", "rejected": "Q: 1+1? A: 3"}, "dpo")

    assert [[turn.text for turn in one.turns] for one in said.sequences] == [["Q: 1+1? A:", " 2"], ["Q: 1+1? A:", " 3"]]


def test_rl_sees_prompts_only(tmp_path: Path) -> None:
    data = read(jsonl(tmp_path / "x.jsonl", [ASKED, ASKED]))

    assert (data.task, data.supervised_tokens) == ("rl", None)
    assert read(jsonl(tmp_path / "y.jsonl", [PAIR]), task="rl").tokens == read(tmp_path / "x.jsonl").tokens // 2


def test_every_message_costs_what_a_template_puts_around_it(tmp_path: Path) -> None:
    """By hand: 'Name a colour.' is 11 letters, 2 blanks, 1 sign: 11/4.34 + 2/23.7 + 1/1.24 = 3.43; 'Blue.' is 1.73."""
    data = read(jsonl(tmp_path / "x.jsonl", [CHAT]))

    assert data.tokens == round(3.43 + 1.73 + 2 * PER_MESSAGE)
    assert read(jsonl(tmp_path / "y.jsonl", [PAIR])).tokens == round(3.43 + 1.73) + ENDING


BAD: list[tuple[dict[str, Any], Task | None, str]] = [
    ({}, None, "without columns"),
    ({"id": 1, "label_name": "x"}, None, "no column that we know among id, label_name"),
    ({"promt": "x"}, None, "is promt meant for prompt"),
    ({"messages": []}, None, "nothing in messages"),
    ({"messages": "hello"}, None, "is text where a list"),
    ({"messages": [3]}, None, "a number where a message"),
    ({"messages": [{"content": "x"}]}, None, "has no role"),
    ({"messages": [{"role": "user"}]}, None, "has no content"),
    ({"messages": [{"role": "user", "content": 3}]}, None, "a number as content"),
    ({"messages": [{"role": "user", "content": ""}]}, None, "no text in any message"),
    ({"prompt": {"a": 1}, "completion": "x"}, None, "prompt is an object where text"),
    ({"completion": "x"}, None, "completion alone"),
    ({"text": "  \n"}, None, "blank"),
    ({"text": None}, None, "nothing in text"),
    (ASKED, "sft", "a prompt without a completion"),
    (CHAT, "dpo", 'without "chosen" and "rejected"'),
]


@pytest.mark.parametrize(("row", "task", "why"), BAD)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], task: Task | None, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        example(row, task)


def test_unpaired_preferences_need_a_label(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path / "x.jsonl", [{**PAIR, "label": True}]), task="dpo").rows == 1


PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
HEADINGS = {
    "ASCII letters": "letters",
    "accented letters": "accented",
    "digits": "digits",
    "other ASCII signs": "signs",
    "blanks and line ends": "blanks",
    "Cyrillic, Greek": "cyrillic",
    "Arabic, Hebrew": "arabic",
    "Indic, Thai, Georgian": "indic",
    "Hangul": "hangul",
    "Han": "han",
    "Kana": "kana",
    "others": "other",
}


def test_the_page_shows_the_ratios_that_count() -> None:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines()]
    shown = {HEADINGS[line[0]]: (float(line[1]), float(line[2])) for line in cells if line and line[0] in HEADINGS}

    assert shown == {kind: (LARGE[kind], SMALL[kind]) for kind in LARGE}


@given(st.text())
def test_every_character_is_of_one_kind(text: str) -> None:
    assert sum(kinds(text).values()) == len(text)
    assert set(kinds(text)) <= set(LARGE)


KINDS = {
    "Zug": "letters",
    "éß": "accented",
    "жλ": "cyrillic",
    "שع": "arabic",
    "हไმ": "indic",
    "한": "hangul",
    "漢": "han",
    "かナ": "kana",
    "42": "digits",
    ";-)": "signs",
    "\t \n": "blanks",
    "🙂→": "other",
}


@pytest.mark.parametrize(("text", "kind"), KINDS.items())
def test_kinds_of_characters(text: str, kind: str) -> None:
    assert kinds(text) == {kind: len(text)}


def test_a_small_vocabulary_needs_more_tokens(tmp_path: Path) -> None:
    """gpt2 has 50,257 entries, llama3.1-8b 128,256."""
    path = jsonl(tmp_path / "x.jsonl", [{"text": "Plain words, and 漢字 too."}])
    small, large = (read(path, model=name) for name in ("gpt2", "llama3.1-8b"))

    if small.counting.kind == large.counting.kind == "ratio":  # no tokenizer in this machine's cache
        assert small.tokens > large.tokens


def test_text_in_more_scripts_has_a_wider_interval(tmp_path: Path) -> None:
    errors = [
        read(jsonl(tmp_path / "x.jsonl", [{"text": text * 50}])).counting.error
        for text in (
            "the cat is on the mat ",
            "def f(x):\n    return x[0] + g(x)\n",
            "habari za asubuhi rafiki yangu ",
            "très français déjà ",
            "漢字かな ",
        )
    ]

    assert errors == [0.25, 0.25, 0.50, 0.50, 0.70]

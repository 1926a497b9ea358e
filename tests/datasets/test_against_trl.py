"""What TRL's trainers make of a file: the same sequences, tokens and labels as we count."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from planner.datasets import read
from planner.spec.job import Task
from tests.datasets.test_tokenizers import TEMPLATE, folder
from tests.datasets.writing import CHAT, COMPARED, PAIR, TEXT, jsonl

__all__ = ["folder"]  # a fixture

IGNORED = -100
"""The label of tokens without loss, as torch's cross entropy has it."""
LONGER = {"messages": [*CHAT["messages"], {"role": "user", "content": "And two more?"}, *CHAT["messages"][1:]]}
DULL = {"role": "assistant", "content": "I know of none."}
FILES: dict[str, tuple[Task, list[dict[str, Any]]]] = {
    "chat": ("sft", [CHAT, LONGER]),
    "completion": ("sft", [{**PAIR, "completion": text} for text in (" Blue.", " Blue and red and green.")]),
    "messages as prompt": ("sft", [{"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}]),
    "text": ("sft", [TEXT, {"text": "word " * 50}]),
    "preference": ("dpo", [{**COMPARED, "chosen": " Blue.", "rejected": " A table, I should think."}]),
    "preferred chats": ("dpo", [{"chosen": CHAT["messages"], "rejected": [CHAT["messages"][0], DULL]}]),
}


@pytest.fixture(scope="module")
def apart() -> Iterator[Executor]:
    """A process of its own: a trainer settles Accelerate's state for good, and leaves much in memory."""
    missing = [name for name in ("transformers", "trl", "datasets") if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def tiny(folder: Path) -> tuple[Any, Any]:
    import transformers  # noqa: PLC0415  (in its own process alone)

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        chat_template=TEMPLATE,
    )
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8
    )
    return transformers.LlamaForCausalLM(config), tokenizer


def prepared(task: Task, path: Path, folder: Path, out: Path) -> list[dict[str, Any]]:
    """The rows that the trainer of a task would feed its model."""
    import datasets  # noqa: PLC0415  (in its own process alone)
    import trl  # noqa: PLC0415

    model, tokenizer = tiny(folder)
    data = datasets.Dataset.from_json(str(path), cache_dir=str(out / "cache"))
    common: dict[str, Any] = {
        "output_dir": str(out),
        "max_length": None,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
    }
    if task == "dpo":
        reference, _ = tiny(folder)
        settings = trl.DPOConfig(**common)
        trainer = trl.DPOTrainer(model, reference, settings, train_dataset=data, processing_class=tokenizer)
    else:
        trainer = trl.SFTTrainer(model, trl.SFTConfig(**common), train_dataset=data, processing_class=tokenizer)
    return list(trainer.train_dataset)


def sequences(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Tokens and tokens with loss of each sequence."""
    found = []
    for row in rows:
        if "labels" in row:
            found.append((len(row["input_ids"]), sum(label != IGNORED for label in row["labels"])))
        else:
            sides = (row["chosen_ids"], row["rejected_ids"])
            found.extend((len(row["prompt_ids"]) + len(side), len(side)) for side in sides)
    return found


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_trl_sees_the_tokens_that_we_count(name: str, folder: Path, tmp_path: Path, apart: Executor) -> None:
    task, rows = FILES[name]
    path = jsonl(tmp_path / "x.jsonl", rows)

    theirs = sequences(apart.submit(prepared, task, path, folder, tmp_path).result())
    data = read(path, tokenizer=str(folder), task=task)

    assert data.lengths.counts == tuple(sorted(Counter(tokens for tokens, _ in theirs).items()))
    assert data.supervised_tokens == sum(learned for _, learned in theirs)

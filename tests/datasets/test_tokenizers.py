"""The model's tokenizer counts where it is here, and each way in which it cannot be used is one line."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.datasets import read
from planner.datasets.counting import ENDING, PER_MESSAGE
from planner.datasets.shapes import example
from planner.datasets.templates import template_of
from planner.datasets.tokenizers import repositories
from planner.errors import PlannerError
from tests.datasets.writing import CHAT, PAIR, TEXT, jsonl

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a tokenizer of whole words, which adds a token at the beginning, and a template."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import models, pre_tokenizers, processors  # noqa: PLC0415  (optional)

    words = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    made = tokenizers.Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens(words)
    made.enable_truncation(4)
    made.enable_padding(length=9)
    model = tmp_path / "model"
    model.mkdir()
    made.save(str(model / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def counted(path: Path, folder: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    return read(jsonl(path / "x.jsonl", rows), tokenizer=str(folder), **options)


def test_text_takes_its_tokens_the_special_ones_and_an_end(folder: Path, tmp_path: Path) -> None:
    """Four words, ``<s>`` and the end; a tokenizer.json that truncates and pads does not do so here."""
    data = counted(tmp_path, folder, [TEXT])

    assert data.tokens == 4 + 1 + ENDING
    assert (data.counting.kind, data.counting.error) == ("tokenizer", 0.0)


def test_completions_take_theirs_and_the_end(folder: Path, tmp_path: Path) -> None:
    """'Name a colour.Blue.' is three words as the two stand together; 'Blue.' alone is one."""
    data = counted(tmp_path, folder, [PAIR])

    assert (data.tokens, data.supervised_tokens) == (3 + 1 + ENDING, 1 + ENDING)


def test_chats_go_through_the_template(folder: Path, tmp_path: Path) -> None:
    """<s> <|im_start|> user Name a colour. <|im_end|>, and <|im_start|> assistant Blue. <|im_end|>: 1 + 6 + 4."""
    data = counted(tmp_path, folder, [CHAT])

    assert data.counting.template == "the model's chat template"
    assert (data.tokens, data.answer_tokens) == (11, 1 + 1)


@pytest.mark.torch
def test_chats_count_as_transformers_counts_them(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tools = [{"type": "function", "function": {"name": "paint", "parameters": {}}}]
    reference = tokenizer.apply_chat_template(CHAT["messages"], tools=tools, tokenize=False)

    data = counted(tmp_path, folder, [{**CHAT, "tools": tools}])

    assert data.tokens == len(
        tokenizer(reference, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    )


def undated(text: str | None) -> str | None:
    """A rendering without the day, which is today's there and any day's here."""
    return text and re.sub(r"\d{4}-\d\d-\d\d|\d\d? \w+ \d{4}", "DAY", text)


@pytest.mark.torch
def test_templates_render_as_transformers_renders_them(tmp_path: Path) -> None:
    """All templates that TRL ships; one that refuses the chat does so in both."""
    trl, utils = pytest.importorskip("trl"), pytest.importorskip("transformers.utils.chat_template_utils")
    files = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    messages = [{"role": "system", "content": "Be brief."}, *CHAT["messages"]]
    passage = example({"messages": messages}, "sft").sequences[0]
    same = 0
    for file in files:
        (tmp_path / "chat_template.jinja").write_text(file.read_text())
        ours = template_of(tmp_path)
        assert ours is not None
        try:
            (theirs,), _ = utils.render_jinja_template(
                [messages], chat_template=file.read_text(), bos_token="", eos_token=""
            )
        except Exception:
            theirs = None
        assert undated(ours.render(passage)) == undated(theirs), file.name
        same += theirs is not None

    assert same > len(files) / 2


def test_a_template_that_refuses_a_chat_is_told(folder: Path, tmp_path: Path) -> None:
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + TEMPLATE
    (folder / "chat_template.jinja").write_text(strict)
    other = {"messages": [{"role": "assistant", "content": "Blue."}]}

    data = counted(tmp_path, folder, [CHAT, other])

    assert data.tokens == 11 + (1 + 1 + PER_MESSAGE)
    assert "1 that it refuses" in data.counting.template


REFUSED = [
    ("{{ ().__class__.__mro__ }}", "refuses every row"),
    ("{{ messages.append(1) }}", "refuses every row"),
    ("{% broken", "is no jinja"),
    ("", "no chat template stands beside it"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_a_template_runs_in_a_sandbox(text: str, why: str, folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))

    data = counted(tmp_path, folder, [CHAT])

    assert why in data.counting.template
    assert data.tokens == 3 + 1 + 2 * PER_MESSAGE  # 'Name a colour.Blue.' and <s>


def test_without_jinja_messages_cost_a_stated_number(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)

    data = counted(tmp_path, folder, [CHAT])

    assert data.counting.template == f"{PER_MESSAGE} tokens for each message (jinja2 is not installed)"
    assert data.tokens == 3 + 1 + 2 * PER_MESSAGE  # 'Name a colour.Blue.' and <s>


def test_the_tokenizer_beside_a_model_is_taken(folder: Path, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [TEXT])

    assert read(path, model=str(folder)).counting.kind == "tokenizer"
    assert read(path, model="8b").counting.kind in ("ratio", "tokenizer")


def test_a_broken_tokenizer_beside_a_model_is_said_and_ratios_count(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")

    data = read(jsonl(tmp_path / "x.jsonl", [TEXT]), model=str(folder))

    assert data.counting.kind == "ratio"
    assert "no tokenizer.json that the tokenizers library can read" in data.notes[0]


WRONG = [
    ("missing.json", "neither a file nor a folder"),
    ("empty", "without tokenizer.json"),
    ("broken.json", "can read"),
]


@pytest.mark.parametrize(("name", "why"), [*WRONG, ("gpt2-of-nobody/at-all", "hf download"), ("", "neither")])
def test_a_tokenizer_that_is_named_must_work(name: str, why: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "tokenizer.model").write_bytes(b"sentencepiece")
    (tmp_path / "broken.json").write_text('{"version": "1.0"}')
    path = jsonl(tmp_path / "x.jsonl", [TEXT])
    named = str(tmp_path / name) if name in ("missing.json", "empty", "broken.json") else name

    with pytest.raises(PlannerError, match=why) as caught:
        read(path, tokenizer=named)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "hint"), [("tokenizers", "pip install tokenizers"), ("pyarrow.parquet", "pip install pyarrow")]
)
def test_a_missing_library_is_one_line(module: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    path = tmp_path / "x.parquet" if module == "pyarrow.parquet" else jsonl(tmp_path / "x.jsonl", [TEXT])

    with pytest.raises(PlannerError, match=hint):
        read(path, tokenizer=str(tmp_path / "tokenizer.json") if module == "tokenizers" else None)


def test_half_a_surrogate_pair_is_counted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a \\ud800 b"}\n')

    assert read(tmp_path / "x.jsonl", tokenizer=str(folder)).tokens == 3 + 1 + ENDING


def cache(folder: Path, repository: str, root: Path) -> None:
    """The folder as the Hub's cache would hold it."""
    base = root / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("abc")
    (base / "snapshots").mkdir()
    folder.rename(base / "snapshots" / "abc")


@pytest.mark.parametrize("model", ["llama3.1-8b", "8b", "meta-llama/Llama-3.1-8B", "unsloth/Llama-3.1-8B"])
def test_a_tokenizer_in_the_hubs_cache_is_taken(
    model: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    repository = model if "/" in model else repositories(model)[0]
    cache(folder, repository, tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    data = read(jsonl(tmp_path / "x.jsonl", [CHAT]), model=model)

    assert data.counting.name == f"tokenizer.json of {repository}"
    assert data.counting.template == "the model's chat template"
    assert read(tmp_path / "x.jsonl", tokenizer=repository).tokens == data.tokens == 11


def test_the_cache_is_asked_for_every_name_of_a_model() -> None:
    names = repositories("llama3.1-8b")

    assert names[0].lower().startswith("meta-llama/")
    assert all("/" in name for name in names)
    assert repositories("someone/their-model") == ["someone/their-model"]
    assert repositories("no such thing") == []

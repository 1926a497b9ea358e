"""The model's own tokenizer, where it is on this machine: tokenizer.json through the ``tokenizers`` library."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.catalog import REPOSITORY, find_name, index, load_model, looks_like_path
from planner.datasets.counting import PER_MESSAGE, Counter, RatioCounter
from planner.datasets.rows import reason, shown
from planner.datasets.shapes import Passage
from planner.datasets.templates import Template, template_of
from planner.errors import BrokenInput, PlannerError, UsageError
from planner.spec.dataset import Counting

FILE = "tokenizer.json"
INSTALL = "pip install tokenizers"
FILE_LIMIT = 256 * 2**20
"""No tokenizer is larger: Gemma's 262,144 entries take 33 MB."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a tokenizer lies, and under which name it was asked for."""

    file: Path
    name: str


def counter_for(model: str | None, tokenizer: str | None) -> tuple[Counter, str]:
    """The best counter that there is, and why it is not the model's tokenizer where it is not.

    A tokenizer that the user names must work; one that only happens to be here may be passed over.
    """
    if tokenizer is not None:
        return _loaded(named(tokenizer)), ""
    found = beside(model) if model else None
    if found is None:
        missing = f"the tokenizer of {model} is not on this machine" if model else "no model was named"
        return RatioCounter(vocabulary(model)), f"{missing}: ratios counted; --tokenizer PATH counts exactly"
    try:
        return _loaded(found), ""
    except (UsageError, BrokenInput) as error:
        return RatioCounter(vocabulary(model)), str(error)


def vocabulary(model: str | None) -> int | None:
    """Entries of a model's vocabulary, where they are known without the network."""
    if model is None or (find_name(model) is None and not looks_like_path(model)):
        return None
    try:
        return load_model(model).model.vocab_size
    except PlannerError:
        return None


def named(text: str) -> Found:
    """The tokenizer of ``--tokenizer``: a file, a folder with one, or a repository in the Hub's cache."""
    path = Path(text).expanduser() if text.strip() and "\0" not in text else None
    try:
        if path is not None and path.is_dir():
            return _in_folder(path)
        if path is not None and path.is_file():
            return Found(path, shown(path))
    except OSError as error:
        raise UsageError(f"--tokenizer {text[:80]!r}: {error.strerror}") from None
    cached = _cached(text)
    if cached is None:
        raise UsageError(
            f"--tokenizer {text[:80]!r} is neither a file nor a folder, nor in the Hub's cache: name a tokenizer.json,"
            f" or fetch one: hf download {text if REPOSITORY.fullmatch(text) else 'NAME'} {FILE}"
        )
    return cached


def _in_folder(folder: Path) -> Found:
    if (folder / FILE).is_file():
        return Found(folder / FILE, shown(folder / FILE))
    only = [name for name in ("tokenizer.model", "vocab.json", "spiece.model") if (folder / name).is_file()]
    hint = (
        f"; it has {only[0]}, which AutoTokenizer.from_pretrained(...).save_pretrained(...) turns into one"
        if only
        else ""
    )
    raise UsageError(f"--tokenizer {shown(folder)!r} is a folder without {FILE}{hint}")


def beside(model: str) -> Found | None:
    """The tokenizer of a model: in its own folder, or in the Hub's cache under any name that the model has."""
    path = Path(model).expanduser()
    try:
        folder = path.parent if path.is_file() else path
        if (looks_like_path(model) or path.is_dir()) and (folder / FILE).is_file():
            return Found(folder / FILE, shown(folder / FILE))
    except (OSError, ValueError):
        return None
    for name in repositories(model):
        found = _cached(name)
        if found is not None:
            return found
    return None


def repositories(model: str) -> list[str]:
    """Repositories on the Hub that hold the model: its own, then others under which the catalogue knows it."""
    known = find_name(model)
    if known is None:
        return [model] if REPOSITORY.fullmatch(model) else []
    listing = index().models[known]
    others = [name for name, found in index().names.items() if found == known and "/" in name]
    return list(dict.fromkeys([*([model] if "/" in model else []), listing.hub_id, *others]))


def _cached(repository: str) -> Found | None:
    if not REPOSITORY.fullmatch(repository):
        return None
    from planner.hub import cached_file  # noqa: PLC0415  (huggingface_hub is optional and slow to import)

    file = cached_file(repository, FILE)
    return Found(file, f"{FILE} of {repository}") if file is not None else None


def _loaded(found: Found) -> "TokenizerCounter":
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415  (optional)
    except ImportError:
        raise UsageError(f"tokenizer {found.name}: counting with it needs the tokenizers library: {INSTALL}") from None
    try:
        if found.file.stat().st_size > FILE_LIMIT:
            raise ValueError(f"larger than {FILE_LIMIT // 2**20} MiB")
        tokenizer = Tokenizer.from_file(str(found.file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except Exception as error:  # the library raises plain Exception
        problem = f"is no tokenizer.json that the tokenizers library can read: {reason(error)}"
        raise BrokenInput(f"tokenizer {found.name} {problem}") from None
    return TokenizerCounter(tokenizer, found.name, template_of(found.file.parent))


class TokenizerCounter:
    """Counts by a tokenizer; chats through the model's template where it can be rendered."""

    slow = True

    def __init__(self, tokenizer: Any, name: str, template: Template | None) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self._name = name
        self._template = template
        self._chats = 0
        self._rendered = 0

    def tokens(self, passages: Sequence[Passage]) -> list[tuple[int, int]]:
        """All tokens of each passage, and those of its answers."""
        whole = [self._whole(one) for one in passages]
        texts = [text for text, _, _ in whole]
        special = [special for _, _, special in whole]
        totals = self._lengths(texts, special)
        answers = self._answers(passages)
        return [
            (max(1, total + extra), min(answer, max(1, total + extra)))
            for total, (_, extra, _), answer in zip(totals, whole, answers, strict=True)
        ]

    def _whole(self, passage: Passage) -> tuple[str, int, bool]:
        """The text of a passage, tokens to add to its own, and whether the tokenizer adds its special ones."""
        joined = "".join(turn.text for turn in passage.turns)
        if not passage.chat:
            return joined, 1, True
        self._chats += 1
        rendered = self._template.render(passage) if self._template is not None else None
        if rendered is not None:
            self._rendered += 1
            return rendered, 0, False
        return joined + passage.tools, PER_MESSAGE * len(passage.turns), True

    def _answers(self, passages: Sequence[Passage]) -> list[int]:
        """Tokens of answers, each with the token that ends it."""
        texts = [turn.text for one in passages for turn in one.turns if turn.answer]
        found = iter(self._lengths(texts, [False] * len(texts)))
        return [sum(next(found) + 1 for turn in one.turns if turn.answer) for one in passages]

    def _lengths(self, texts: Sequence[str], special: Sequence[bool]) -> list[int]:
        found = [0] * len(texts)
        for adds in (True, False):
            chosen = [at for at, one in enumerate(special) if one is adds]
            clean = [texts[at].encode("utf-8", errors="replace").decode("utf-8") for at in chosen]
            encode = getattr(self._tokenizer, "encode_batch_fast", self._tokenizer.encode_batch)
            for at, encoded in zip(chosen, encode(clean, add_special_tokens=adds), strict=True):
                found[at] = len(encoded)
        return found

    def told(self, characters: int, tokens: int) -> Counting:
        """How it was counted."""
        return Counting(
            kind="tokenizer",
            name=self._name,
            template=self._templated(),
            characters_per_token=characters / max(tokens, 1),
        )

    def _templated(self) -> str:
        if not self._chats:
            return ""
        if self._rendered == self._chats:
            return "the model's chat template"
        rest = f"{PER_MESSAGE} tokens for each message"
        if self._rendered:
            return f"the model's chat template, and {rest} in {self._chats - self._rendered:,} that it refuses"
        problem = self._template.problem if self._template else "no chat template stands beside it"
        return f"{rest} ({problem or 'the chat template refuses every row'})"

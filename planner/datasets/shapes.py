"""What a row is for: chat, prompt and completion, preference, prompt alone or plain text, told by its columns.

Names are those of TRL's formats (trl 1.16 docs/source/dataset_formats.md), of ShareGPT, of Alpaca, and of question and
answer pairs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from planner.errors import nearest
from planner.families.fields import printable
from planner.spec.dataset import Shape
from planner.spec.job import Task

MESSAGES = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
PROMPTS = ("prompt", "instruction", "question", "query", "problem")
COMPLETIONS = ("completion", "output", "response", "answer", "solution")
INPUTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
TEXTS = ("text", "content", "document")
PREFERENCE = ("chosen", "rejected")
TOOLS = "tools"
LABEL = "label"
"""Whether a completion is a good one, in KTO's unpaired preferences."""
COLUMNS = frozenset((*MESSAGES, *PROMPTS, *COMPLETIONS, *INPUTS, *SYSTEMS, *TEXTS, *PREFERENCE, TOOLS, LABEL))
"""Every column that says something about training."""

NAMED = 6
"""Columns that a complaint lists."""

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant"}
"""Other names of the roles: ShareGPT's and Gemini's."""
ANSWERS = frozenset({"assistant"})
ACCEPTED = (
    "accepted columns: messages or conversations (role and content, or from and value); prompt and completion"
    " (or instruction, input and output; question and answer); chosen and rejected; text"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One piece of text; ``answer``: the model is to learn to write it."""

    role: str
    text: str
    answer: bool
    message: Mapping[str, object] | None = None
    """What a chat template is given."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One sequence of training. ``chat``: a template joins its turns; else they stand behind one another."""

    turns: tuple[Turn, ...]
    chat: bool
    tools: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A row that can be used."""

    shape: Shape
    sequences: tuple[Passage, ...]


class Unusable(ValueError):
    """Why a row cannot be used."""


def example(row: Mapping[str, object], task: Task | None) -> Example:
    """The row as sequences of ``task``; raise ``Unusable`` where it is none.

    >>> example({"question": "1 + 1?", "answer": "2"}, "sft").shape
    'prompt-completion'
    """
    shape = shape_of(row)
    if task == "dpo" and shape != "preference" and LABEL not in row:
        raise Unusable(f'{shape} without "chosen" and "rejected", which dpo compares')
    if shape == "preference":
        return Example(shape, _preference(row, both=task in (None, "dpo")))
    if shape == "prompt" and task not in (None, "rl"):
        raise Unusable("a prompt without a completion, which only rl can use")
    made = {"chat": _chat, "prompt-completion": _completed, "prompt": _prompt, "text": _text}[shape](row)
    return Example(shape, (_asked(made) if task == "rl" else made,))


def shape_of(row: Mapping[str, object]) -> Shape:
    """What the names of the columns say."""
    if _first(row, PREFERENCE[:1]) and _first(row, PREFERENCE[1:]):
        return "preference"
    if _first(row, MESSAGES):
        return "chat"
    if _first(row, COMPLETIONS) and _first(row, (*PROMPTS, *INPUTS)):
        return "prompt-completion"
    if _first(row, PROMPTS):
        return "prompt"
    if _first(row, TEXTS):
        return "text"
    raise Unusable(_unknown(row))


def _unknown(row: Mapping[str, object]) -> str:
    if not row:
        return "an object without columns"
    known = [name for name in row if name in COLUMNS]
    if known:
        return (
            f"nothing in {', '.join(known[:4])}" if all(row[one] in (None, "", []) for one in known) else _lone(known)
        )
    return _strange(tuple(str(name) for name in islice(row, NAMED + 1)))


@lru_cache(maxsize=1024)
def _strange(found: tuple[str, ...]) -> str:
    """What to say about columns of which none is known; the same for every row of a file."""
    names = [printable(name, limit=24) for name in found[:NAMED]]
    near = next((f"; is {name} meant for {known[0]}?" for name in names if (known := nearest(name, COLUMNS))), "")
    return f"no column that we know among {', '.join(names)}{', ...' if len(found) > NAMED else ''}{near}"


def _lone(known: Sequence[str]) -> str:
    return f"{' and '.join(known[:4])} alone: no prompt, messages or text beside it"


def _first(row: Mapping[str, object], names: Sequence[str]) -> str:
    """The first of ``names`` that the row has a value under."""
    return next((name for name in names if row.get(name) not in (None, "", [])), "")


# ---------------------------------------------------------------- shapes


def _chat(row: Mapping[str, object]) -> Passage:
    name = _first(row, MESSAGES)
    turns = _turns(row[name], name)
    system = _first(row, SYSTEMS)
    if system and turns[0].role != "system":
        turns = (_turn({"role": "system", "content": row[system]}, system), *turns)
    return Passage(turns, chat=True, tools=_tools(row))


def _completed(row: Mapping[str, object]) -> Passage:
    name, answer = _first(row, (*PROMPTS, *INPUTS)), _first(row, COMPLETIONS)
    asked, said = _listed(row[name]), _listed(row[answer])
    if isinstance(asked, list) and isinstance(said, list):
        prompt = _turns(asked, name)
        completion = _turns(said, answer)
        turns = (*(_as(turn, answer=False) for turn in prompt), *(_as(turn, answer=True) for turn in completion))
        return Passage(turns, chat=True, tools=_tools(row))
    beside = "" if name in INPUTS else _optional(row, INPUTS)
    prompt_text = "\n\n".join(part for part in (_optional(row, SYSTEMS), _string(asked, name), beside) if part)
    return Passage((Turn("prompt", prompt_text, False), Turn("completion", _string(said, answer), True)), chat=False)


def _prompt(row: Mapping[str, object]) -> Passage:
    name = _first(row, PROMPTS)
    value = _listed(row[name])
    if isinstance(value, list):
        return Passage(_turns(value, name), chat=True, tools=_tools(row))
    return Passage((Turn("prompt", _string(value, name), False),), chat=False)


def _text(row: Mapping[str, object]) -> Passage:
    name = _first(row, TEXTS)
    text = _string(row[name], name)
    if not text.strip():
        raise Unusable(f"{name} is blank")
    return Passage((Turn("", text, True),), chat=False)


def _preference(row: Mapping[str, object], *, both: bool) -> tuple[Passage, ...]:
    """Prompt with chosen, and prompt with rejected; where no column holds the prompt, it is what both begin with."""
    chosen, rejected = _listed(row["chosen"]), _listed(row["rejected"])
    asked = _first(row, PROMPTS)
    prompt = _listed(row[asked]) if asked else None
    sides = (chosen, rejected) if both else (chosen,)
    if isinstance(chosen, list) and isinstance(rejected, list):
        said = [_turns(side, "chosen") for side in sides]
        if isinstance(prompt, list):
            before: tuple[Turn, ...] = _turns(prompt, asked)
        elif isinstance(prompt, str) and not any(turns[0].role == "user" for turns in said):
            before = (_turn({"role": "user", "content": prompt}, asked),)
        else:
            before = ()
        return tuple(Passage(_parted((*before, *turns)), chat=True, tools=_tools(row)) for turns in said)
    texts = [_string(chosen, "chosen"), _string(rejected, "rejected")]
    start = _string(prompt, asked) if asked else _shared(*texts)
    cut = 0 if asked else len(start)
    return tuple(
        Passage((Turn("prompt", start, False), Turn("completion", text[cut:], True)), chat=False)
        for text in texts[: len(sides)]
    )


def _shared(one: str, other: str) -> str:
    """What two texts begin with. trl 1.16 data_utils.py, extract_prompt."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[: same - 1] if same and one[same - 1] == " " else one[:same]


def _parted(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Turns of which only the last is an answer."""
    return (*(_as(turn, answer=False) for turn in turns[:-1]), _as(turns[-1], answer=True))


def _asked(made: Passage) -> Passage:
    """What is given before the model writes: everything up to the last answer."""
    last = next((at for at in range(len(made.turns) - 1, -1, -1) if made.turns[at].answer), len(made.turns))
    turns = made.turns[:last] or made.turns
    return Passage(tuple(_as(turn, answer=False) for turn in turns), made.chat, made.tools)


def _as(turn: Turn, *, answer: bool) -> Turn:
    return Turn(turn.role, turn.text, answer, turn.message)


# ---------------------------------------------------------------- messages and text


def _listed(value: object) -> object:
    """Messages that stand as JSON in a cell of a table, as what they are."""
    if isinstance(value, str) and value[:2000].lstrip()[:1] == "[" and ('"role"' in value or '"from"' in value):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value


def _turns(value: object, name: str) -> tuple[Turn, ...]:
    value = _listed(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise Unusable(f"{name} is {_kind(value)} where a list of messages is expected")
    if not value:
        raise Unusable(f"{name} is an empty list")
    turns = tuple(_turn(one, name) for one in value)
    if not any(turn.text for turn in turns):
        raise Unusable(f"{name} has no text in any message")
    return turns


def _turn(message: object, name: str) -> Turn:
    if not isinstance(message, Mapping):
        raise Unusable(f"{name} holds {_kind(message)} where a message is expected")
    said = message.get("role", message.get("from"))
    if not isinstance(said, str) or not said.strip():
        raise Unusable(f"a message in {name} has no role")
    role = ROLES.get(said.strip().lower(), said.strip().lower())
    if "content" not in message and "value" not in message and not message.get("tool_calls"):
        raise Unusable(f"a message in {name} has no content")
    text = _content(message.get("content", message.get("value")), name)
    calls = message.get("tool_calls")
    thought = message.get("reasoning_content")
    whole = "\n".join(part for part in (thought if isinstance(thought, str) else "", text, _dumped(calls)) if part)
    extra = {key: value for key, value in message.items() if key not in ("role", "from", "content", "value")}
    return Turn(role, whole, role in ANSWERS, {**extra, "role": role, "content": text})


def _content(value: object, name: str) -> str:
    """Text of a message: itself, or the text parts of a list; pictures and sound have no tokens here."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_part(one, name) for one in value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return str(value["text"])
    raise Unusable(f"a message in {name} has {_kind(value)} as content")


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        text = part.get("text")
        return text if isinstance(text, str) else ""
    raise Unusable(f"a message in {name} has {_kind(part)} among its content")


def _string(value: object, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value) if not isinstance(value, int) or abs(value) < 10**300 else "0" * 300
    raise Unusable(f"{name} is {_kind(value)} where text is expected")


def _optional(row: Mapping[str, object], names: Sequence[str]) -> str:
    value = row.get(_first(row, names) or "")
    return value if isinstance(value, str) else ""


def _tools(row: Mapping[str, object]) -> str:
    return _dumped(row.get(TOOLS))


def _dumped(value: object) -> str:
    """Tools and their calls as the JSON that templates write."""
    if value in (None, "", []):
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return ""


def _kind(value: object) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")

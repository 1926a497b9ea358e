"""A Python script as data: keyword arguments of the calls that set up Unsloth, as far as they are literals.

The script is parsed, never run. Names that are bound once, at the top, to a literal stand for it; whatever is computed
stays as its text, an ``Expression``, and a reader that needs it says that it does not know.
"""

import ast
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from planner.errors import BrokenInput

MOST_NESTING = 32
"""Levels of a literal that we follow."""
MOST_TEXT = 120
"""Characters of an expression that are kept."""

LOADERS = ("FastLanguageModel", "FastModel", "FastVisionModel", "FastTextModel")
METHODS = ("from_pretrained", "get_peft_model")
CONFIGS = ("SFTConfig", "TrainingArguments", "UnslothTrainingArguments", "DPOConfig", "GRPOConfig")
TRAINERS = ("SFTTrainer", "UnslothTrainer", "DPOTrainer", "GRPOTrainer", "Trainer")

FIRST: Mapping[str, str] = {"from_pretrained": "model_name", "get_peft_model": "model"}
"""Names of arguments that stand first without a name."""


class Expression(str):
    """The text of a value that the script computes."""

    __slots__ = ()


def script_calls(text: str, name: str) -> dict[str, Any]:
    r"""Arguments by call, in the order of the script; raise ``BrokenInput`` for what is no Python.

    A second call of the same kind has a number: ``SFTConfig 2``. ``FastVisionModel`` is told by its own name.

    >>> script_calls("rank = 16\nm = FastLanguageModel.get_peft_model(m, r = rank, bias = f())", "train.py")
    {'get_peft_model': {'model': 'm', 'r': 16, 'bias': 'f()'}}
    """
    tree = _parsed(text, name)
    lines = text.splitlines(keepends=True)
    known = _constants(tree, lines)
    found: dict[str, Any] = {}
    for node in _calls(tree):
        kind = _kind(node)
        if kind is None:
            continue
        count = sum(one.partition(" ")[0] == kind for one in found)
        found[f"{kind} {count + 1}" if count else kind] = _arguments(node, kind, known, lines)
    return found


def _parsed(text: str, name: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in their strings
            return ast.parse(text)
    except SyntaxError as error:
        raise BrokenInput(f"{name} is no Python: line {error.lineno}: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise BrokenInput(f"{name} is nested too deep to be read") from None
    except ValueError as error:
        raise BrokenInput(f"{name} is no Python: {error}") from None


# ---------------------------------------------------------------- calls


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls in the order of the script, without those under ``if False``."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            yield node
        waiting += reversed(list(_alive(node)))


def _alive(node: ast.AST) -> Iterable[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Constant):
        return node.body if node.test.value else node.orelse
    return ast.iter_child_nodes(node)


def _kind(node: ast.Call) -> str | None:
    """What a call sets up, or ``None`` for every other."""
    target = node.func
    if isinstance(target, ast.Name):
        return target.id if target.id in (*CONFIGS, *TRAINERS) else None
    if not isinstance(target, ast.Attribute):
        return None
    if target.attr in (*CONFIGS, *TRAINERS):
        return target.attr
    owner = target.value.attr if isinstance(target.value, ast.Attribute) else getattr(target.value, "id", None)
    if owner not in LOADERS or target.attr not in METHODS:
        return None
    return f"FastVisionModel.{target.attr}" if owner == "FastVisionModel" else target.attr


def _arguments(node: ast.Call, kind: str, known: Mapping[str, Any], lines: list[str]) -> dict[str, Any]:
    """Arguments by name; those without one, and unpacked ones that are no literal, as expressions under ``*``."""
    found: dict[str, Any] = {}
    first = FIRST.get(kind.rpartition(".")[2])
    for place, argument in enumerate(node.args):
        named = first is not None and place == 0
        found[first if named and first else "*"] = _value(argument, known, lines)
    for keyword in node.keywords:
        value = _value(keyword.value, known, lines)
        if keyword.arg is not None:
            found[keyword.arg] = value
        elif isinstance(value, dict):
            found |= {str(key): one for key, one in value.items()}
        else:
            found["**"] = value
    return found


# ---------------------------------------------------------------- values


class _ComputedError(Exception):
    """A value is no literal."""


def _value(node: ast.expr, known: Mapping[str, Any], lines: list[str]) -> Any:  # noqa: ANN401  (a script's value)
    """A literal, what a name at the top stands for, or the text of an expression."""
    try:
        return _literal(node, known, 0)
    except _ComputedError:
        return _text(node, lines)


def _literal(node: ast.expr, known: Mapping[str, Any], depth: int) -> Any:  # noqa: ANN401
    if depth > MOST_NESTING:
        raise _ComputedError
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(one, known, depth + 1) for one in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_literal(_key(key), known, depth + 1)): _literal(one, known, depth + 1) for key, one in pairs}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _literal(node.operand, known, depth + 1)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
        return f"torch.{node.attr}"  # a dtype
    raise _ComputedError


def _key(node: ast.expr | None) -> ast.expr:
    if node is None:  # an unpacked mapping
        raise _ComputedError
    return node


def _text(node: ast.expr, lines: list[str]) -> Expression:
    """The source of an expression, or the first line of it. Columns of ``ast`` count bytes."""
    line = lines[node.lineno - 1].encode()
    last = node.end_col_offset if node.end_lineno == node.lineno else None
    return Expression(line[node.col_offset : last].decode(errors="replace").strip()[:MOST_TEXT])


def _constants(tree: ast.Module, lines: list[str]) -> dict[str, Any]:
    """Names that are bound once in the whole script, at the top, to a literal."""
    bound = Counter(_bound(tree))
    found: dict[str, Any] = {}
    for node in tree.body:
        target, value = _assigned(node)
        if target is None or value is None or bound[target] != 1:
            continue
        literal = _value(value, found, lines)
        if not isinstance(literal, Expression):
            found[target] = literal
    return found


def _assigned(node: ast.stmt) -> tuple[str | None, ast.expr | None]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    return None, None


NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
"""What binds its ``name``."""


def _bound(tree: ast.Module) -> Iterator[str]:
    """Every name that is bound anywhere, as often as it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, NAMED) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield from node.names * 2  # bound elsewhere, who knows how often

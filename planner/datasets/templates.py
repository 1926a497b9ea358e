"""A model's chat template, rendered in jinja2's sandbox as transformers does."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from planner.datasets.shapes import Passage

FILE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"
LIMIT = 4 * 2**20
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template and the special tokens that it may name; or the ``problem`` for which there is none."""

    compiled: Any
    names: Mapping[str, str]
    problem: str = ""

    def render(self, passage: Passage) -> str | None:
        """The chat as text; ``None`` where the template refuses it."""
        if self.compiled is None:
            return None
        messages = [dict(turn.message or {"role": turn.role, "content": turn.text}) for turn in passage.turns]
        try:
            return str(self.compiled.render(messages=messages, tools=_tools(passage.tools), **self.names))
        except Exception:  # a template is a program: what it raises depends on what it does
            return None


def _tools(text: str) -> object:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def template_of(folder: Path) -> Template | None:
    """The template that stands beside a tokenizer, in a file of its own or in its settings."""
    settings = _settings(folder / CONFIG)
    text = _text(folder / FILE) or _default(settings.get("chat_template"))
    if not text:
        return None
    names = {name: _token(settings.get(name)) for name in SPECIAL}
    try:
        return Template(_compiled(text), names)
    except ImportError:
        return Template(None, names, "jinja2 is not installed")
    except ValueError:
        return Template(None, names, "its chat template is no jinja")


def _compiled(text: str) -> Any:  # noqa: ANN401  (jinja2 has no types of ours)
    """The template as transformers compiles it: 5.23, utils/chat_template_utils.py, _compile_jinja_template."""
    from jinja2.exceptions import TemplateError  # noqa: PLC0415  (optional)
    from jinja2.ext import loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None, **_: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime(2024, 7, 26).strftime(form)
    try:
        return environment.from_string(_unmarked(text))
    except TemplateError:
        raise ValueError("no template") from None


def _unmarked(text: str) -> str:
    """A template without the marks around what the assistant generates, which only transformers' extension reads."""
    text = re.sub(r"\{%([-+]?)\s*generation\s*([-+]?)%\}", r"{%\1 if true \2%}", text)
    return re.sub(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}", r"{%\1 endif \2%}", text)


def _settings(file: Path) -> Mapping[str, object]:
    try:
        found = json.loads(_text(file) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(file: Path) -> str:
    try:
        if not file.is_file() or file.stat().st_size > LIMIT:
            return ""
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _default(value: object) -> str:
    """The template itself, or the one called default among several."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        found = named.get("default")
        return found if isinstance(found, str) else ""
    return ""


def _token(value: object) -> str:
    """A special token as text; older settings hold it as an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""

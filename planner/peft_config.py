"""Reading an ``adapter_config.json``: any file in, checked fields out, without loading PEFT."""

import ast
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from planner.errors import BrokenInput, UnknownName, UnsupportedScenario, UsageError, show
from planner.families import parse_config
from planner.spec import Method

FILE_NAME = "adapter_config.json"

FILE_LIMIT = 2**20
"""Bytes of the largest file that we read; PEFT's own are below 10 KB, CPT's with their token ids below 100 KB."""

PATTERN_LIMIT = 2000
"""Characters of the longest text in a file: names, paths, and patterns that PEFT matches against every module."""

_TYPES = """
    PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING LORA ADALORA ADAMSS BOFT ADAPTION_PROMPT IA3 BEFT LILY
    LOHA LOKR OFT POLY LN_TUNING VERA FROD PVERA FOURIERFT GLORA XLORA HRA VBLORA UNILORA CPT MISS RANDLORA ROAD
    TRAINABLE_TOKENS HIRA SHIRA C3A WAVEFT OSF DELORA GRALORA CARTRIDGE TINYLORA PSOFT PEANUT SHADOW SUPERTUNING DEFT
"""

PEFT_TYPES = tuple(_TYPES.split())
"""peft 0.21 utils/peft_types.py, PeftType."""


LARGEST = 10**9
"""No rank and no scale is as large."""


def read_adapter(path: str | Path) -> dict[str, object]:
    """The fields of an ``adapter_config.json``, or of the one in a directory, with a known ``peft_type``.

    Raise ``BrokenInput`` for what is no such file, ``UnknownName`` for an unknown type, and ``UnsupportedScenario``
    for what has a meaning that a plan has no evidence for.
    """
    where = f"--peft-config {show(str(path))}"
    return checked(parse_config(_read(Path(path), where), where), where)


def adapter_text(path: object) -> str:
    """The checked fields of a file as one JSON object with sorted keys, read anew when the file has changed."""
    if not isinstance(path, str | Path):
        raise UsageError(f"--peft-config {show(path)} is not a path")
    return _text_of(str(path), _stamp(Path(path)))


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file's content."""
    try:
        path = path.expanduser()
        found = (path / FILE_NAME if path.is_dir() else path).stat()
    except (OSError, ValueError, RuntimeError):
        return 0, 0
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=16)
def _text_of(path: str, _stamp: tuple[int, int]) -> str:
    return json.dumps(read_adapter(path), sort_keys=True)


def lora_settings(fields: Mapping[str, object]) -> dict[str, object]:
    """Our names of what a LoRA file sets, PEFT's defaults included; nothing for other kinds.

    >>> lora_settings({"peft_type": "LORA", "r": 32, "target_modules": "all-linear"})["lora_targets"]
    ('all-linear',)
    """
    if fields["peft_type"] != "LORA":
        return {}
    targets = fields.get("target_modules") or ()
    return {
        "lora_rank": fields.get("r", 8),
        "lora_alpha": float(cast("float", fields.get("lora_alpha", 8))),
        "lora_dropout": float(cast("float", fields.get("lora_dropout", 0.0))),
        "lora_targets": (targets,) if isinstance(targets, str) else tuple(cast("list[str]", targets)),
        "modules_to_save": tuple(cast("list[str]", fields.get("modules_to_save") or ())),
    }


_PLAIN = """
    peft_type task_type base_model_name_or_path revision inference_mode auto_mapping peft_version r lora_alpha
    lora_dropout target_modules modules_to_save use_rslora init_lora_weights fan_in_fan_out megatron_core loftq_config
    eva_config corda_config runtime_config qalora_group_size ensure_weight_tying
"""

PLAIN = frozenset(_PLAIN.split())
"""Fields of a LoRA file that the closed forms know, or that change no byte. peft 0.21 tuners/lora/config.py."""


def beyond_plain_lora(fields: Mapping[str, object]) -> str | None:
    """What of a file the closed forms do not know, or ``None``.

    >>> beyond_plain_lora({"peft_type": "LORA", "target_modules": ["q_proj"], "use_dora": True})
    'use_dora True'
    """
    if fields["peft_type"] != "LORA":
        return f"peft_type {fields['peft_type']}"
    if not fields.get("target_modules"):
        return "no target_modules, for which PEFT has a table by architecture"
    if isinstance(fields["target_modules"], str) and fields["target_modules"] != "all-linear":
        return "target_modules as a pattern"
    unknown = [
        name for name, value in fields.items() if name not in PLAIN and value not in (None, False, "none", [], {})
    ]
    return f"{unknown[0]} {show(fields[unknown[0]])}" if unknown else None


def method_of(fields: Mapping[str, object]) -> Method:
    """What a plan calls the method of a file that no ``--method`` stands beside."""
    return "lora" if fields["peft_type"] == "LORA" else "peft"


def _read(path: Path, where: str) -> bytes:
    try:
        path = path.expanduser()
        folder = path.is_dir()
        file = path / FILE_NAME if folder else path
        if not file.exists():
            raise BrokenInput(f"{where}: no {FILE_NAME} in it" if folder else f"{where}: no such file")
        if not file.is_file():
            raise BrokenInput(f"{where}: not an ordinary file")
        with file.open("rb") as stream:
            data = stream.read(FILE_LIMIT + 1)
    except OSError as error:
        raise BrokenInput(f"{where}: {error.strerror or 'cannot be read'}") from None
    except (RuntimeError, ValueError) as error:
        if isinstance(error, BrokenInput):
            raise
        raise BrokenInput(f"{where}: not a usable path") from None
    if len(data) > FILE_LIMIT:
        raise BrokenInput(f"{where}: larger than {FILE_LIMIT // 2**20} MiB, so it is no {FILE_NAME}")
    return data


def checked(fields: Mapping[str, object], where: str) -> dict[str, object]:
    """The same fields with ``peft_type`` as PEFT spells it.

    >>> checked({"peft_type": "lora", "r": 8}, "file")
    {'peft_type': 'LORA', 'r': 8}
    """
    if "peft_type" not in fields:
        raise BrokenInput(f"{where}: has no peft_type, so it is no {FILE_NAME}")
    kind, known = fields["peft_type"], known_types()
    if not isinstance(kind, str):
        raise BrokenInput(f"{where}: peft_type is {show(kind)}, not a name")
    if kind.upper() not in known:
        raise UnknownName("peft_type", kind, map(str.lower, known))
    if any(len(text) > PATTERN_LIMIT for text in _texts(fields)):
        raise BrokenInput(f"{where}: holds a text of more than {PATTERN_LIMIT} characters")
    _refuse(fields, where)
    if kind.upper() == "LORA":
        _check_lora(fields, where)
    return {**fields, "peft_type": kind.upper()}


def _check_lora(fields: Mapping[str, object], where: str) -> None:
    """Raise ``BrokenInput`` where a field that we take is no number, or no names."""
    for name, kinds in (("r", int), ("lora_alpha", int | float), ("lora_dropout", int | float)):
        value = fields.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) < LARGEST:
            raise BrokenInput(f"{where}: {name} is {show(value)}, not a number")
    for name in ("target_modules", "modules_to_save"):
        value = fields.get(name)
        names = value if isinstance(value, list) else []
        pattern = name == "target_modules" and isinstance(value, str)
        if value is not None and not pattern and (value != names or not all(isinstance(one, str) for one in names)):
            raise BrokenInput(f"{where}: {name} is {show(value)}, not names of modules")


def _texts(value: object) -> list[str]:
    """Every string in a document, keys included."""
    if isinstance(value, str):
        return [value]
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in _texts(part)]


def _refuse(fields: Mapping[str, object], where: str) -> None:
    """Raise ``UnsupportedScenario`` for another task, for code that the file names, and for models on the Hub."""
    task = fields.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise UnsupportedScenario(f"{where}: task_type is {show(task)}; only causal language models are planned for")
    if fields.get("megatron_config") is not None:
        raise UnsupportedScenario(f"{where}: megatron_config is set; Megatron's parallel layers are not planned for")
    if fields.get("shadow_model", "mirror") != "mirror":
        raise UnsupportedScenario(f"{where}: shadow_model names a checkpoint; only 'mirror' can be planned for")


@cache
def known_types() -> tuple[str, ...]:
    """Types of tuners that we or the installed PEFT know, without importing it."""
    return tuple(dict.fromkeys((*PEFT_TYPES, *_installed_types())))


def _installed_types() -> list[str]:
    """The members of ``PeftType`` in the source of the installed PEFT, if any."""
    found = find_spec("peft")
    file = Path(found.origin).with_name("utils") / "peft_types.py" if found and found.origin else None
    if file is None or not file.is_file():
        return []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "PeftType":
            return [
                line.value.value
                for line in node.body
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
                if isinstance(line.value.value, str)
            ]
    return []

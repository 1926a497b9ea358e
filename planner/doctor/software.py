"""Libraries by their metadata: none of them is imported."""

import importlib.util
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from planner._version import __version__
from planner.build.installed import INSTALL, OLDEST, newer_than_tried, numbers
from planner.doctor.values import Fact
from planner.local.smi import INSTALL as INSTALL_LOCAL

OPTIONAL: Mapping[str, tuple[tuple[int, ...], str, str]] = {
    "liger-kernel": ((0, 7), 'pip install "finetune-planner[liger]"', "for traces of --kernels fused"),
    "nvidia-ml-py": ((12,), INSTALL_LOCAL, "for --gpu local; nvidia-smi stands in"),
    "huggingface_hub": ((1, 0), 'pip install "finetune-planner[hub]"', "for models by their Hub id"),
    "altair": ((5,), 'pip install "finetune-planner[pictures]"', "for pictures of a trace"),
    "vl-convert-python": ((1, 7), 'pip install "finetune-planner[pictures]"', "for pictures of a trace"),
}
"""What is asked for by some commands only: its oldest version, how to get it, what for."""


class Build(NamedTuple):
    """For which driver torch was built; both ``None`` for a processor."""

    cuda: str | None
    hip: str | None


def software() -> Iterator[Fact]:
    """Python, this program, and every library that it may run."""
    yield Fact("software", "finetune-planner", __version__)
    yield Fact("software", "python", f"{platform.python_version()} ({sys.executable})")
    yield Fact("software", "platform", platform.platform())
    newer = {line.partition(" ")[0] for line in newer_than_tried()}
    for name, least in OLDEST.items():
        yield library(name, least, INSTALL, "", newer=name in newer)
    for name, (least, how, purpose) in OPTIONAL.items():
        yield library(name, least, how, purpose)


def library(name: str, least: tuple[int, ...], how: str, purpose: str, *, newer: bool = False) -> Fact:
    """One library; ``purpose`` is what an optional one is for."""
    found, wanted = installed(name), ".".join(map(str, least))
    if found is None:
        return Fact(
            "software", name, f"missing, {purpose}" if purpose else "missing", "note" if purpose else "bad", how
        )
    if numbers(found.partition("+")[0]) < least:
        return Fact("software", name, f"{found}, older than {wanted}", "bad", f"{how} --upgrade")
    if newer:
        return Fact("software", name, found, "note", "newer than any that a trace was tried with")
    return Fact("software", name, found)


def installed(name: str) -> str | None:
    """The version of a library, with its local part such as ``+cu130``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def torch_build() -> Build | None:
    """What torch's own ``version.py`` says, read as text; ``None`` without torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return Build(None, None)
    return Build(_said(text, "cuda"), _said(text, "hip"))


def _said(text: str, name: str) -> str | None:
    """The value in a line such as ``cuda: Optional[str] = '13.0'``.

    >>> _said("cuda: Optional[str] = '13.0'", "cuda"), _said("hip: Optional[str] = None", "hip")
    ('13.0', None)
    """
    found = re.search(rf"^{name}\b[^=\n]*= *['\"]([\d.]+)", text, re.MULTILINE)
    return found[1] if found else None

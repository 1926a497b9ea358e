"""A place where ``plan`` is a command, and blocks of the page by their language."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

FITS = "base_model: meta-llama/Llama-3.2-1B\nadapter: lora\nlora_r: 8\nlora_target_linear: true\nsequence_len: 512\n"
TOO_LARGE = FITS.replace("Llama-3.2-1B", "Llama-3.1-70B")
UNKNOWN = "nobody: knows\n"


def blocks(language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(PAGE.read_text(encoding="utf-8")) if kind == language]


class Done(NamedTuple):
    code: int
    out: str
    err: str


Bash = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with configurations, and commands that stand before all others: ``plan``, and any that is faked."""
    (tmp_path / "bin").mkdir()
    fake(tmp_path, "plan", f'exec {shlex.quote(sys.executable)} -m planner "$@"')
    for name, text in {"fits.yaml": FITS, "too large.yaml": TOO_LARGE, "unknown.yaml": UNKNOWN}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def fake(folder: Path, name: str, body: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def bash(folder: Path) -> Bash:
    """A script as GitHub's runners start it, in that repository."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")

    def run(
        script: str, variables: Mapping[str, str] = {}, shell: tuple[str, ...] = ("bash", "-eo", "pipefail")
    ) -> Done:
        environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        path = folder / "script.sh"
        path.write_text(script, encoding="utf-8")
        done = subprocess.run(
            [*shell, str(path)],
            cwd=folder,
            env={**environment, "NO_COLOR": "1", **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run

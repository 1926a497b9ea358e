"""The command, as the other tests of commands run it."""

from tests.cli.conftest import run, shell

__all__ = ["run", "shell"]

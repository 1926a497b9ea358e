"""A store of its own for each test, and what it said."""

from pathlib import Path

import pytest

from planner.records import Store


@pytest.fixture
def said() -> list[str]:
    """Notices of the store."""
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    """An empty store."""
    return Store(tmp_path / "data" / "measurements.db", said.append)

"""What a trace leaves among the temporary files: nothing, even where the process ends within it."""

import tempfile
from pathlib import Path

import pytest

from planner.build.quiet import passing_folder, tidy, tidy_now


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("how", [lambda: None, tidy_now], ids=["at its end", "at once"])
def test_folders_for_kernels_that_came_are_gone_and_others_stay(how: object, place: Path) -> None:
    before = place / "torchinductor_before"
    before.mkdir()

    with tidy():
        (place / "torchinductor_user").mkdir()
        assert callable(how)
        how()

    assert [*place.iterdir()] == [before]


def test_a_folder_that_is_used_stays(place: Path) -> None:
    with tidy():
        (place / "torchinductor_user" / "kernel").mkdir(parents=True)

    assert (place / "torchinductor_user" / "kernel").exists()


def test_a_passing_folder_does_not_outlive_the_process(place: Path) -> None:
    with passing_folder() as folder:
        (Path(folder) / "config.json").write_text("{}")
        assert tidy_now()
        assert not [*place.iterdir()]

    assert not tidy_now()

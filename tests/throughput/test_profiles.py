"""The section ``[throughput]`` of a card's profile."""

from pathlib import Path

import pytest

from planner.errors import BrokenInput
from planner.hardware import load_gpu, shipped_dir
from planner.hardware_schema import read
from planner.spec import Share

TEXT = (shipped_dir() / "rtx3080-10gb.toml").read_text(encoding="utf-8")
OWN = "products = { value = 0.9, n = 0"


def changed(old: str, new: str) -> bytes:
    assert old in TEXT
    return TEXT.replace(old, new).encode()


def test_shares_are_read_with_what_they_rest_on(tmp_path: Path) -> None:
    text = changed(OWN, "products = { value = 0.5, n = 7")
    (tmp_path / "rtx3080-10gb.toml").write_bytes(text)

    found = load_gpu("rtx3080-10gb", tmp_path).products

    assert isinstance(found, Share)
    assert (found.value, found.n) == (0.5, 7)
    assert found.sources


def test_a_card_may_say_nothing(tmp_path: Path) -> None:
    start, end = TEXT.index("[throughput]"), TEXT.index("[[source]]")
    (tmp_path / "rtx3080-10gb.toml").write_text(TEXT[:start] + TEXT[end:], encoding="utf-8")

    assert load_gpu("rtx3080-10gb", tmp_path).products is None


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("products = { value = 1.2, n = 0", "throughput.products: should be less than or equal to 1"),
        ("products = { value = 0.0, n = 0", "throughput.products: should be greater than 0"),
        ("products = { value = 0.9, n = -1", "throughput.products.n: should be greater than or equal to 0"),
        ("products = { value = 0.9, m = 0", "throughput.products.m: unknown key"),
        ("attention = { value = 0.9, n = 0", "not TOML"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(wrong: str, complaint: str) -> None:
    with pytest.raises(BrokenInput, match=complaint) as caught:
        read("rtx3080-10gb.toml", "rtx3080-10gb", changed(OWN, wrong))

    assert "\n" not in str(caught.value)


def test_every_figure_says_whose_it_is() -> None:
    for path in shipped_dir().glob("*.toml"):
        if "[throughput]" in path.read_text(encoding="utf-8"):
            gpu = load_gpu(path.stem)
            for share in (gpu.products, gpu.attention):
                assert share is not None
                assert share.sources
                assert share.n > 0 or any("prior" in source for source in share.sources)

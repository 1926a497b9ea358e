"""Settings as torch reads them, and constants as its headers have them."""

import re
from pathlib import Path

import pytest

from planner.allocator.config import Settings, parse
from planner.allocator.constants import NEWEST, VERSIONS, constants
from planner.errors import PlannerError, UnsupportedScenario, UsageError
from planner.units import MIB

GOOD = {
    "": Settings(),
    "expandable_segments:True": Settings(expandable_segments=True),
    " max_split_size_mb : 128 ,": Settings(max_split_size=128 * MIB),
    "garbage_collection_threshold:0.8,per_process_memory_fraction:0.5": Settings(
        garbage_collection_threshold=0.8, memory_fraction=0.5
    ),
    "backend:native,pinned_use_background_threads:True": Settings(),
    "large_segment_size_mb:40,max_split_size_mb:40": Settings(large_segment=40 * MIB, max_split_size=40 * MIB),
    "roundup_power2_divisions:4": Settings(divisions=(4,) * 16),
    # intervals begin at 1, 2, 4, ... MiB, so 256 is the ninth; smaller ones are as the first that is named
    "roundup_power2_divisions:[256:1,512:2,>:8]": Settings(divisions=(1,) * 9 + (2,) + (8,) * 6),
    "roundup_power2_divisions:[1:4]": Settings(divisions=(4,) + (0,) * 15),
    # as torch 2.13's own ``roundup_power2_divisions(size)`` answers, asked for 1, 2, 4, ... MiB
    "roundup_power2_divisions:[128:8,256:16,512:1,2048:8,>:2]": Settings(
        divisions=(8, 8, 8, 8, 8, 8, 8, 8, 16, 1, 0, 8, 2, 2, 2, 2)
    ),
    "roundup_power2_divisions:[>:2]": Settings(divisions=(0,) + (2,) * 15),
    "roundup_power2_divisions:[4:2,2:8]": Settings(divisions=(2, 8, 2) + (0,) * 13),
}

BAD = [
    "max_split_size_mb:19",
    "max_split_size_mb:abc",
    "max_split_size_mb:21,large_segment_size_mb:40",
    "large_segment_size_mb:10",
    "max_non_split_rounding_mb:19",
    "garbage_collection_threshold:0",
    "garbage_collection_threshold:1.0",
    "garbage_collection_threshold:nan",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:[256:3]",
    "roundup_power2_divisions:[250:2]",
    "roundup_power2_divisions:[64:8",
    "expandable_segments:true",
    "expandable_segments",
]


@pytest.mark.parametrize(("text", "settings"), GOOD.items())
def test_what_the_variable_says(text: str, settings: Settings) -> None:
    assert parse(text) == settings


@pytest.mark.parametrize("text", BAD)
def test_what_it_cannot_say(text: str) -> None:
    with pytest.raises(UsageError, match=r"^PYTORCH_ALLOC_CONF: [^\n]+$"):
        parse(text)


def test_unknown_options_are_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown option 'max_split_mb'; did you mean max_split_size_mb\?"):
        parse("max_split_mb:128")


def test_other_backends_are_not_guessed() -> None:
    with pytest.raises(UnsupportedScenario, match="only native"):
        parse("backend:cudaMallocAsync")


@pytest.mark.torch
@pytest.mark.parametrize("text", [*GOOD, *BAD])
def test_torch_agrees(text: str) -> None:
    """The CPU build carries the parser of the device-independent options; it checks order too, so large comes first."""
    torch = pytest.importorskip("torch")
    read = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if read is None:
        pytest.skip("this torch does not expose its parser")
    ordered = ",".join(sorted(re.split(r",(?![^\[]*\])", text.strip(" ,"))))
    try:
        ours = parse(text) is not None
    except PlannerError:
        ours = False
    try:
        read("large_segment_size_mb:20")
        read(ordered)
        theirs = True
    except (ValueError, RuntimeError):
        theirs = False
    finally:
        read("large_segment_size_mb:20")

    assert ours == theirs


# ---------------------------------------------------------------- constants


def test_every_version_has_its_range() -> None:
    assert [constants((2, minor)).first[1] for minor in range(9, 15)] == [9, 9, 11, 11, 11, 11]
    assert list(VERSIONS) == sorted(VERSIONS, key=lambda entry: entry.first)
    with pytest.raises(UnsupportedScenario, match=r"torch 2\.8: .* oldest known is 2\.9"):
        constants((2, 8))


@pytest.mark.torch
def test_the_header_of_the_installed_torch() -> None:
    torch = pytest.importorskip("torch")
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    text = (Path(torch.__file__).parent / "include/c10/core/AllocatorConfig.h").read_text()
    read = {name: int(size) for name, size in re.findall(r"const(?:expr)? size_t (k\w+) = (\d+);", text)}
    ours = constants(version)

    assert version <= NEWEST
    assert (read["kMinBlockSize"], read["kSmallSize"]) == (ours.min_block, ours.small_size)
    assert (read["kSmallBuffer"], read["kSmallBuffer"]) == (ours.small_segment, ours.small_page)
    assert (read["kMinLargeAlloc"], read["kRoundLarge"]) == (ours.min_large, ours.round_large)
    large = read.get("kLargeBuffer") or int(re.findall(r"large_segment_size_\{(\d+)\}", text)[0])
    assert (large, large) == (ours.large_segment, ours.large_page)

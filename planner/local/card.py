"""A board that is here as a card to plan for: its profile, with the memory that it really has laid over it."""

import re
from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from planner.errors import UnsupportedScenario
from planner.local.processor import available_bytes, processor_name, total_bytes
from planner.local.values import Board, Link
from planner.spec import Gpu
from planner.spec.hardware import CPU, FLASH_CAPABILITY, PCIE_BYTES_PER_LANE
from planner.units import GIB

LOCAL = "local"

LIKENESS = 0.08
"""How far a board's total may be from its profile's: ECC takes 6.25 % of some cards, a card of the next size has 20 %
more."""

BF16_CAPABILITY = (8, 0)

NO_WORDS = frozenset({"nvidia", "amd", "geforce", "tesla", "instinct", "quadro", "gpu", "generation", "accelerator"})
"""Words of a name that tell no card from another."""

HARMLESS = re.compile(r"\d+gb|hbm\d?e?|sxm\d?|pcie|edition|server|workstation")
"""Words that one of two names may have alone: memory, which is compared as a number, and how the card is built."""


def card_of_board(board: Board, gpus: Iterable[Gpu]) -> Gpu:
    """The card that a board is, with its real memory; raise ``UnsupportedScenario`` where nobody knows its memory."""
    profile = profile_of_board(board, gpus)
    if profile is not None and profile.unified_memory and board.total_bytes is None:
        return _unified(profile)
    if board.total_bytes is None:
        raise UnsupportedScenario(
            f"the driver does not tell how much memory {board.name} has: name a card of plan gpus"
        )
    base = profile or stranger(board, gpus)
    seen = board.total_bytes - _kept_by_driver(board, profile)
    card = replace(
        base,
        id=LOCAL,
        profile=None if profile is None else profile.id,
        name=board.name or base.name,
        memory_bytes=seen,
        driver_bytes=board.total_bytes,
        taken_bytes=min(_taken(board, profile), seen),
        compute_capability=board.capability or base.compute_capability,
        pcie_bytes_per_s=_pcie(board.link) or base.pcie_bytes_per_s,
        estimated=tuple(name for name in base.estimated if name not in ("memory_bytes", "driver_bytes")),
        aliases=(),
        members=(),
    )
    return _instance(card, board) if board.is_instance else card


def profile_of_board(board: Board, gpus: Iterable[Gpu]) -> Gpu | None:
    """The profile of a board; a MIG instance has the name of its card and a part of its memory."""
    return profile_of(board.name, None if board.is_instance else board.total_bytes, gpus)


def profile_of(name: str, total: int | None, gpus: Iterable[Gpu]) -> Gpu | None:
    """The profile whose name shares most words with ``name`` and whose memory is like ``total`` (bytes, if known).

    Of both names, words beyond those that they share must be harmless: a 4090 Laptop is no 4090.
    """
    asked = frozenset(name_words(name))
    found: list[tuple[int, Gpu]] = []
    for gpu in gpus:
        if total is None or abs(gpu.driver_bytes - total) <= LIKENESS * total:
            names = (frozenset(name_words(alias)) for alias in (gpu.name, gpu.id, *gpu.aliases))
            found += [(len(own & asked), gpu) for own in names if own & asked and _harmless(own ^ asked)]
    return max(found, key=lambda one: one[0])[1] if found else None


def _harmless(words: Iterable[str]) -> bool:
    return all(HARMLESS.fullmatch(word) for word in words)


def name_words(name: str) -> tuple[str, ...]:
    """The telling words of a card's name; ``rtx4090`` is two, as NVIDIA writes it.

    >>> name_words("NVIDIA GeForce RTX 4090"), name_words("rtx4060ti-16gb"), name_words("NVIDIA A100-SXM4-80GB")
    (('rtx', '4090'), ('rtx', '4060', 'ti', '16gb'), ('a100', 'sxm4', '80gb'))
    """
    plain = re.sub(r"\(.*?\)", " ", name.lower())
    plain = re.sub(r"rtx(pro)?(?=\w)", lambda match: f"rtx {match[1] or ''} ", plain)
    plain = re.sub(r"(\d{4})(?=(ti|super|ada))", r"\1 ", plain)
    plain = re.sub(r"(?<=ti)(?=super)", " ", plain)
    return tuple(word for word in re.split(r"[^a-z0-9]+", plain) if word and word not in NO_WORDS)


def _kept_by_driver(board: Board, profile: Gpu | None) -> int:
    """What NVML counts and torch cannot see: the driver's word, else the profile's difference."""
    if board.reserved_bytes is not None:
        return board.reserved_bytes
    return 0 if profile is None else max(profile.driver_bytes - profile.memory_bytes, 0)


def _taken(board: Board, profile: Gpu | None) -> int:
    """What others hold: the whole sum, since a display's share is nobody's process."""
    if board.used_bytes is None:
        return sum(holder.used_bytes or 0 for holder in board.holders)
    own = 0 if board.reserved_bytes is not None else _kept_by_driver(board, profile)
    return max(board.used_bytes - own, 0)


def _pcie(link: Link | None) -> float | None:
    if link is None:
        return None
    rate = PCIE_BYTES_PER_LANE.get(link.generation)
    return None if rate is None else rate * link.lanes


def _instance(card: Gpu, board: Board) -> Gpu:
    """A MIG instance has a share of its card's bandwidth and peaks, about that of its memory."""
    share = board.share or 1.0
    return replace(
        card,
        name=f"{card.name} MIG instance",
        bandwidth_bytes_per_s=card.bandwidth_bytes_per_s * share,
        peak_flops_per_s=MappingProxyType({name: rate * share for name, rate in card.peak_flops_per_s.items()}),
        measured_bf16_flops_per_s=None,
        sm_count=board.multiprocessors or card.sm_count,
        nvlink_bytes_per_s=None,
        estimated=(*card.estimated, "bandwidth_bytes_per_s", "peak_flops_per_s"),
    )


def _unified(profile: Gpu) -> Gpu:
    """A chip that shares the machine's memory: NVML has no figures, the system has."""
    total, free = total_bytes() or profile.memory_bytes, available_bytes()
    taken = profile.system_bytes if free is None else max(total - free, 0)
    return replace(
        profile,
        id=LOCAL,
        profile=profile.id,
        memory_bytes=total,
        driver_bytes=total,
        system_bytes=0,
        taken_bytes=taken,
        aliases=(),
    )


def stranger(board: Board, gpus: Iterable[Gpu]) -> Gpu:
    """A card without a profile: that of its generation with the largest CUDA context, its figures marked as guessed."""
    known = [gpu for gpu in gpus if gpu.compute_capability and gpu.vendor == "nvidia"]
    alike = [gpu for gpu in known if gpu.compute_capability == board.capability] or known
    nearest = max(alike, key=lambda gpu: gpu.context_bytes)
    capability = board.capability or (0, 0)
    return replace(
        nearest,
        architecture=nearest.architecture if board.capability == nearest.compute_capability else "",
        compute_capability=board.capability,
        supports_bf16=capability >= BF16_CAPABILITY,
        supports_flash=capability >= FLASH_CAPABILITY,
        sm_count=None,
        price=None,
        warnings=(),
        nvlink_bytes_per_s=None,
        bridge_bytes_per_s=None,
        measured_bf16_flops_per_s=None,
        unified_memory=False,
        system_bytes=0,
        estimated=("context_bytes", "bandwidth_bytes_per_s", "peak_flops_per_s"),
    )


def processor_card() -> Gpu:
    """The processor in place of a card: its memory, no context, and no rates, which nobody has measured."""
    total, free = total_bytes(), available_bytes()
    return cpu_card(processor_name(), total, taken=0 if free is None else max(total - free, 0))


def cpu_card(name: str, total: int, *, taken: int = 0) -> Gpu:
    """A processor of ``total`` bytes as a card, of which others hold ``taken``."""
    return Gpu(
        id=LOCAL,
        name=name,
        vendor="",
        architecture=CPU,
        memory_bytes=total,
        driver_bytes=total,
        context_bytes=0,
        bandwidth_bytes_per_s=0.0,
        peak_flops_per_s=MappingProxyType({}),
        compute_capability=None,
        pcie_bytes_per_s=None,
        nvlink_bytes_per_s=None,
        supports_bf16=True,
        supports_flash=False,
        taken_bytes=taken,
        resolution=f"{LOCAL} -> {name} (no GPU here: planned for the processor's memory, {total / GIB:.1f} GiB)",
    )

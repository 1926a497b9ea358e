"""What ``--gpu local`` stands for: the boards that CUDA would show here, as one kind of card."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from planner.errors import UnsupportedScenario, UsageError
from planner.hardware import list_gpus
from planner.local import nvml, smi
from planner.local.card import LOCAL, card_of_board, processor_card
from planner.local.nvml import NoAnswer, Nvml
from planner.local.smi import INSTALL, Ask
from planner.local.values import Board, Machine
from planner.local.visible import VARIABLE, visible
from planner.spec import Gpu
from planner.units import GIB, format_bytes

NVIDIA_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
"""One of these is there wherever an NVIDIA driver is; the second is Windows' bridge to its own."""
AMD_DRIVER = "/dev/kfd"

NOTED = 16 * 2**20
"""Bytes that others hold which are worth a line."""

MOST_HOLDERS = 4


class Cards(NamedTuple):
    """One card that stands for all that are used, and what the reader must know about them."""

    gpu: Gpu
    notes: tuple[str, ...]


def look() -> Machine:
    """The machine, by NVML, by nvidia-smi, or as a processor alone; raise ``UnsupportedScenario`` for a mute driver."""
    return seen(nvml.load(), smi.find(), os.environ)


def seen(library: Nvml | None, program: Ask | None, environ: Mapping[str, str]) -> Machine:
    """The machine as ``library``, else ``program``, tells it, as far as ``environ`` shows it to CUDA."""
    whole = _asked(library, program)
    shown = visible(whole.boards, environ)
    return replace(whole, boards=shown, hidden=len(whole.boards) - len(shown))


def _asked(library: Nvml | None, program: Ask | None) -> Machine:
    silence = []
    if library is not None:
        try:
            return nvml.read(library)
        except NoAnswer as error:
            silence.append(f"NVML: {error}")
    if program is not None:
        try:
            return smi.read(program)
        except NoAnswer as error:
            silence.append(str(error))
    if Path(AMD_DRIVER).exists():
        raise UnsupportedScenario("an AMD driver is here, and its cards are not read: name yours, as in --gpu mi300x")
    if any(Path(driver).exists() for driver in NVIDIA_DRIVERS):
        why = "; ".join(silence) or f"{INSTALL}, which reads it"
        raise UnsupportedScenario(
            f"an NVIDIA driver is here and does not answer ({why}): name the card, or plan doctor"
        )
    return Machine(source="cpu", boards=())


def cards_here(count: int = 1, *, machine: Machine | None = None, profiles_dir: Path | None = None) -> Cards:
    """The first ``count`` boards as one kind of card, the weakest where they differ; the processor where none is."""
    machine = machine or look()
    if not machine.boards:
        return _without(machine, count)
    if count > len(machine.boards):
        plural = "card is" if len(machine.boards) == 1 else "cards are"
        raise UsageError(
            f"--gpus {count}: {len(machine.boards)} {plural} here: name the card to plan for more, as in --gpu h100"
        )
    gpus = list_gpus(profiles_dir)
    used = machine.boards[:count]
    cards = [card_of_board(board, gpus) for board in used]
    place = min(range(count), key=lambda number: cards[number].memory_bytes - cards[number].taken_bytes)
    chosen, board = cards[place], used[place]
    notes = (
        *_differences(used, cards, chosen),
        *_about_holders(board, chosen),
        *_about_instances(used),
        *_about_profile(board, chosen),
        *machine.notes,
    )
    return Cards(replace(chosen, resolution=_resolution(chosen)), notes)


def every_card(*, machine: Machine | None = None, profiles_dir: Path | None = None) -> tuple[Cards, ...]:
    """Each board that is here as a card of its own; the processor where there is none."""
    machine = machine or look()
    alone = [replace(machine, boards=(board,)) for board in machine.boards] or [machine]
    return tuple(cards_here(machine=one, profiles_dir=profiles_dir) for one in alone)


def _without(machine: Machine, count: int) -> Cards:
    if count > 1:
        raise UsageError(
            f"--gpus {count}: no card is here: name the cards to plan for, as in --gpu h100 --gpus {count}"
        )
    hidden = f"{VARIABLE} hides every card here, {machine.hidden} in all"
    return Cards(processor_card(), (hidden,) if machine.hidden else ())


def _resolution(card: Gpu) -> str:
    """``local -> NVIDIA GeForce RTX 4090 (as rtx4090; 23.6 GiB visible to torch, 22.9 GiB free)``."""
    seen, free = card.memory_bytes / GIB, (card.memory_bytes - card.taken_bytes) / GIB
    known = f"as {card.profile}; " if card.profile else ""
    return f"{LOCAL} -> {card.name} ({known}{seen:.1f} GiB visible to torch, {free:.1f} GiB free)"


def _differences(boards: Sequence[Board], cards: Sequence[Gpu], chosen: Gpu) -> tuple[str, ...]:
    """A line where the cards are not alike: ranks are equal, so the weakest decides."""
    kinds = dict.fromkeys(card.name for card in cards)
    if len(kinds) > 1:
        listed = ", ".join(f"{board.index}: {card.name}" for board, card in zip(boards, cards, strict=True))
        order = "nvidia-smi counts them so; CUDA counts the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID"
        return (f"the cards differ ({listed}): planned as {chosen.name}, which has least free; {order}",)
    free = [card.memory_bytes - card.taken_bytes for card in cards]
    if max(free) - min(free) > NOTED:
        return (f"the cards have {_span(free)} free: planned as the one with least",)
    return ()


def _span(counts: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys((format_bytes(min(counts)), format_bytes(max(counts)))))


def _about_holders(board: Board, card: Gpu) -> tuple[str, ...]:
    """Who holds memory now, process by process as far as the driver says."""
    if card.taken_bytes < NOTED:
        return ()
    named = [
        f"{holder.name.rpartition('/')[2] or 'process'} ({holder.pid}) {format_bytes(holder.used_bytes)}"
        for holder in board.holders
        if holder.used_bytes
    ]
    told = ", ".join([*named[:MOST_HOLDERS], *(["..."] if len(named) > MOST_HOLDERS else [])])
    rest = card.taken_bytes - sum(holder.used_bytes or 0 for holder in board.holders)
    display = "a display and the driver's contexts" if board.display else "programs that the driver does not name"
    parts = [told] if told else []
    if rest >= NOTED or not told:
        parts.append(f"{display} {format_bytes(max(rest, 0))}")
    return (f"others hold {format_bytes(card.taken_bytes)} on it now: {'; '.join(parts)}",)


def _about_instances(boards: Sequence[Board]) -> tuple[str, ...]:
    if sum(board.is_instance for board in boards) > 1:
        return ("a CUDA process sees one MIG instance: several take a process each, and no NCCL between them",)
    return ()


def _about_profile(board: Board, card: Gpu) -> tuple[str, ...]:
    if card.profile is not None:
        return ()
    return (f"no profile is of {board.name}: its memory is real, its CUDA context that of the next card of its kind",)

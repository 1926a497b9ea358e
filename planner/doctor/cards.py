"""The cards that are here, and whether torch's build and the driver serve them."""

from collections.abc import Iterator

from planner.doctor.software import Build
from planner.doctor.values import Fact
from planner.errors import PlannerError
from planner.hardware import list_gpus
from planner.local import Board, Machine, profile_of_board
from planner.recommend.rules.gpu import CUDA_WHEELS_FROM
from planner.units import format_bytes

CUDA_13 = (13, 0)


def cards(machine: Machine | PlannerError, build: Build | None) -> Iterator[Fact]:
    """Driver, torch's build beside it, and every card with what is free on it."""
    if isinstance(machine, PlannerError):
        yield Fact("cards", "driver", "does not answer", "bad", str(machine))
        return
    if not machine.boards:
        hidden = f"{machine.hidden} hidden by CUDA_VISIBLE_DEVICES" if machine.hidden else "none"
        yield Fact("cards", "cards", hidden, "note", "--gpu local plans for the processor's memory")
    else:
        served = "" if machine.cuda is None else f", serves CUDA up to {_dotted(machine.cuda)}"
        yield Fact("cards", "driver", f"{machine.driver or 'unknown'} (by {machine.source}){served}")
    if build is not None:
        yield _build(machine, build)
    for board in machine.boards:
        yield _board(board, build)


def _build(machine: Machine, build: Build) -> Fact:
    """Torch's CUDA against the driver's: within one major number they go together (CUDA Compatibility, 2026)."""
    if build.cuda is None:
        kind = f"ROCm {build.hip}" if build.hip else "processors only"
        wrong = bool(machine.boards) and build.hip is None
        advice = "install a torch with CUDA: https://pytorch.org/get-started/locally" if wrong else ""
        return Fact("cards", "torch's build", f"for {kind}", "bad" if wrong else "ok", advice)
    value = f"for CUDA {build.cuda}"
    if machine.cuda is not None and int(build.cuda.split(".")[0]) > machine.cuda[0]:
        advice = f"the driver serves CUDA up to {_dotted(machine.cuda)}: a newer driver, or a torch built for that"
        return Fact("cards", "torch's build", value, "bad", advice)
    return Fact("cards", "torch's build", value)


def _board(board: Board, build: Build | None) -> Fact:
    profile = profile_of_board(board, list_gpus())
    known = f"as {profile.id}" if profile else "no profile"
    name = f"{board.name} MIG instance" if board.is_instance else board.name
    value = f"{name} ({known}), {_memory(board)}"
    if board.capability is not None:
        value += f", compute capability {_dotted(board.capability)}"
    if board.link is not None:
        value += f", PCIe {board.link.generation} x{board.link.lanes}"
    old = board.capability is not None and board.capability < CUDA_WHEELS_FROM
    if old and build is not None and build.cuda is not None and _pair(build.cuda) >= CUDA_13:
        return Fact("cards", f"card {board.index}", value, "bad", "torch for CUDA 13 has no kernels for it: CUDA 12.6")
    if profile is None:
        return Fact("cards", f"card {board.index}", value, "note", "its bandwidth and CUDA context are guessed")
    return Fact("cards", f"card {board.index}", value)


def _memory(board: Board) -> str:
    if board.total_bytes is None:
        return "memory unknown"
    seen = board.total_bytes - (board.reserved_bytes or 0)
    used = "" if board.used_bytes is None else f", {format_bytes(board.used_bytes)} of it in use"
    return f"{format_bytes(seen)}{used}"


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor.partition(".")[0] or 0)

"""What is in this machine, as plain values: boards, who holds memory on them, and the driver that says so."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Source = Literal["nvml", "nvidia-smi", "cpu"]


class Holder(NamedTuple):
    """A process that holds memory on a board; ``used_bytes`` is ``None`` where the driver will not say."""

    pid: int
    name: str
    used_bytes: int | None


class Link(NamedTuple):
    """A PCIe link at its best: generation and number of lanes."""

    generation: int
    lanes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One device that CUDA could use: a card, or an instance of a partitioned one (MIG).

    ``total_bytes`` is NVML's; of these the driver keeps ``reserved_bytes`` (``None`` where it does not say), the
    rest is what torch sees. ``used_bytes`` are other programs', the driver's own share left out. A figure that
    nobody tells is ``None``.
    """

    index: int
    uuid: str
    name: str
    total_bytes: int | None
    reserved_bytes: int | None
    used_bytes: int | None
    capability: tuple[int, int] | None = None
    multiprocessors: int | None = None
    display: bool | None = None
    link: Link | None = None
    holders: tuple[Holder, ...] = ()
    share: float | None = None
    """Of a MIG instance: its share of the card's memory."""

    @property
    def is_instance(self) -> bool:
        """Whether this is a part of a partitioned card."""
        return self.share is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Boards in the order of ``nvidia-smi``, those hidden by ``CUDA_VISIBLE_DEVICES`` left out."""

    source: Source
    boards: tuple[Board, ...]
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    """The newest CUDA that the driver serves."""
    hidden: int = 0
    """Boards that ``CUDA_VISIBLE_DEVICES`` hides."""
    notes: tuple[str, ...] = ()

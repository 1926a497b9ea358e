"""What a model is trained on: one accelerator (``Gpu``), its price, and several of them (``Cluster``)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per GPU-hour, on demand: a range, because the same card differs by 3 to 5 times."""

    low_usd: float | None
    typical_usd: float | None
    hyperscaler_usd: float | None
    as_of: str
    estimated: bool = False
    basis: str = ""
    """How ``typical_usd`` was chosen among the offers."""

    @property
    def usd(self) -> float | None:
        """The typical price, else the low one."""
        return self.low_usd if self.typical_usd is None else self.typical_usd


PCIE_BYTES_PER_LANE = {
    3: 8e9 / 8 * 128 / 130,
    4: 16e9 / 8 * 128 / 130,
    5: 32e9 / 8 * 128 / 130,
    6: 64e9 / 8 * 242 / 256,
}
"""One way, before packet headers: transfers per second, less the line code (128b/130b; FLIT mode from generation 6)."""

FLASH_CAPABILITY = (8, 0)
"""flash-attention 2 runs from Ampere on (Dao-AILab/flash-attention, README, "NVIDIA CUDA Support")."""
FLASH_GFX = ("gfx90a", "gfx942", "gfx950")
"""AMD chips that flash-attention 2 serves (same README, "AMD ROCm Support")."""

FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "memory_bytes": "memory that torch sees",
        "driver_bytes": "memory that the driver reports",
        "system_bytes": "share of the operating system",
        "context_bytes": "CUDA context",
        "bandwidth_bytes_per_s": "bandwidth",
        "peak_flops_per_s": "peaks",
        "measured_bf16_flops_per_s": "measured bf16 rate",
        "tdp_w": "power",
    }
)
"""Fields of a ``Gpu`` that a profile may mark as estimated, in words."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of a nominal rate, with how many published runs it rests on and whose; ``n`` is 0 for a prior."""

    value: float
    n: int = 0
    sources: tuple[str, ...] = ()


CPU = "cpu"
"""The architecture of a processor that stands in for a card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator in base units. ``memory_bytes`` is what torch can see, not what the box says."""

    id: str
    name: str
    vendor: str
    architecture: str
    memory_bytes: int
    driver_bytes: int
    context_bytes: int
    bandwidth_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    """Dense peak by dtype: fp32, tf32, fp16, bf16, fp8, int8 where the card has it."""
    compute_capability: tuple[int, int] | None
    pcie_bytes_per_s: float | None
    nvlink_bytes_per_s: float | None
    """One way, per GPU."""
    supports_bf16: bool
    supports_flash: bool
    unified_memory: bool = False
    estimated: tuple[str, ...] = ()
    """Names of the fields that nobody has measured; ``FIGURES`` has words for them."""
    warnings: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    represents: str | None = None
    """For a class profile such as ``24gb``: the id of the smallest card of the class."""
    price: Price | None = None
    advertised_gb: int | None = None
    """The number on the box: it names classes and enters no sum."""
    form_factor: str = ""
    system_bytes: int = 0
    """Of a pool that CPU and GPU share: what the operating system holds."""
    measured_bf16_flops_per_s: float | None = None
    """The best bf16 matrix product that somebody reports, where somebody does."""
    bridge_bytes_per_s: float | None = None
    """NVLink of cards that are joined in pairs by a bridge, one way; ``nvlink_bytes_per_s`` is then ``None``."""
    sm_count: int | None = None
    tdp_w: float | None = None
    products: Share | None = None
    """Share of the dense 16-bit peak that matrix products reach, where somebody has measured it on such a card."""
    attention: Share | None = None
    """The same of attention kernels."""
    members: tuple[str, ...] = ()
    """For a class profile: every card of the class."""
    profile: str | None = None
    """Of a card that is here: the id of the profile that it is, if any."""
    taken_bytes: int = 0
    """Of a card that is here: what a display and other processes hold on it now."""
    gpus_per_node: int = 8
    """Cards in the largest machine of this kind that is commonly let."""
    network_bytes_per_s: float | None = None
    """Of such a machine's network adapters together, one way; ``None`` where machines of this card have none to
    speak of."""
    nvlink_gpus: int | None = None
    """Cards that one NVLink fabric joins, where it reaches beyond a machine."""
    resolution: str | None = field(default=None, compare=False)
    """What the name that was asked for stands for, as one line to show."""

    @property
    def is_cpu(self) -> bool:
        """Whether this is a processor that stands in for a card."""
        return self.architecture == CPU

    def __hash__(self) -> int:
        return hash((self.id, self.memory_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """``nodes`` machines with ``gpus`` equal cards each, of which ``headroom_bytes`` per card stay free.

    ``network_gbps``: of a machine's network adapters together, one way, where the user knows it.
    ``host_memory_bytes``: RAM of each machine that the job may take, where the user says so.
    """

    gpu: Gpu
    gpus: int = 1
    nodes: int = 1
    headroom_bytes: int = 0
    network_gbps: float | None = None
    host_memory_bytes: int | None = None

    @property
    def network_bytes_per_s(self) -> float | None:
        """Of a machine's network adapters together, one way: what the user says, else the profile."""
        if self.network_gbps is not None:
            return self.network_gbps * 1e9 / 8
        return self.gpu.network_bytes_per_s

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.gpus * self.nodes

    @property
    def usable_bytes(self) -> int:
        """What a training process may take on each card, its context included."""
        taken = self.gpu.system_bytes + self.gpu.taken_bytes + self.headroom_bytes
        return max(self.gpu.memory_bytes - taken, 0)

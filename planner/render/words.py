"""How single values read: verdicts, phases, settings, prices."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.render.sheet import Cell, Owner, Tone
from planner.result import Candidate, Verdict
from planner.spec import Cluster
from planner.units import GIB, format_bytes, format_gib

VERDICTS: Mapping[Verdict, tuple[str, Tone]] = MappingProxyType(
    {"fits": ("fits", "good"), "tight": ("tight", "warn"), "does_not_fit": ("does not fit", "bad")}
)

OWNER_WORDS: Mapping[Owner, str] = MappingProxyType(
    {
        "weights": "weights",
        "adapters": "adapters",
        "gradients": "gradients",
        "optimizer": "optimizer states",
        "activations": "activations",
        "logits": "logits",
        "temporaries": "temporaries",
    }
)


def verdict(value: Verdict) -> Cell:
    """The verdict as people read it."""
    return Cell(*VERDICTS[value])


def phase(name: str) -> str:
    """``optimizer_step`` as words."""
    return name.replace("_", " ")


def option(name: str) -> str:
    """A setting by the name of its option, which is what the reader would type."""
    return name.replace("_", "-")


def value(content: object) -> str:
    """A setting's value.

    >>> value(True), value(32.0), value(("q_proj", "v_proj")), value(())
    ('on', '32', 'q_proj,v_proj', 'none')
    """
    if isinstance(content, bool):
        return "on" if content else "off"
    if isinstance(content, float):
        return f"{content:g}"
    if isinstance(content, tuple | list):
        return ",".join(str(item) for item in content) or "none"
    return str(content)


def settings(changed: Mapping[str, object]) -> str:
    """Settings in one phrase.

    >>> settings({"seq_len": 1024, "gradient_checkpointing": True})
    'seq-len 1024, gradient-checkpointing on'
    """
    return ", ".join(f"{option(name)} {value(content)}" for name, content in changed.items())


def amount(count: int | None) -> str:
    """Bytes in the unit that suits them; a dash where nobody knows.

    >>> amount(3 * 2**20), amount(None)
    ('3.00 MiB', '–')
    """
    return "–" if count is None else format_bytes(count)


CLOSE = 0.01
"""Differences up to this are as they should be; the traced estimator promises it."""


def difference(ratio: float | None) -> Cell:
    """By how much a prediction is above what was measured.

    >>> difference(0.02).text, difference(-1e-9).text, difference(None).text
    ('+2.00%', '+0.00%', '–')
    """
    if ratio is None:
        return Cell("–")
    return Cell(f"{round(ratio, 4) + 0.0:+.2%}", "good" if abs(ratio) <= CLOSE else "warn")  # never "-0.00%"


def gib(count: int) -> str:
    """GiB for a column.

    >>> gib(25_250_000_000), gib(4096), gib(0), gib(2**44 + 2**30)
    ('23.5', '<0.1', '–', '16,385')
    """
    if count == 0:
        return "–"
    if 0 < count < GIB // 20:
        return "<0.1"
    return format_gib(count, digits=0 if count >= MANY_GIB * GIB else 1)


MANY_GIB = 1_000
"""From here on a tenth says nothing and makes the column too wide."""


def cards(cluster: Cluster) -> str:
    """How many of which card; for a class, what stands for it; and the machines, when there are several."""
    gpu = cluster.gpu
    kind = f" as the weakest {gpu.id} card" if gpu.represents else ""
    where = f" on {cluster.nodes} nodes" if cluster.nodes > 1 else ""
    return f"{cluster.world_size} × {gpu.name}{kind}{where}"


def usable(cluster: Cluster) -> str:
    """GiB that a training process may take on each card."""
    return format_gib(cluster.usable_bytes)


def against(candidate: Candidate) -> str:
    """Bytes needed of the bytes that the card offers."""
    return f"{gib(candidate.estimate.peak.required_bytes)} of {usable(candidate.scenario.cluster)} GiB"


def dollars(prices: tuple[float | None, float | None]) -> str:
    """A price range per hour, or nothing where no price is known.

    >>> dollars((0.3, 0.6)), dollars((None, 2.0)), dollars((None, None))
    ('$0.30–0.60/h', '$2.00/h', '')
    """
    known = [f"{price:,.2f}" for price in prices if price is not None]
    return f"${'–'.join(dict.fromkeys(known))}/h" if known else ""

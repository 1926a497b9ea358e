"""Offers of the moment through gpuhunt, which reads sellers' public lists; none of those asked here wants credentials.

gpuhunt is the optional extra ``prices``. Whatever goes wrong there is one line, and the dated snapshot serves instead.
"""

import logging
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import Protocol

from planner.errors import first_line
from planner.prices.names import profile_of
from planner.spec import Gpu, Price

TIMEOUT_S = 20.0
"""Seconds that one answer may take; gpuhunt itself sets no limit."""

SELLERS = ("aws", "azure", "verda", "gcp", "lambdalabs", "nebius", "oci", "runpod", "cloudrift")
"""Those whose lists gpuhunt publishes for everybody (0.1.34, _internal/catalog.py, OFFLINE_PROVIDERS); most others want
an account."""

HYPERSCALERS = frozenset({"aws", "azure", "gcp", "oci"})
"""Sellers in gpuhunt's spelling whose prices are given beside the others'."""

MOST_CARDS = 8
"""Cards of the largest machine that is asked for."""

INSTALL = "pip install 'finetune-planner[prices]'"


class Item(Protocol):
    """Fields of gpuhunt 0.1.34's ``CatalogItem``: ``price`` is per hour of all its cards, ``gpu_memory`` of one."""

    provider: str
    instance_name: str
    location: str
    price: float
    gpu_count: int
    gpu_name: str | None
    gpu_memory: float | None
    spot: bool


class Catalog(Protocol):
    """What is called of gpuhunt's ``Catalog``."""

    def query(
        self, *, provider: list[str], min_gpu_count: int, max_gpu_count: int, spot: bool
    ) -> Sequence[Item]: ...  # pragma: no cover


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """What so many cards of one kind in one machine are let for now: the price per GPU-hour over all sellers, and the
    cheapest of these.
    """

    price: Price
    provider: str
    region: str


Markets = Mapping[tuple[str, int], Market]
"""By profile and number of cards."""


class Unavailable(Exception):
    """No live prices, and why, in one line."""


def markets(gpus: Iterable[Gpu], *, today: date, spot: bool = False, catalog: Catalog | None = None) -> Markets:
    """Offers of the moment for ``gpus``; raise ``Unavailable`` where there are none to be had."""
    with _quiet():
        try:
            items = _ask(catalog or _catalog(), spot=spot)
        except Unavailable:
            raise
        except Exception as error:  # a library that talks to many services may fail in any way
            raise Unavailable(f"gpuhunt got no prices ({type(error).__name__}: {first_line(error)})") from None
    found = _grouped(gpus, (item for item in items if item.spot == spot and item.price > 0))
    if not found:
        raise Unavailable(f"gpuhunt knows no {'spot ' if spot else ''}offer of any card in the profiles")
    return {key: _market(offers, today) for key, offers in found.items()}


def _ask(catalog: Catalog, *, spot: bool) -> Sequence[Item]:
    return catalog.query(provider=list(SELLERS), min_gpu_count=1, max_gpu_count=MOST_CARDS, spot=spot)


def _catalog() -> Catalog:
    """The catalogue of published lists, read from the network."""
    try:
        import gpuhunt  # noqa: PLC0415  (optional, and it loads requests)
    except ImportError:
        raise Unavailable(f"gpuhunt is not installed: {INSTALL}") from None
    catalog = gpuhunt.Catalog(auto_reload=False)
    catalog.load()
    return catalog  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """A limit on every answer, and nothing on stderr: what goes wrong is said in our own line."""
    logger, timeout = logging.getLogger("gpuhunt"), socket.getdefaulttimeout()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        logger.setLevel(level)
        socket.setdefaulttimeout(timeout)


def _grouped(gpus: Iterable[Gpu], items: Iterable[Item]) -> dict[tuple[str, int], list[Item]]:
    """Items by the profile that they are a card of, and by their number of cards."""
    known = {gpu.id for gpu in gpus}
    found: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        gpu = profile_of(item)
        if gpu in known and gpu is not None:
            found.setdefault((gpu, item.gpu_count), []).append(item)
    return found


def _market(items: Sequence[Item], today: date) -> Market:
    """The range over sellers, each at its cheapest: the lowest, the median, the cheapest hyperscaler."""
    best: dict[str, Item] = {}
    for item in items:
        if item.provider not in best or item.price < best[item.provider].price:
            best[item.provider] = item
    rates = {name: item.price / item.gpu_count for name, item in best.items()}
    cheapest = min(best.values(), key=lambda item: item.price)
    price = Price(
        low_usd=min(rates.values()),
        typical_usd=median(rates.values()),
        hyperscaler_usd=min((usd for name, usd in rates.items() if name in HYPERSCALERS), default=None),
        as_of=today.isoformat(),
        basis=f"median of {len(rates)} seller{'' if len(rates) == 1 else 's'}, each at its cheapest (gpuhunt)",
    )
    return Market(price=price, provider=cheapest.provider, region=cheapest.location)

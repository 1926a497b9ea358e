"""The age of a price, and offers of the moment from a gpuhunt that is not asked anything over the network."""

import builtins
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date

import pytest

from planner.errors import BrokenInput, UnknownName
from planner.hardware import list_gpus
from planner.prices import age, is_old, staleness
from planner.prices.live import SELLERS, Unavailable, markets
from planner.prices.names import BOARDS, NAMES, profile_of
from planner.prices.source import is_live

TODAY = date(2026, 11, 26)


@dataclass
class Item:
    """The fields of gpuhunt's ``CatalogItem`` that are read."""

    provider: str
    instance_name: str
    location: str
    price: float
    gpu_count: int
    gpu_name: str | None
    gpu_memory: float | None
    spot: bool = False


class Catalog:
    """Answers as gpuhunt's does, from a list."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.asked: dict[str, object] = {}

    def query(self, **wanted: object) -> Sequence[Item]:
        self.asked = wanted
        return self.items


LISTED = (
    Item("runpod", "NVIDIA GeForce RTX 4090", "EU-RO-1", 0.69, 1, "RTX4090", 24.0),
    Item("runpod", "NVIDIA GeForce RTX 4090", "US-IL-1", 0.74, 1, "RTX4090", 24.0),
    Item("cloudrift", "rtx49-8c-kn", "us-east-nc-nr-1", 0.39, 1, "RTX4090", 24.0),
    Item("aws", "p5.48xlarge", "us-east-1", 55.04, 8, "H100", 80.0),
    Item("lambdalabs", "gpu_8x_h100_sxm5", "us-east-1", 23.92, 8, "H100", 80.0),
    Item("azure", "Standard_NC24ads_A100_v4", "eastus", 3.67, 1, "A100", 80.0),
    Item("aws", "m5.large", "us-east-1", 0.096, 0, None, None),
    Item("runpod", "NVIDIA GeForce RTX 4090", "EU-RO-1", 0.31, 1, "RTX4090", 24.0, True),
)


def test_prices_are_per_gpu_hour_over_sellers() -> None:
    catalog = Catalog(LISTED)

    found = markets(list_gpus(), today=TODAY, catalog=catalog)

    assert catalog.asked == {"provider": list(SELLERS), "min_gpu_count": 1, "max_gpu_count": 8, "spot": False}
    assert set(found) == {("rtx4090", 1), ("h100", 8), ("a100-80gb-pcie", 1)}
    desktop, server = found["rtx4090", 1], found["h100", 8]
    assert (desktop.price.low_usd, desktop.provider) == (0.39, "cloudrift")
    assert desktop.price.basis.startswith("median of 2 sellers")
    assert desktop.price.typical_usd == pytest.approx((0.39 + 0.69) / 2)
    assert desktop.price.hyperscaler_usd is None
    assert (server.price.low_usd, server.price.hyperscaler_usd) == (23.92 / 8, 55.04 / 8)
    assert server.price.as_of == "2026-11-26"


def test_spot_is_kept_apart() -> None:
    found = markets(list_gpus(), today=TODAY, spot=True, catalog=Catalog(LISTED))

    assert set(found) == {("rtx4090", 1)}
    assert found["rtx4090", 1].price.low_usd == 0.31


@pytest.mark.parametrize(
    ("provider", "instance", "profile"),
    [
        ("azure", "Standard_ND96amsr_A100_v4", "a100-80gb"),
        ("azure", "Standard_NC24ads_A100_v4", "a100-80gb-pcie"),
        ("runpod", "NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("runpod", "NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("gcp", "a2-ultragpu-1g", "a100-80gb"),
        ("lambdalabs", "gpu_8x_a100", "a100-80gb-pcie"),
    ],
)
def test_the_board_is_read_from_seller_and_instance(provider: str, instance: str, profile: str) -> None:
    assert profile_of(Item(provider, instance, "", 1.0, 1, "A100", 80.0)) == profile


def test_every_name_is_a_profile() -> None:
    known = {gpu.id for gpu in list_gpus()}

    assert set(NAMES.values()) | {one for boards in BOARDS.values() for one in boards.values()} <= known


def test_an_empty_answer_is_one_line() -> None:
    with pytest.raises(Unavailable, match="no offer of any card"):
        markets(list_gpus(), today=TODAY, catalog=Catalog(()))


class Down:
    """A network that is not there."""

    def query(self, **_: object) -> Sequence[Item]:
        logging.getLogger("gpuhunt").error("a line that nobody should see")
        raise OSError("[Errno -3] Temporary failure in name resolution\nand more")


def test_a_network_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unavailable) as caught:
        markets(list_gpus(), today=TODAY, catalog=Down())

    assert str(caught.value) == "gpuhunt got no prices (OSError: [Errno -3] Temporary failure in name resolution)"
    assert capsys.readouterr().err == ""


def test_without_the_package_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "gpuhunt":
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(Unavailable, match=r"pip install 'finetune-planner\[prices\]'"):
        markets(list_gpus(), today=TODAY)


def test_the_fields_are_those_of_gpuhunt() -> None:
    gpuhunt = pytest.importorskip("gpuhunt")
    own = {field.name for field in fields(gpuhunt.CatalogItem)}

    assert {field.name for field in fields(Item)} <= own


def test_the_source_of_prices() -> None:
    assert [is_live(text) for text in (None, "snapshot", "live")] == [False, False, True]
    with pytest.raises(UnknownName, match="one of snapshot, live"):
        is_live("cached")


def test_ages() -> None:
    assert age("2026-10", TODAY) == "2 months old"
    assert not is_old("2026-10", TODAY)
    assert staleness(["2026-10"], date(2027, 1, 26)) is not None
    with pytest.raises(BrokenInput, match="not YYYY-MM"):
        age("October", TODAY)

"""What ``hardware_profiles/prices.toml`` may say: dated prices, and who printed them."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from planner.hardware_sections import Id, Line, Positive, Strict, Url


class Offer(Strict):
    """Prices of one GPU in USD per GPU-hour, on demand: at least two, in order."""

    low: Positive | None = None
    typical: Positive | None = None
    hyperscaler: Positive | None = None
    basis: Line
    sources: Annotated[list[Id], Field(min_length=1)]
    estimated: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = [price for price in (self.low, self.typical, self.hyperscaler) if price is not None]
        if len(given) < 2:
            raise ValueError("a price is a range: give two of low, typical and hyperscaler")
        if given != sorted(given):
            raise ValueError("prices must satisfy low <= typical <= hyperscaler")
        return self


class PriceSource(Strict):
    id: Id
    document: Line
    url: Url | None = None
    note: Line | None = None


class PriceList(Strict):
    as_of: Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")]
    source: list[PriceSource]
    gpus: dict[Id, Offer]

    @model_validator(mode="after")
    def _sourced(self) -> Self:
        known = {source.id for source in self.source}
        for gpu, offer in self.gpus.items():
            if unknown := [name for name in offer.sources if name not in known]:
                raise ValueError(f"gpus.{gpu}.sources names {unknown[0]}, which no [[source]] describes")
        return self

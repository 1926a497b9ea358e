"""A recipe as a table and as a part of the document: what to set, in which range, on whose word."""

from planner.recommend.recipe import Recipe
from planner.recommend.sourced import Advice
from planner.render.sheet import Column, Sheet, row

NAMES = {
    "learning_rate": "learning rate",
    "second_rate": "by another formula",
    "global_batch": "batch",
    "epochs": "epochs",
    "warmup": "warm-up",
    "scheduler": "schedule",
    "weight_decay": "weight decay",
    "rank": "rank",
    "alpha": "alpha",
    "rslora": "rsLoRA",
    "dropout": "dropout",
    "targets": "targets",
    "modules_to_save": "trained whole",
}
"""Settings in words; a test holds the keys against the fields of ``Recipe``."""


def sheet(recipe: Recipe) -> Sheet:
    """One row per setting: where to start, how far others go, and who says so."""
    columns = (
        Column("setting"),
        Column("start at", numeric=True),
        Column("range", numeric=True),
        Column("why and on whose word", wraps=True, optional=True),
    )
    rows = (row((NAMES[name], value(advice), bounds(advice), reason(advice))) for name, advice in recipe.items())
    return Sheet("Recipe to start from", columns, tuple(rows))


def document(recipe: Recipe) -> dict[str, dict[str, object]]:
    """The part of the JSON document: each setting with its range and source."""
    return {
        name: {
            "value": list(advice.value) if isinstance(advice.value, tuple) else advice.value,
            "low": advice.low,
            "high": advice.high,
            "why": advice.why,
            "source": advice.source,
        }
        for name, advice in recipe.items()
    }


def value(advice: Advice) -> str:
    """The start in words.

    >>> value(Advice(2e-4, "")), value(Advice(True, "")), value(Advice(("embed_tokens", "lm_head"), ""))
    ('2e-04', 'on', 'embed_tokens, lm_head')
    """
    match advice.value:
        case bool():
            return "on" if advice.value else "off"
        case tuple():
            return ", ".join(advice.value)
        case str():
            return advice.value
        case number:
            return _number(number)


def bounds(advice: Advice) -> str:
    """The range in words; empty where there is none.

    >>> bounds(Advice(16, "", low=8, high=32)), bounds(Advice("cosine", ""))
    ('8–32', '')
    """
    if advice.low is None or advice.high is None:
        return ""
    return f"{_number(advice.low)}–{_number(advice.high)}"


def reason(advice: Advice) -> str:
    """Why, and on whose word."""
    return f"{advice.why} ({advice.source})" if advice.why else advice.source


def _number(number: float) -> str:
    """Small ones as powers of ten, as people write learning rates.

    >>> _number(0.0001), _number(0.03), _number(32.0)
    ('1e-04', '0.03', '32')
    """
    return f"{number:.1e}".replace(".0e", "e") if 0 < abs(number) < 0.01 else f"{number:g}"

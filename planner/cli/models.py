"""``plan models [QUERY]``."""

from planner.catalog import list_models
from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.show import show
from planner.errors import EXIT_FITS, UnknownName
from planner.render.listings import models_document, models_sheet


def main(values: Values) -> int:
    """List the models whose name contains every word of the query."""
    format_name = check_format(values["format"])
    query = values["query"] or ""
    models = list_models(query)
    if not models:
        raise UnknownName("model", query, [model.id for model in list_models()], listing="plan models")
    show(format_name, lambda: [models_sheet(models)], lambda: models_document(models))
    return EXIT_FITS

"""``plan gpus [QUERY]``; ``plan gpus local`` is what is here."""

from collections.abc import Iterable

from planner.cli.options import Values, profiles_dir
from planner.cli.output import check_format
from planner.cli.show import show
from planner.errors import EXIT_FITS, UnknownName
from planner.hardware import list_classes, list_gpus
from planner.render.listings import classes_sheet, gpus_document, gpus_sheet, local_sheet
from planner.render.sheet import Sheet
from planner.spec import Gpu


def main(values: Values) -> int:
    """List the cards whose name contains every word of the query, and the classes when there is none."""
    format_name = check_format(values["format"])
    folder, query = profiles_dir(values), values["query"] or ""
    if query.strip().lower() == "local":
        from planner.local import every_card  # noqa: PLC0415  (a list of profiles needs no driver)

        found = every_card(profiles_dir=folder)
        show(format_name, lambda: [local_sheet(found)], lambda: gpus_document((one.gpu for one in found), ()))
        return EXIT_FITS
    gpus = _matching(list_gpus(folder), query)
    classes = _matching(list_classes(folder), query)
    if not gpus and not classes:
        names = [name for gpu in list_gpus(folder) for name in (gpu.id, *gpu.aliases)]
        raise UnknownName("gpu", query, names, listing="plan gpus")

    def sheets() -> list[Sheet]:
        return [*([gpus_sheet(gpus)] if gpus else []), *([classes_sheet(classes)] if classes else [])]

    show(format_name, sheets, lambda: gpus_document(gpus, classes))
    return EXIT_FITS


def _matching(gpus: Iterable[Gpu], query: str) -> list[Gpu]:
    parts = query.lower().split()
    return [gpu for gpu in gpus if all(part in " ".join((gpu.id, gpu.name, *gpu.aliases)).lower() for part in parts)]

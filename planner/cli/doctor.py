"""``plan doctor``: what is here to plan, trace and measure with."""

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.show import show
from planner.doctor import ABILITIES, examine
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS, UnknownName
from planner.render.doctor import doctor_document, doctor_sheets


def main(values: Values) -> int:
    """Examine and print; 4 when something that ``--needs`` names cannot run here."""
    format_name = check_format(values["format"])
    needed = [name.strip().lower() for name in values["needs"] or ()]
    for name in needed:
        if name not in ABILITIES:
            raise UnknownName("ability", name, ABILITIES)
    found = examine()
    show(format_name, lambda: doctor_sheets(found), lambda: doctor_document(found))
    lacks = any(why for name, why in found.lacking.items() if name in needed)
    return EXIT_NOTHING_FITS if lacks else EXIT_FITS

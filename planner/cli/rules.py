"""``plan rules``."""

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.show import show
from planner.errors import EXIT_FITS
from planner.recommend.rules import RULES, documentation, title
from planner.render.listings import rules_sheet


def main(values: Values) -> int:
    """List every rule with its code and its sentence."""
    format_name = check_format(values["format"])
    document = {
        "schema": 1,
        "rules": [
            {"code": rule.code, "name": rule.slug, "title": title(rule), "text": documentation(rule)} for rule in RULES
        ],
    }
    show(format_name, lambda: [rules_sheet(RULES, map(title, RULES))], lambda: document)
    return EXIT_FITS

"""Everything that a report shows, gathered: the plan and what surrounds it."""

from planner.reporting.documents import Document
from planner.reporting.report import Report, report

__all__ = ["Document", "Report", "report"]

"""Everything that a report shows, gathered: the plan and what surrounds it."""

from planner.reporting.documents import Document
from planner.reporting.gather import Report, report

__all__ = ["Document", "Report", "report"]

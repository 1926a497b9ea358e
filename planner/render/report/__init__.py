"""``plan report``: the whole answer as one HTML file."""

from planner.render.report.page import page

__all__ = ["page"]

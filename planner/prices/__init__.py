"""What cards cost: the age of the dated snapshot, and offers of the moment on request."""

from planner.prices.age import OLD_DAYS, age, age_days, is_old, staleness, today

__all__ = ["OLD_DAYS", "age", "age_days", "is_old", "staleness", "today"]

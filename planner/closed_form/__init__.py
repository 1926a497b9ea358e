"""The closed-form estimator: ``Scenario`` in, ``Estimate`` out, in a fraction of a millisecond."""

from planner.closed_form.estimator import estimate

__all__ = ["estimate"]

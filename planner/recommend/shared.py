"""The estimator for many questions at once: one closed form for all cards of a kind, calibrated for each card."""

from planner.closed_form.shared import shared
from planner.estimators import Estimator, calibrated, measured_here


def shared_estimator() -> Estimator:
    """The calibrated closed form as ``estimator_for("closed-form")`` has it, equal to it in every number, but faster.

    It remembers what it was asked: make one for each batch of questions, and let it go with them.
    """
    return calibrated(shared(), measured_here().calibration)

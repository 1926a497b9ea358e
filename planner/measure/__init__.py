"""A few real training steps on the device that is here, in a child process: ``Scenario`` in, ``Measurement`` out.

Only ``step``, ``work``, ``counters`` and ``sizes`` load torch, and they run in the child: the parent never initialises
a driver, and whatever ends the child (no memory, a signal, a timeout, a driver's error) is a recorded outcome.
"""

from planner.measure.run import look, measure, predict
from planner.measure.task import Device
from planner.measure.values import Comparison, Measurement, PhasePeak, Prediction, StepPeaks, compare

__all__ = [
    "Comparison",
    "Device",
    "Measurement",
    "PhasePeak",
    "Prediction",
    "StepPeaks",
    "compare",
    "look",
    "measure",
    "predict",
]

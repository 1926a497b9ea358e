"""Why a run used more, or less, than planned: an out-of-memory message, or observed bytes, against the prediction."""

from planner.why.diagnosis import diagnose, read
from planner.why.message import Amount, Failure, parse
from planner.why.traceback import hints, place
from planner.why.values import Clue, Diagnosis, Difference, Observation

__all__ = [
    "Amount",
    "Clue",
    "Diagnosis",
    "Difference",
    "Failure",
    "Observation",
    "diagnose",
    "hints",
    "parse",
    "place",
    "read",
]

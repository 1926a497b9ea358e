"""From estimates to a choice: candidates, verdicts, rules with reasons, ways out, and the methods compared."""

from planner.recommend.candidates import candidate, candidates, scenario
from planner.recommend.choice import recommend
from planner.recommend.request import Ask, Request, command
from planner.recommend.rules import FAMILIES, RULES, explain, find
from planner.recommend.verdict import judge

__all__ = [
    "FAMILIES",
    "RULES",
    "Ask",
    "Request",
    "candidate",
    "candidates",
    "command",
    "explain",
    "find",
    "judge",
    "recommend",
    "scenario",
]

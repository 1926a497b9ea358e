"""Options of ``plan rent``: those of a job without hardware, limits, and where prices come from."""

from planner.cli.data import DATA
from planner.cli.options import FORMAT, JOB, MODEL, PROFILES, Option

RENTED = (
    MODEL[0],
    Option("max_gpus", "integer", "cards in all, at most", "8", "N"),
    Option("budget", "text", "what the run may cost, for instance 40USD", "no limit", "MONEY"),
    Option("deadline", "text", "how long it may take, for instance 12h or 2d", "no limit", "TIME"),
    Option(
        "prices",
        "text",
        "snapshot: dated, shipped; live: sellers' lists, by gpuhunt",
        "snapshot",
        "SOURCE",
    ),
    Option("spot", "flag", "with live prices: machines that may be taken away"),
    Option("download_gbps", "number", "network from the Hub, in Gbit/s", "1", "X"),
    *DATA,
    *(option for option in JOB if option.name not in ("gpus", "nodes", "evidence")),
    PROFILES,
    FORMAT,
)

"""The machine that this runs on: its cards, what others hold on them, and which of our profiles they are.

NVML says it (nvidia-ml-py, the extra ``local``), else ``nvidia-smi``; where neither has a driver to ask, the processor
stands in. CUDA is never initialised.
"""

from planner.local.card import LOCAL, card_of_board, cpu_card, processor_card, profile_of, profile_of_board
from planner.local.machine import Cards, cards_here, every_card, look
from planner.local.values import Board, Holder, Link, Machine

__all__ = [
    "LOCAL",
    "Board",
    "Cards",
    "Holder",
    "Link",
    "Machine",
    "card_of_board",
    "cards_here",
    "cpu_card",
    "every_card",
    "look",
    "processor_card",
    "profile_of",
    "profile_of_board",
]

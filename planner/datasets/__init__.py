"""Training data on disk: how many rows and tokens, how long, and what cannot be used.

``read`` is the door. A small file is read whole, a large one by a random sample that is scaled to it.
"""

from planner.datasets.reading import read

__all__ = ["read"]

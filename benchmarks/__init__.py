"""How fast the planner starts and how many estimates it makes: ``python -m benchmarks.run``."""

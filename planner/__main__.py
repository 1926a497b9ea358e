"""``python -m planner`` is the ``plan`` command."""

from planner.cli import run

if __name__ == "__main__":
    run()

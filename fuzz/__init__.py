"""Feeds the readers what nobody means to write: ``python -m fuzz [TARGET ...] [--seconds N]``.

Whatever a reader is given, it answers, or refuses in one line that says why. A finding is shrunk and becomes a file
under ``tests/fuzz/cases``, which the tests read ever after.
"""

"""Writes axolotl's YAML."""

from planner.configs.written import Chosen, Written


def write(chosen: Chosen) -> Written:
    raise NotImplementedError

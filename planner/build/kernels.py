"""Fused kernels in a real model: what a scenario asks for is put into the model, or refused."""

from planner.errors import UnsupportedScenario
from planner.spec import Scenario


def check_kernels(scenario: Scenario) -> None:
    """Raise ``UnsupportedScenario`` for kernels that no installed library has: nothing is left out in silence."""
    if scenario.train.kernels != "eager":
        raise UnsupportedScenario(
            f"--kernels {scenario.train.kernels} is not in the installed libraries: "
            "use --kernels eager, or --evidence closed-form"
        )

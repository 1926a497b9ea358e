"""What a process takes besides tensors: each constant against the place that prints it."""

import pytest

from planner.formulas.overhead import CUBLAS_WORKSPACE, cublas_workspace, spare_fraction

WORKSPACES = [
    # :4096:2:16:8 is 4096 KiB twice and 16 KiB eight times: 8,519,680 bytes; one per handle
    ((7, 5), 2 * 8_519_680),
    ((8, 0), 2 * 8_519_680),
    ((8, 9), 2 * 8_519_680),
    # from Hopper on 32 MiB
    ((9, 0), 2 * 32 * 2**20),
    ((10, 0), 2 * 32 * 2**20),
    ((12, 0), 2 * 32 * 2**20),
]


@pytest.mark.parametrize(("capability", "expected"), WORKSPACES)
def test_cublas_workspace_by_capability(capability: tuple[int, int], expected: int) -> None:
    assert cublas_workspace(capability) == expected


def test_an_unknown_capability_gets_the_smaller_workspace() -> None:
    assert cublas_workspace(None) == 2 * CUBLAS_WORKSPACE


@pytest.mark.parametrize("loss", ["full", "chunked", "fused"])
@pytest.mark.parametrize("kernels", ["eager", "fused"])
def test_every_combination_has_a_spare_fraction(loss: str, kernels: str) -> None:
    assert 0 < spare_fraction(loss, kernels) < 1

"""The scratch memory of ring attention against torch's own code on fake tensors."""

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from planner.formulas.between_ranks import ring
from planner.formulas.operations import Ranks, Recorder
from planner.formulas.tape import ZERO, Tape, Tensor
from tests.parallel.samples import half_precision

pytest.importorskip("torch", minversion="2.10")
pytestmark = pytest.mark.torch

KEY_HEADS = (32, 16, 8, 1)
HEADS, DIM, TOKENS, RANKS = 32, 128, 1024, 4


@lru_cache(maxsize=1)
def real() -> dict[int, tuple[int, int]]:
    """Peaks by the number of key-value heads, of the last of four ranks."""
    script = Path(__file__).with_name("fake_ring.py")
    done = subprocess.run([sys.executable, script, *map(str, KEY_HEADS)], capture_output=True, text=True, check=True)
    return dict(zip(KEY_HEADS, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("keys", KEY_HEADS)
def test_scratch_memory_of_a_ring(keys: int) -> None:
    recipe = half_precision("sdpa")._replace(ranks=Ranks(context=RANKS))
    source = Tensor("source", ZERO, "", 2, grad=True)
    query, key_value = HEADS * DIM, 2 * keys * DIM
    passing, returning = ring(Recorder(recipe, Tape(source)), query=query, key_value=key_value, heads=HEADS)
    output, logsumexp = 2 * query * TOKENS, 4 * HEADS * TOKENS
    gradients = 2 * (query + query + key_value) * TOKENS  # of the output and of all inputs, which the tape counts

    forward, backward = real()[keys]
    assert passing.token * TOKENS + output + logsumexp == pytest.approx(forward, rel=0.01)
    assert returning.token * TOKENS + gradients == pytest.approx(backward, rel=0.01)

"""Silence of the libraries: what they print while a job is built and run is not the user's answer."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

TALKERS = (
    "transformers",
    "bitsandbytes",
    "peft",
    "trl",
    "liger_kernel",
    "accelerate",
    "torch",
    "torch._subclasses.fake_tensor",
    "kernels",
    "datasets",
    "DeepSpeed",
)


@contextmanager
def tidy() -> Iterator[None]:
    """No empty folder for compiled kernels is left among the temporary files: nothing here compiles any.

    ``import torch._dynamo``, which PEFT and transformers' masks do, makes ``torchinductor_USER`` there.
    """
    _found_before.append({*Path(gettempdir()).glob(KERNELS)})
    try:
        yield
    finally:
        tidy_now()
        _found_before.pop()


def tidy_now() -> None:
    """What ``tidy`` does at its end, for a process that ends within it; outside it nothing."""
    for before in _found_before:
        for folder in {*Path(gettempdir()).glob(KERNELS)} - before:
            with suppress(OSError):  # somebody uses it after all
                folder.rmdir()


_found_before: list[set[Path]] = []

KERNELS = "torchinductor_*"
"""torch 2.9 to 2.13 _inductor/runtime/cache_dir_utils.py, default_cache_dir."""


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no log lines and no progress bars of the libraries; errors that are raised still are."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    levels = {name: logging.getLogger(name).level for name in TALKERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in TALKERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def speechless() -> Iterator[None]:
    """Nothing reaches stderr, from C++ neither: torch's profiler writes there when it starts and when it stops."""
    sys.stderr.flush()
    before = os.dup(STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDERR)
        yield
    finally:
        os.dup2(before, STDERR)
        os.close(before)
        os.close(nowhere)


STDERR = 2
"""The descriptor, whatever Python calls stderr."""

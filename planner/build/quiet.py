"""Silence of the libraries: what they print while a job is built and run is not the user's answer."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

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
    before = {*Path(gettempdir()).glob(KERNELS)}

    def remove_kernels() -> None:
        for folder in {*Path(gettempdir()).glob(KERNELS)} - before:
            with suppress(OSError):  # somebody uses it after all
                folder.rmdir()

    with _at_the_end(remove_kernels):
        yield


@contextmanager
def passing_folder() -> Iterator[str]:
    """A temporary folder, which does not outlive a process that ends within ``tidy`` either."""
    folder = TemporaryDirectory(prefix="plan-", ignore_cleanup_errors=True)
    with _at_the_end(folder.cleanup):
        yield folder.name


def tidy_now() -> bool:
    """Do at once what is left to tidy; false where there is nothing, outside ``tidy``."""
    for tidying in _left_to_tidy:
        tidying()
    return bool(_left_to_tidy)


@contextmanager
def _at_the_end(tidying: Callable[[], None]) -> Iterator[None]:
    _left_to_tidy.append(tidying)
    try:
        yield
    finally:
        _left_to_tidy.remove(tidying)
        tidying()


_left_to_tidy: list[Callable[[], None]] = []

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

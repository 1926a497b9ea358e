"""Environment variables that change what a run allocates, or where things lie."""

from collections.abc import Callable, Iterator, Mapping

from planner.allocator.config import Settings, parse
from planner.doctor.values import Fact, State
from planner.errors import PlannerError
from planner.units import KIB, format_bytes

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""The first is read by torch 2.9 and later, which then ignores the others; older torch reads those only."""

Judge = Callable[[str], tuple[State, str]]


def environment(environ: Mapping[str, str]) -> Iterator[Fact]:
    """Every variable that is set and matters; one line where none is."""
    found = [*_allocator(environ), *_others(environ)]
    yield from found or [Fact("environment", "variables", "none that bears on memory is set")]


def _allocator(environ: Mapping[str, str]) -> Iterator[Fact]:
    named = [name for name in ALLOCATOR if name in environ]
    for name in named:
        try:
            settings = parse(environ[name])
        except PlannerError as error:
            yield Fact("environment", name, environ[name], "bad", str(error))
            continue
        advice = "" if settings != Settings() else "changes no bytes"
        if settings != Settings():
            advice = "the plan takes the defaults; plan trace --alloc-conf takes this"
        if len(named) > 1 and name != named[0]:
            advice = f"ignored by torch 2.9 and later, where {named[0]} is set"
        yield Fact("environment", name, environ[name], "note", advice)


def _others(environ: Mapping[str, str]) -> Iterator[Fact]:
    for name, judge in VARIABLES.items():
        if name in environ:
            state, advice = judge(environ[name])
            yield Fact("environment", name, environ[name] or "(empty)", state, advice)


def _said(state: State, advice: str) -> Judge:
    return lambda _value: (state, advice)


def _where_on(state: State, advice: str) -> Judge:
    """What holds unless the variable says no."""
    return lambda value: ("ok", "off") if value.strip().lower() in ("", "0", "false", "no", "off") else (state, advice)


def workspace_bytes(text: str) -> int | None:
    """Bytes of a workspace such as ``:4096:2:16:8``: pairs of KiB and how many; ``None`` for another form.

    >>> workspace_bytes(":4096:2:16:8"), workspace_bytes("4 MiB")
    (8519680, None)
    """
    numbers = text.strip().split(":")
    if numbers[0] or len(numbers) < 3 or len(numbers) % 2 == 0 or not all(part.isdigit() for part in numbers[1:]):
        return None
    return sum(int(size) * KIB * int(count) for size, count in zip(numbers[1::2], numbers[2::2], strict=True))


def _workspace(value: str) -> tuple[State, str]:
    """The workspace that the variable sets, for each of two handles."""
    count = workspace_bytes(value)
    if count is None:
        return "warning", "not of the form :KIB:COUNT, so torch takes its default"
    return "note", f"each cuBLAS handle takes {format_bytes(count)}; the plan counts the default"


def _loading(value: str) -> tuple[State, str]:
    """PyTorch pull request 86509: 274 MiB lazy, 636 MiB eager."""
    if value.upper() == "EAGER":
        return "warning", "all kernels are loaded at once: the CUDA context is some 360 MiB larger than planned"
    return "note", "the default since CUDA 12.2"


VARIABLES: Mapping[str, Judge] = {
    "CUDA_VISIBLE_DEVICES": _said("note", "chooses and orders the cards that torch and --gpu local see"),
    "CUDA_DEVICE_ORDER": _said("note", "orders the cards; PCI_BUS_ID is nvidia-smi's order"),
    "HIP_VISIBLE_DEVICES": _said("note", "chooses and orders the cards that torch sees"),
    "CUDA_LAUNCH_BLOCKING": _where_on("warning", "every kernel is waited for: times are longer, bytes the same"),
    "CUDA_MODULE_LOADING": _loading,
    "CUBLAS_WORKSPACE_CONFIG": _workspace,
    "NVIDIA_TF32_OVERRIDE": _said("note", "changes speed and rounding, no bytes"),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": _where_on(
        "warning", "nothing is cached: reserved bytes are the allocated ones, and every step is slower"
    ),
    "NCCL_BUFFSIZE": _said("note", "changes NCCL's buffers, outside of torch's allocator"),
    "OMP_NUM_THREADS": _said("note", "changes scratch memory of steps on the processor"),
    "HF_HOME": _said("note", "where models and data sets are downloaded to"),
    "HF_HUB_OFFLINE": _where_on("note", "nothing is fetched from the Hub"),
    "FINETUNE_PLANNER_CACHE": _said("note", "where traces are kept, or off"),
}
"""What each variable does; asked only where it is set."""

"""Messages of every era, written as torch and its companions write them, with numbers of our own."""

import pytest

from planner.errors import UnsupportedScenario, UsageError
from planner.units import GIB, MIB
from planner.why import Amount, parse
from planner.why.message import Failure, amount

TORCH_1_2 = (
    "RuntimeError: CUDA out of memory. Tried to allocate 392.00 MiB (GPU 1; 10.92 GiB total capacity; 9.61 GiB "
    "already allocated; 203.50 MiB free; 512.25 MiB cached)"
)
TORCH_1_8 = (
    "RuntimeError: CUDA out of memory. Tried to allocate 1.96 GiB (GPU 0; 23.69 GiB total capacity; 20.02 GiB "
    "already allocated; 512.81 MiB free; 22.50 GiB reserved in total by PyTorch)"
)
TORCH_1_13 = (
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 MiB (GPU 0; 14.76 GiB total "
    "capacity; 11.20 GiB already allocated; 25.75 MiB free; 12.00 GiB allowed; 11.90 GiB reserved in total by "
    "PyTorch) If reserved memory is >> allocated memory try setting max_split_size_mb to avoid fragmentation.  "
    "See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
)
TORCH_2_1 = (
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.91 GiB. GPU 0 has a total capacty of "
    "79.15 GiB of which 2.62 GiB is free. Process 31337 has 76.52 GiB memory in use. Of the allocated memory "
    "70.10 GiB is allocated by PyTorch, and 5.77 GiB is reserved by PyTorch but unallocated. If reserved but "
    "unallocated memory is large try setting max_split_size_mb to avoid fragmentation.  See documentation for "
    "Memory Management and PYTORCH_CUDA_ALLOC_CONF"
)
TORCH_2_9 = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 23.64 "
    "GiB of which 512.19 MiB is free. Process 811 has 1.25 GiB memory in use. Including non-PyTorch memory, this "
    "process has 21.88 GiB memory in use. Of the allocated memory 20.02 GiB is allocated by PyTorch, with 24.00 "
    "MiB allocated in private pools (e.g., CUDA Graphs), and 1.40 GiB is reserved by PyTorch but unallocated. If "
    "reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
    "fragmentation."
)
HIP = TORCH_2_9.replace("CUDA out of memory", "HIP out of memory")


def close(found: Amount | None, count: float) -> bool:
    """Whether the range holds this many bytes and is no wider than its print."""
    return found is not None and found.low <= count <= found.high and found.high - found.low <= 0.0101 * GIB


def test_before_reserved_was_a_word() -> None:
    found = parse(TORCH_1_2)

    assert (found.kind, found.device) == ("allocator", 1)
    assert close(found.requested, 392 * MIB)
    assert close(found.total, 10.92 * GIB)
    assert close(found.allocated, 9.61 * GIB)
    assert close(found.free, 203.5 * MIB)
    assert close(found.unallocated, 512.25 * MIB)


def test_torch_1() -> None:
    found = parse(TORCH_1_8)

    assert close(found.allocated, 20.02 * GIB)
    assert found.unallocated is not None
    assert found.unallocated.low <= 2.48 * GIB <= found.unallocated.high
    assert found.allowed is None


def test_torch_1_13_with_a_limit() -> None:
    found = parse(TORCH_1_13)

    assert close(found.allowed, 12 * GIB)
    assert close(found.free, 25.75 * MIB)
    assert close(found.total, 14.76 * GIB)


def test_torch_2_1_with_its_spelling() -> None:
    found = parse(TORCH_2_1)

    assert close(found.total, 79.15 * GIB)
    assert [(pid, count.middle // MIB) for pid, count in found.others] == [(31337, 78356)]
    assert close(found.unallocated, 5.77 * GIB)
    assert found.process is None


@pytest.mark.parametrize("text", [TORCH_2_9, HIP], ids=["cuda", "hip"])
def test_torch_2(text: str) -> None:
    found = parse(text)

    assert found.device == 3
    assert close(found.requested, 2 * GIB)
    assert close(found.free, 512.19 * MIB)
    assert close(found.process, 21.88 * GIB)
    assert close(found.allocated, 20.02 * GIB)
    assert close(found.unallocated, 1.40 * GIB)
    assert found.others[0][0] == 811
    assert found.wanted == found.allocated.plus(found.requested)  # type: ignore[union-attr, arg-type]
    assert found.text.endswith("1.40 GiB is reserved by PyTorch but unallocated")


def test_a_process_that_has_more_than_the_card_is_nvml_missing() -> None:
    text = TORCH_2_9.replace("this process has 21.88 GiB", "this process has 17179869184.00 GiB")

    assert parse(text).process is None


def test_the_last_of_several_messages_counts() -> None:
    found = parse(f"{TORCH_1_8}\nretrying with half of the batch\n{TORCH_2_9}")

    assert found.device == 3
    assert parse(f"{TORCH_2_9}\n{TORCH_1_2}").device == 1


def test_lines_may_be_wrapped_and_carry_ranks() -> None:
    wrapped = "[rank3]: Traceback (most recent call last):\n[rank3]: " + TORCH_2_9.replace(". ", ".\n")

    assert parse(wrapped) == parse(TORCH_2_9)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", "driver"),
        ("RuntimeError: CUDA driver error: out of memory", "driver"),
        ("cudaErrorMemoryAllocation: out of memory", "driver"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "library"),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "library"),
        (
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
            "library",
        ),
        ("NCCL WARN Cuda failure 'out of memory'", "library"),
        ("Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp", "managed"),
    ],
)
def test_who_else_can_run_out(text: str, kind: str) -> None:
    assert parse(text).kind == kind


def test_the_cpu_names_bytes() -> None:
    found = parse(
        "RuntimeError: [enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 17179869184 bytes. Error code 12 (Cannot allocate memory)"
    )

    assert found.kind == "cpu"
    assert found.requested == Amount(2**34, 2**34)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.",
            "JAX",
        ),
        ("ResourceExhaustedError: OOM when allocating tensor with shape[8,4096]", "TensorFlow"),
        ("RuntimeError: MPS backend out of memory (MPS allocated: 17.95 GB)", "Apple"),
        ("torch.OutOfMemoryError: XPU out of memory. Tried to allocate 2.00 GiB.", "XPU"),
    ],
)
def test_other_frameworks_are_refused_by_name(text: str, name: str) -> None:
    with pytest.raises(UnsupportedScenario, match=name):
        parse(text)


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_that_no_counter_holds_are_no_numbers(digits: int) -> None:
    """Python itself refuses to read integers of more than 4,300 digits."""
    with pytest.raises(UsageError):
        parse(f"CUDA out of memory. Tried to allocate {'9' * digits}.00 GiB.")
    with pytest.raises(UsageError):
        parse(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {'9' * digits} bytes.")


def test_no_message_at_all() -> None:
    with pytest.raises(UsageError, match="--observed"):
        parse("KeyError: 'labels'")


def test_amounts_are_ranges() -> None:
    two = amount("2.00", "GiB")

    assert two.middle == 2 * GIB
    assert (two.distance(2 * GIB), two.distance(two.high + 5), two.distance(two.low - 5)) == (0, 5, -5)
    assert amount("0", "bytes") == Amount(0, 0)


def test_without_numbers_nothing_is_made_up() -> None:
    found = Failure(kind="driver", text="", source="")

    assert (found.reserved, found.wanted) == (None, None)

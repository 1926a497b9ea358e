"""What leaves the card when states are offloaded, and what the host holds for it.

Counts of elements in, bytes out, of one rank. Symbols: ``n`` elements of a rank's part, ``e`` bytes per element.
Sources are files of DeepSpeed 0.19.8, runtime/zero, unless they say otherwise.
"""

from typing import NamedTuple

ADAM_MOMENTS = 8
"""Two moments in fp32. ops/adam/cpu_adam.py, DeepSpeedCPUAdam with fp32_optimizer_states."""

STASH = 5
"""Tensors that stay on the card while the copies of those before them travel. TRL 1.16 models/activation_offloading.py,
max_fwd_stash_size."""

OPTIMIZER_SWAP_BUFFERS = 4
"""offload_config.py, DeepSpeedZeroOffloadOptimizerConfig.buffer_count."""

PARAMETER_SWAP_BUFFERS = 5 * 100_000_000
"""Elements of the buffers through which parameters come from a drive: offload_config.py, buffer_count * buffer_size."""

PARAMETERS_IN_HOST = 1_000_000_000
"""Elements that stay in RAM when parameters lie on a drive: offload_config.py, max_in_cpu."""


class Away(NamedTuple):
    """Bytes of one rank beyond its card. ``pinned`` counts what of the RAM is page-locked; ``nvme`` is a drive's."""

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    buffers: int = 0
    pinned: int = 0
    nvme: int = 0

    def plus(self, other: "Away") -> "Away":
        """Both together."""
        return Away(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def page_locked(count: int) -> int:
    """Bytes of the block that holds ``count`` page-locked bytes.

    Formula:   the next power of two
    Source:    torch 2.13 ATen/core/CachingHostAllocator.h, allocate; c10/core/AllocatorConfig.h,
               pinned_max_round_threshold (without limit by default). DeepSpeed pins through it:
               accelerator/abstract_accelerator.py, _torch_pin_memory
    Excludes:  DS_PIN_MEMORY_BACKEND=native and pinned_max_round_threshold, which round nothing or less

    >>> page_locked(0), page_locked(4096), page_locked(4097)
    (0, 4096, 8192)
    """
    return 1 << (count - 1).bit_length() if count else 0


def offloaded_optimizer(n: int, *, e: int, largest: int, whole: int, pin: bool) -> Away:
    """ZeRO-1 and ZeRO-2 with the optimizer's states and its step in RAM.

    Shapes:    fp32 weights and gradients n each, two moments n each; a 16-bit copy of the updated weights n; a buffer
               for the largest tensor; whole gradients between micro-steps, where there are several
    Formula:   4n + 4n + 8n + e*n + e*largest + e*whole; each but the moments and whole gradients in a block of its own
    Source:    stage_1_and_2.py, single_partition_of_fp32_groups, param_buffer_of_bit16_for_cpu_offload_groups,
               temp_grad_buffer_for_cpu_offload and accumulated_grads_in_cpu; the moments are never pinned
    Valid:     DeepSpeedCPUAdam, into which accelerate turns AdamW
    Excludes:  the processor's own working memory

    >>> found = offloaded_optimizer(1024, e=2, largest=0, whole=0, pin=True)
    >>> sum(found[:5]) / 1024, found.pinned / 1024
    (18.0, 10.0)
    >>> offloaded_optimizer(1100, e=2, largest=0, whole=0, pin=True).pinned / 1024
    20.0
    """
    block = page_locked if pin else int
    masters, gradients = block(4 * n), block(4 * n) + e * whole
    copies = block(e * n) + block(e * largest)
    return Away(
        gradients=gradients,
        optimizer=masters + ADAM_MOMENTS * n,
        buffers=copies,
        pinned=gradients + copies + masters if pin else 0,
    )


def offloaded_optimizer_stage3(n: int, *, e: int, group: int, nvme: bool, pin: bool) -> Away:
    """ZeRO-3 with the optimizer's states in RAM or on a drive, and its step on the processor.

    Shapes:    fp32 weights and gradients, two moments, n each; 16-bit gradients n in a flat buffer. On a drive the
               first four; in RAM four buffers for the largest group of partitions
    Formula:   RAM 16n + e*n, of which fp32 gradients are a block for each group and the flat buffer is one; on a drive
               16n there, and 4 * 4 * group + e*n in RAM
    Source:    stage3.py, _create_fp32_partitions, initialize_optimizer_states and grad_partitions_flat_buffer;
               runtime/swap_tensor/partitioned_optimizer_swapper.py
    Valid:     DeepSpeedCPUAdam; groups of sub_group_size elements
    Excludes:  the processor's own working memory

    >>> sum(offloaded_optimizer_stage3(1024, e=2, group=1024, nvme=False, pin=True)[:5]) / 1024
    18.0
    >>> offloaded_optimizer_stage3(1025, e=2, group=1024, nvme=False, pin=True).gradients
    8196
    >>> offloaded_optimizer_stage3(1000, e=2, group=100, nvme=True, pin=True).nvme
    16000
    """
    block = page_locked if pin else int
    flat = block(e * n)
    if nvme:
        swap = OPTIMIZER_SWAP_BUFFERS * 4 * group
        return Away(gradients=flat, buffers=swap, pinned=swap + (flat if pin else 0), nvme=(8 + ADAM_MOMENTS) * n)
    groups, rest = divmod(n, group) if group else (0, 0)
    gradients = groups * block(4 * group) + block(4 * rest) + flat
    return Away(gradients=gradients, optimizer=(4 + ADAM_MOMENTS) * n, pinned=gradients if pin else 0)


def offloaded_parameters(n: int, *, e: int, nvme: bool) -> Away:
    """ZeRO-3 with a rank's parts of the parameters in RAM or on a drive.

    Shapes:    n elements, always page-locked; with a drive 1e9 of them at most, and buffers of 5e8 elements
    Formula:   e*n in one block; with a drive e*min(n, 1e9) + e*5e8 in RAM, a block each, and the rest on the drive
    Source:    stage3.py, _create_param_groups_fp16_flat_cpu_memory; offload_config.py
    Valid:     every parameter above the persistence threshold

    >>> offloaded_parameters(3_000_000_000, e=2, nvme=True)[-2:]
    (3221225472, 4000000000)
    """
    if not nvme:
        held = page_locked(e * n)
        return Away(parameters=held, pinned=held)
    here = min(n, PARAMETERS_IN_HOST)
    held, swap = page_locked(e * here), page_locked(e * PARAMETER_SWAP_BUFFERS)
    return Away(parameters=held, buffers=swap, pinned=held + swap, nvme=e * (n - here))


class Blocks(NamedTuple):
    """Bytes of a rank's shards, and of page-locked blocks that hold each of them."""

    held: int
    locked: int

    def taken(self, pin: bool) -> int:
        """Bytes of RAM."""
        return self.locked if pin else self.held


def offloaded_shards(*, frozen: Blocks, trained: Blocks, states: int, pin: bool) -> Away:
    """FSDP2 with everything that it divides in RAM: parameters, their gradients, and the optimizer with them.

    Shapes:    the rank's frozen and trained shards; gradients as large as the trained ones; page-locked each tensor's
               in a block of its own
    Formula:   frozen + 2 * trained + states
    Source:    torch 2.13 distributed/fsdp/_fully_shard/_fsdp_api.py, CPUOffloadPolicy (pin_memory), _fsdp_param.py, and
               _fsdp_collectives.py, foreach_reduce (copies without waiting, which ``to`` page-locks); accelerate 1.15
               utils/dataclasses.py, cpu_offload
    Valid:     optimizers of torch, which step where the parameters are; the states are not pinned

    >>> offloaded_shards(frozen=Blocks(0, 0), trained=Blocks(3, 4), states=6, pin=True)
    Away(parameters=4, gradients=4, optimizer=6, activations=0, buffers=0, pinned=8, nvme=0)
    """
    kept, moved = frozen.taken(pin), trained.taken(pin)
    return Away(parameters=kept + moved, gradients=moved, optimizer=states, pinned=kept + 2 * moved if pin else 0)


def offloaded_activations(saved: int, *, stream: int, inputs: int, pin: bool) -> Away:
    """What autograd saves, in RAM until backward asks for it.

    Shapes:    saved tensors of 1024 bytes and more; under checkpointing inputs of layers, ``stream`` bytes each
    Formula:   saved + inputs * stream, page-locked each input in a block of its own
    Source:    TRL 1.16 models/activation_offloading.py, OffloadActivations
    Valid:     the language-model head's own are left on the card
    Excludes:  the five tensors whose copies are on their way; what blocks of other tensors round up

    >>> offloaded_activations(0, stream=3 << 20, inputs=2, pin=True).pinned == 2 * (4 << 20)
    True
    """
    held = saved + inputs * (page_locked(stream) if pin else stream)
    return Away(activations=held, pinned=held if pin else 0)

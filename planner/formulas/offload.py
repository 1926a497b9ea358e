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


def offloaded_optimizer(n: int, *, e: int, largest: int, whole: int, pin: bool) -> Away:
    """ZeRO-1 and ZeRO-2 with the optimizer's states and its step in RAM.

    Shapes:    fp32 weights and gradients n each, two moments n each; a 16-bit copy of the updated weights n; a buffer
               for the largest tensor; whole gradients between micro-steps, where there are several
    Formula:   4n + 4n + 8n + e*n + e*largest + e*whole
    Source:    stage_1_and_2.py, single_partition_of_fp32_groups, param_buffer_of_bit16_for_cpu_offload_groups,
               temp_grad_buffer_for_cpu_offload and accumulated_grads_in_cpu; the moments are never pinned
    Valid:     DeepSpeedCPUAdam, into which accelerate turns AdamW
    Excludes:  the processor's own working memory

    >>> found = offloaded_optimizer(1000, e=2, largest=0, whole=0, pin=True)
    >>> sum(found[:5]) / 1000, found.pinned / 1000
    (18.0, 10.0)
    """
    gradients, copies = 4 * n + e * whole, e * n + e * largest
    return Away(
        gradients=gradients,
        optimizer=(4 + ADAM_MOMENTS) * n,
        buffers=copies,
        pinned=gradients + copies + 4 * n if pin else 0,
    )


def offloaded_optimizer_stage3(n: int, *, e: int, group: int, nvme: bool, pin: bool) -> Away:
    """ZeRO-3 with the optimizer's states in RAM or on a drive, and its step on the processor.

    Shapes:    fp32 weights and gradients, two moments, n each; 16-bit gradients n in a flat buffer. On a drive the
               first four; in RAM four buffers for the largest group of partitions
    Formula:   RAM 16n + e*n; on a drive 16n there, and 4 * 4 * group + e*n in RAM
    Source:    stage3.py, _create_fp32_partitions, initialize_optimizer_states and grad_partitions_flat_buffer;
               runtime/swap_tensor/partitioned_optimizer_swapper.py
    Valid:     DeepSpeedCPUAdam; groups of sub_group_size elements
    Excludes:  the processor's own working memory

    >>> sum(offloaded_optimizer_stage3(1000, e=2, group=1000, nvme=False, pin=True)[:5]) / 1000
    18.0
    >>> offloaded_optimizer_stage3(1000, e=2, group=100, nvme=True, pin=True).nvme
    16000
    """
    flat = e * n
    if nvme:
        swap = OPTIMIZER_SWAP_BUFFERS * 4 * group
        return Away(gradients=flat, buffers=swap, pinned=swap + (flat if pin else 0), nvme=(8 + ADAM_MOMENTS) * n)
    gradients = 4 * n + flat
    return Away(gradients=gradients, optimizer=(4 + ADAM_MOMENTS) * n, pinned=gradients if pin else 0)


def offloaded_parameters(n: int, *, e: int, nvme: bool) -> Away:
    """ZeRO-3 with a rank's parts of the parameters in RAM or on a drive.

    Shapes:    n elements, always page-locked; with a drive 1e9 of them at most, and buffers of 5e8 elements
    Formula:   e*n; with a drive e*min(n, 1e9) + e*5e8 in RAM and the rest on the drive
    Source:    stage3.py, _create_param_groups_fp16_flat_cpu_memory; offload_config.py
    Valid:     every parameter above the persistence threshold

    >>> offloaded_parameters(3_000_000_000, e=2, nvme=True)[-2:]
    (3000000000, 4000000000)
    """
    if not nvme:
        return Away(parameters=e * n, pinned=e * n)
    held = e * min(n, PARAMETERS_IN_HOST)
    swap = e * PARAMETER_SWAP_BUFFERS
    return Away(parameters=held, buffers=swap, pinned=held + swap, nvme=e * n - held)


def offloaded_shards(*, frozen: int, trained: int, states: int, pin: bool) -> Away:
    """FSDP2 with everything that it divides in RAM: parameters, their gradients, and the optimizer with them.

    Shapes:    bytes of the rank's frozen and trained shards; gradients as large as the trained ones
    Formula:   frozen + 2 * trained + states
    Source:    torch 2.13 distributed/fsdp/_fully_shard/_fsdp_api.py, CPUOffloadPolicy (pin_memory), and _fsdp_param.py;
               accelerate 1.15 utils/dataclasses.py, cpu_offload
    Valid:     optimizers of torch, which step where the parameters are; the states are not pinned

    >>> offloaded_shards(frozen=0, trained=4, states=8, pin=True)
    Away(parameters=4, gradients=4, optimizer=8, activations=0, buffers=0, pinned=8, nvme=0)
    """
    pinned = frozen + 2 * trained if pin else 0
    return Away(parameters=frozen + trained, gradients=trained, optimizer=states, pinned=pinned)


def offloaded_activations(saved: int, *, pin: bool) -> Away:
    """What autograd saves, in RAM until backward asks for it.

    Shapes:    saved tensors of 1024 bytes and more; under checkpointing the layers' inputs
    Formula:   their bytes
    Source:    TRL 1.16 models/activation_offloading.py, OffloadActivations
    Valid:     the language-model head's own are left on the card
    Excludes:  the five tensors whose copies are on their way

    >>> offloaded_activations(1 << 30, pin=True).pinned
    1073741824
    """
    return Away(activations=saved, pinned=saved if pin else 0)

"""What a reader must know of an answer before its numbers mislead."""

from collections.abc import Iterator, Mapping, Sequence

from planner.errors import option
from planner.result import Candidate
from planner.spec import MOMENTS_OF, Cluster
from planner.spec.layout import divides_as_megatron, is_divided
from planner.units import format_bytes

TELLING = 1.25
"""Device bytes over needed bytes from which the two ask for a word even where neither fits."""


def remarks(candidates: Sequence[Candidate], settings: Mapping[str, object], cluster: Cluster) -> tuple[str, ...]:
    """Notes on candidates as they were asked for; ``settings`` are the user's own."""
    return (*_idle(candidates, settings), *_divided(candidates), *_gathered(candidates), *_plenty(candidates, cluster))


def _idle(candidates: Sequence[Candidate], settings: Mapping[str, object]) -> Iterator[str]:
    """Settings of moments that are not planned."""
    planned = {moment for candidate in candidates for moment in candidate.scenario.train.moments}
    for name, moments in MOMENTS_OF.items():
        if name != "moments" and settings.get(name) is not None and not planned & {*moments}:
            yield f"{option(name)} changes nothing without --moments {' or '.join(moments)}"


def _divided(candidates: Sequence[Candidate]) -> Iterator[str]:
    """Whose layout of ranks the numbers are of, where it is not the trainer's own."""
    for candidate in candidates:
        train, stack = candidate.scenario.train, candidate.scenario.stack.name
        if divides_as_megatron(train):
            yield (
                f"layers lie on the GPUs as Megatron-LM and torchtitan put them, with the libraries' own operations; "
                f"{stack} alone trains no such layout, and nobody has measured these numbers"
            )
            return
        if is_divided(train):
            yield "layers and sequences are divided as Accelerate's ParallelismConfig does; no published run tests it"
            return


def _gathered(candidates: Sequence[Candidate]) -> Iterator[str]:
    """That an evaluation gathers logits is ours to assume, and many trainers' runs do not."""
    for candidate in candidates:
        train = candidate.scenario.train
        if "evaluation" in train.moments and candidate.scenario.origins.get("eval_logits") == "default":
            yield (
                f"evaluation keeps the logits of {train.eval_samples} sequences, as trainers do for compute_metrics; "
                "they keep none without: --no-eval-logits"
            )
            return


def _plenty(candidates: Sequence[Candidate], cluster: Cluster) -> Iterator[str]:
    """More on the device than the card has, beside a need that is less: two cards are spoken of."""
    usable = cluster.usable_bytes
    for candidate in candidates:
        peak = candidate.estimate.peak
        shown, needed = peak.device_bytes, peak.required_bytes
        if shown > usable and (needed <= usable or shown > TELLING * needed):
            yield (
                f"reserved, and {format_bytes(shown)} on the device, are what torch takes of a larger card; on a full "
                f"one it gives back what no tensor uses, and {format_bytes(needed)} will do"
            )
            return

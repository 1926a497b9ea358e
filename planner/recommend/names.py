"""Names to things: the model and the hardware that a request means, with what the reader must know about both."""

from planner.catalog import load_model
from planner.hardware import load_gpu
from planner.recommend.request import Ask, Request, check_request
from planner.spec import FIGURES, Cluster, Gpu
from planner.stacks import newer_versions


def understand(request: Request) -> tuple[Ask, tuple[str, ...]]:
    """The question with its names resolved, and notes; raise ``UnknownName`` or ``UsageError``."""
    check_request(request)
    gpu = load_gpu(request.gpu, request.profiles_dir)
    resolved = load_model(request.model, opaque=request.evidence == "traced")
    cluster = Cluster(gpu=gpu, gpus=request.gpus, nodes=request.nodes, headroom_bytes=request.headroom_bytes)
    ask = Ask(request=request, model=resolved.model, cluster=cluster)
    notes = (resolved.line, *resolved.model.notes, *_about(gpu), *newer_versions(request.stack))
    return ask, tuple(note for note in notes if note)


def _about(gpu: Gpu) -> tuple[str | None, ...]:
    """What the name stands for, what the profile warns of, and which figures nobody has measured."""
    guessed = ", ".join(FIGURES[name] for name in gpu.estimated)
    return gpu.resolution, *gpu.warnings, f"{gpu.name}: estimated, not measured: {guessed}" if guessed else None

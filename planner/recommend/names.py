"""Names to things: the model and the hardware that a request means, with what the reader must know about both."""

from planner.catalog import load_model
from planner.hardware import load_gpu
from planner.recommend.request import Ask, Request, check_request, cluster_of
from planner.spec import FIGURES, Gpu
from planner.stacks import newer_versions


def understand(request: Request) -> tuple[Ask, tuple[str, ...]]:
    """The question with its names resolved, and notes; raise ``UnknownName`` or ``UsageError``."""
    check_request(request)
    gpu, about = _hardware(request)
    resolved = load_model(request.model, opaque=request.evidence == "traced")
    ask = Ask(request=request, model=resolved.model, cluster=cluster_of(request, gpu))
    notes = (resolved.line, *resolved.model.notes, *_about(gpu), *about, *newer_versions(request.stack))
    return ask, tuple(note for note in notes if note)


def _hardware(request: Request) -> tuple[Gpu, tuple[str, ...]]:
    """The card that the name means; ``local`` is what is here."""
    if request.gpu.strip().lower() != "local":
        return load_gpu(request.gpu, request.profiles_dir), ()
    from planner.local import cards_here  # noqa: PLC0415  (only who asks for it needs a driver)

    gpu, notes = cards_here(request.gpus, profiles_dir=request.profiles_dir)
    return gpu, (*notes, ON_PROCESSOR) if gpu.is_cpu and request.evidence == "closed-form" else notes


ON_PROCESSOR = "closed forms describe a card's kernels: --evidence traced asks this processor's own"


def _about(gpu: Gpu) -> tuple[str | None, ...]:
    """What the name stands for, what the profile warns of, and which figures nobody has measured."""
    guessed = ", ".join(FIGURES[name] for name in gpu.estimated)
    return gpu.resolution, *gpu.warnings, f"{gpu.name}: estimated, not measured: {guessed}" if guessed else None

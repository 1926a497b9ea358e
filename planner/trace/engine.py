"""What a sharding engine does to a traced job, whichever it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

from planner.build.job import Job
from planner.trace.recorder import Recorder


class Engine(NamedTuple):
    """What a sharding engine does to a traced job.

    ``wrap``, ``around`` and ``second`` are ``assemble``'s ``after_materialising``, ``around_optimizer`` and
    ``around_reference``, ``seed`` adds the buffers that stand from the start, and under ``watched`` the recorder knows
    what the engine allocates.
    """

    wrap: Callable[[Any], Any] | None = None
    seed: Callable[[Recorder, Job], None] = lambda _recorder, _job: None
    watched: Callable[[Recorder, Job], AbstractContextManager[Any]] = lambda _recorder, _job: nullcontext()
    around: Callable[[Any, Any], Any] | None = None
    second: Callable[[Any], Any] | None = None


def inside(owner: Any, name: str, context: Callable[[], AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    """A patch under which the method ``name`` of a class, or of one object, always runs in a context."""
    method = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        with context():
            return method(*arguments, **keywords)

    return patch.object(owner, name, call)

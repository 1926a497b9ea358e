"""A question as it was asked (``Request``), with its names resolved (``Ask``), and as the command that asks it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from planner.errors import UsageError, option, show
from planner.peft_config import adapter_text, method_of
from planner.result import Evidence
from planner.spec import METHODS, NO_JOB, Cluster, Gpu, Job, Method, ModelSpec
from planner.spec.dataset import Dataset
from planner.spec.job import check_job
from planner.units import GIB, MIB, parse_bytes

Setting = str | int | float | bool | tuple[str, ...]

DEFAULT_STACK = "trl"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked, names unresolved. ``settings`` holds ``TrainSpec`` fields, only those that were set.

    ``gpus``: in all ``nodes`` machines together; ``nodes`` is ``None`` where it is left to the kind of card.
    ``dataset``: the file from which ``job`` was read, and ``tokenizer`` what counted it where the user named one.
    ``confirm``: trace what is recommended.
    """

    model: str
    gpu: str
    gpus: int = 1
    nodes: int | None = None
    methods: tuple[Method, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    stack: str = DEFAULT_STACK
    headroom_bytes: int = 0
    network_gbps: float | None = None
    host_memory_bytes: int | None = None
    profiles_dir: Path | None = None
    evidence: Evidence = "closed-form"
    job: Job = NO_JOB
    dataset: Dataset | None = None
    tokenizer: str | None = None
    confirm: bool = False


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request together with the model and the hardware that its names mean.

    ``planned``: names of settings in the request that the plan filled in, since the user left them open.
    """

    request: Request
    model: ModelSpec
    cluster: Cluster
    planned: frozenset[str] = frozenset()

    @property
    def job(self) -> Job:
        """What is trained for, and how much."""
        return self.request.job

    @property
    def held(self) -> frozenset[str]:
        """Names of the settings that the user made, which no recommendation touches."""
        return frozenset(self.request.settings) - self.planned

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods in question: those that were named, else that of an adapter's file, else all."""
        file = self.request.settings.get("peft_config")
        if file is not None and not self.request.methods:
            return (method_of(json.loads(adapter_text(file))),)
        return self.request.methods or METHODS

    def on(self, gpu: Gpu, world_size: int) -> "Ask":
        """The same question on ``world_size`` cards of another kind; user's settings are kept, but for sharding."""
        name = self.request.gpu if gpu.id == self.cluster.gpu.id else gpu.id
        request = replace(self.request, gpu=name, gpus=world_size, nodes=None)
        cluster = cluster_of(request, gpu)
        nodes = cluster.nodes if cluster.nodes > 1 else None
        return replace(self, request=replace(request, nodes=nodes), cluster=cluster)

    def using(self, method: Method, settings: Mapping[str, Setting]) -> "Ask":
        """The same question for one method, with ``settings`` laid over the user's own."""
        asked = self.setting(settings)
        return replace(asked, request=replace(asked.request, methods=(method,)))

    def setting(self, settings: Mapping[str, Setting]) -> "Ask":
        """The same question with ``settings`` laid over the user's own."""
        return replace(self, request=replace(self.request, settings={**self.request.settings, **settings}))

    def opened(self, name: str) -> "Ask":
        """The same question without a setting that the plan had filled in; one of the user's stays."""
        if name not in self.planned:
            return self
        settings = {other: value for other, value in self.request.settings.items() if other != name}
        return replace(self, request=replace(self.request, settings=settings), planned=self.planned - {name})

    def planning(self, settings: Mapping[str, Setting]) -> "Ask":
        """The same question with open ``settings`` filled in by the plan."""
        planned = self.planned | (settings.keys() - self.request.settings.keys())
        return replace(self.setting(settings), planned=planned)


ON_MACHINES = ("network_gbps", "host_memory")
"""Arguments about machines that library functions take among their settings."""


class OnMachines(NamedTuple):
    """What a library function was told about machines, and the settings of training beside it."""

    network_gbps: float | None
    host_memory_bytes: int | None
    settings: Mapping[str, Any]


def on_machines(settings: Mapping[str, Any]) -> OnMachines:
    """Arguments about machines apart from those of training; the request checks the network."""
    memory = settings.get("host_memory")
    return OnMachines(
        settings.get("network_gbps"),
        None if memory is None else amount("--host-memory", memory),
        {name: value for name, value in settings.items() if name not in ON_MACHINES},
    )


def amount(flag: str, memory: object) -> int:
    """Bytes, as a number or with their unit."""
    if isinstance(memory, str):
        return parse_bytes(memory)
    if isinstance(memory, bool) or not isinstance(memory, int):
        raise UsageError(f"{flag} {show(memory)} is no amount of memory: write it with its unit, such as 64GiB")
    return memory


MOST_GBPS = 1_000_000
"""Of a machine's network adapters together; the fastest that are let have 3,200."""


def request_of(
    *,
    model: str,
    gpu: str,
    gpus: int = 1,
    nodes: int | None = None,
    method: Method | Sequence[Method] | None = None,
    stack: str = DEFAULT_STACK,
    headroom: int | str = 0,
    profiles_dir: str | Path | None = None,
    evidence: Evidence = "closed-form",
    confirm: bool = False,
    job: Job | None = None,
    settings: Mapping[str, Setting],
) -> Request:
    """The request of a library function, whose arguments are named like the command's options.

    ``settings``: those of training, and ``network_gbps`` and ``host_memory`` of the machines.

    >>> request_of(model="8b", gpu="4090", method="lora", headroom="1KiB", settings={}).headroom_bytes
    1024
    """
    told = on_machines(settings)
    return Request(
        model=model,
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        methods=(method,) if isinstance(method, str) else tuple(dict.fromkeys(method or ())),
        settings=told.settings,
        stack=stack,
        headroom_bytes=amount("--headroom", headroom),
        network_gbps=told.network_gbps,
        host_memory_bytes=told.host_memory_bytes,
        profiles_dir=None if profiles_dir is None else Path(profiles_dir),
        evidence=evidence,
        confirm=confirm,
        job=job or NO_JOB,
    )


def on_dataset(request: Request, dataset: str | Path, tokenizer: str | None = None) -> Request:
    """The request with its job's amounts read from a file; raise ``UsageError`` for a file without usable rows."""
    from planner.datasets import read  # noqa: PLC0415  (a plan without a file needs no reader)

    data = read(str(dataset), model=request.model, tokenizer=tokenizer, task=request.job.task)
    return replace(request, job=data.job(request.job), dataset=data, tokenizer=tokenizer)


def machines(gpu: Gpu, gpus: int, nodes: int | None = None) -> tuple[int, int]:
    """Cards in each machine, and machines, of ``gpus`` cards in all; raise ``UsageError`` where they do not fill them.

    >>> from planner.hardware import load_gpu
    >>> machines(load_gpu("h100"), 6), machines(load_gpu("h100"), 32), machines(load_gpu("h100"), 32, 8)
    ((6, 1), (8, 4), (4, 8))
    """
    if nodes is None:
        nodes = 1 if gpus <= gpu.gpus_per_node else gpus // gpu.gpus_per_node
        if gpus % nodes or gpus // nodes > gpu.gpus_per_node:
            whole = nodes * gpu.gpus_per_node
            raise UsageError(
                f"--gpus {gpus}: machines of {gpu.id} hold {gpu.gpus_per_node} cards: "
                f"take --gpus {whole} or {whole + gpu.gpus_per_node}, or say in how many machines they are with --nodes"
            )
    if gpus % nodes:
        fewer, more = gpus // nodes * nodes, (gpus // nodes + 1) * nodes
        near = f"--gpus {fewer} or {more}" if fewer else f"--gpus {more}"
        raise UsageError(f"--gpus {gpus} do not fill --nodes {nodes} evenly: take {near}, or other --nodes")
    return gpus // nodes, nodes


def cluster_of(request: Request, gpu: Gpu) -> Cluster:
    """The hardware of a request whose card is ``gpu``."""
    gpus, nodes = machines(gpu, request.gpus, request.nodes)
    cluster = Cluster(
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        headroom_bytes=request.headroom_bytes,
        network_gbps=request.network_gbps,
        host_memory_bytes=request.host_memory_bytes,
    )
    _check_network(cluster)
    return cluster


def _check_network(cluster: Cluster) -> None:
    """Several machines have a network, and it is known."""
    if cluster.nodes == 1 or cluster.network_bytes_per_s is not None:
        return
    gpu, count = cluster.gpu, cluster.world_size
    raise UsageError(
        f"--gpus {count} of {gpu.id} stand in {cluster.nodes} machines, whose network is not known: add "
        f"--network-gbps 100, or take --gpus {min(count, gpu.gpus_per_node)} --nodes 1"
    )


def check_request(request: Request) -> None:
    """Raise ``UsageError`` for a method that does not exist, for no card at all, and for an impossible job."""
    check_job(request.job)
    for method in request.methods:
        if method not in METHODS:
            raise UsageError(f"--method {show(method)} is not one of {', '.join(METHODS)}")
    for name in ("gpus", "nodes"):
        count = getattr(request, name)
        if count is None and name == "nodes":
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"--{name} {show(count)} is not a whole number of 1 or more")
    if request.headroom_bytes < 0:
        raise UsageError(f"--headroom {show(request.headroom_bytes)}B is negative: it is memory to leave free")
    rate = request.network_gbps
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= MOST_GBPS):
        raise UsageError(
            f"--network-gbps {show(rate)} is not a rate above 0 and up to {MOST_GBPS:,} Gbit/s: write for instance 100"
        )
    if request.host_memory_bytes is not None and request.host_memory_bytes < 0:
        raise UsageError(f"--host-memory {show(request.host_memory_bytes)}B is negative: it is what the job may take")
    if request.evidence not in get_args(Evidence):
        raise UsageError(f"--evidence {show(request.evidence)} is not one of {', '.join(get_args(Evidence))}")


def command(request: Request) -> str:
    """The command line that asks exactly ``request``.

    >>> command(Request(model="70b", gpu="4090", gpus=4, methods=("qlora",), settings={"seq_len": 4096}))
    'plan --model 70b --gpu 4090 --gpus 4 --method qlora --seq-len 4096'
    """
    return shlex.join(["plan", "--model", request.model, *options(request)])


def options(request: Request) -> list[str]:
    """The words of the command line that say everything but the model."""
    words = ["--gpu", request.gpu]
    words += _unless(request.gpus, 1, "--gpus") + _unless(request.nodes, None, "--nodes")
    for method in request.methods:
        words += ["--method", method]
    for name, value in request.settings.items():
        words += as_option(name, value)
    words += _unless(request.stack, DEFAULT_STACK, "--stack")
    if request.headroom_bytes:
        words += ["--headroom", _bytes(request.headroom_bytes)]
    if request.network_gbps is not None:
        words += ["--network-gbps", f"{request.network_gbps:g}"]
    if request.host_memory_bytes is not None:
        words += ["--host-memory", _bytes(request.host_memory_bytes)]
    if request.profiles_dir is not None:
        words += ["--profiles", str(request.profiles_dir)]
    return [*words, *_unless(request.evidence, "closed-form", "--evidence"), *_job(request)]


def _job(request: Request) -> list[str]:
    """The options that say what is trained for, and on how much."""
    job, usual = request.job, Job()
    if request.dataset is not None:
        words = ["--dataset", request.dataset.path, *_unless(request.tokenizer, None, "--tokenizer")]
    else:
        words = _unless(job.tokens, None, "--dataset-tokens") + _unless(job.sequences, None, "--dataset-sequences")
    words += _unless(f"{job.epochs:g}", "1", "--epochs") + _unless(job.task, usual.task, "--task")
    words += _unless(job.adapters, usual.adapters, "--adapters")
    flags = {"--packing": job.packing, "--new-vocabulary": job.new_vocabulary, "--keep-skills": job.keep_skills}
    return [*words, *(flag for flag, said in flags.items() if said)]


def _unless(value: object, default: object, flag: str) -> list[str]:
    return [] if value == default else [flag, str(value)]


def as_option(name: str, value: Setting) -> list[str]:
    """A setting as it is typed.

    >>> as_option("offload", ("optimizer", "parameters")), as_option("gradient_checkpointing", False)
    (['--offload', 'optimizer,parameters'], ['--no-gradient-checkpointing'])
    """
    if isinstance(value, bool):
        return [option(name if value else f"no_{name}")]
    if isinstance(value, list | tuple):
        return [option(name), ",".join(value) or "none"]
    return [option(name), str(value)]


def _bytes(count: int) -> str:
    for size, unit in ((GIB, "GiB"), (MIB, "MiB")):
        if count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"

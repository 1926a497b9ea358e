"""SHD: which engine, how wide its groups, what offloading costs, and how many cards are enough."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from planner.closed_form.parallel import is_divided
from planner.errors import UnsupportedScenario
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.candidates import weighed
from planner.recommend.cards import numbers
from planner.recommend.changes import RANKS
from planner.recommend.offers import more_cards
from planner.recommend.rules.base import WORTH_A_LINE, Case, Scope, percent, seconds
from planner.recommend.tuning import may_offload
from planner.recommend.verdict import lacks_ram
from planner.result import Candidate, Reason, Way
from planner.spec import SHARDS_WEIGHTS, Cluster
from planner.units import format_bytes

POOR = 0.5
"""Share of their number below which several cards over PCIe are said to be little faster than one (ours)."""


class EngineChoice:
    """SHD006: FSDP2 and DeepSpeed's ZeRO-3 divide the same states; what each needs here.

    Why it matters: per card they differ by buffers only: FSDP2 gathers a layer and the next one, ZeRO-3 keeps up to a
                    billion gathered parameters and flat partitions. FSDP2 is torch's own; ZeRO-3 is a library more.
    What helps:     fsdp where nothing leaves the cards. zero3 where full fine-tuning keeps its optimizer in host
                    memory: FSDP offloads all that it shards or nothing.
    Source:         torch 2.13 _fsdp_api.py, CPUOffloadPolicy; DeepSpeed 0.19 runtime/zero/offload_config.py; accelerate
                    1.15 docs, concept_guides/fsdp_and_deepspeed.md.
    """

    code: ClassVar[str] = "SHD006"
    slug: ClassVar[str] = "engine-choice"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        train = case.train
        other = {"fsdp": "zero3", "zero3": "fsdp"}.get(train.sharding)
        if other is None or train.offload or not case.is_choice or case.scenario.cluster.world_size == 1:
            return None
        if not _takes(case, other):
            return None
        apart = case.what_if(sharding=other).peak.required_bytes - case.required
        more = "more" if apart >= 0 else "less"
        said = "torch's own engine; zero3 is for an optimizer in host memory"
        if train.sharding == "zero3":
            said = "DeepSpeed's engine, which alone keeps just the optimizer in host memory"
        text = (
            f"{train.sharding}, {said}: {other} would need {format_bytes(abs(apart))} {more} per card than "
            f"{format_bytes(case.required)}"
        )
        return Reason(code=self.code, text=text, number=apart, unit="bytes")


class HybridShards:
    """SHD007: dividing the model inside each machine only is faster than among all cards, or would be.

    Why it matters: weights are gathered twice per micro-step. Among machines that runs at the network's pace, inside a
                    machine at NVLink's; replicas then sum their gradients once.
    What helps:     --sharding hsdp where a machine holds the model; fsdp over all cards where it does not.
    Source:         Zhao et al. 2023, arXiv:2304.11277, section 3.2.2 (hybrid sharding); recomputed for this case.
    """

    code: ClassVar[str] = "SHD007"
    slug: ClassVar[str] = "hybrid-shards"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, cluster, kind = case.subject.step, case.scenario.cluster, case.train.sharding
        if step is None or not case.is_choice or min(cluster.nodes, cluster.gpus) == 1 or kind not in SHARDS_WEIGHTS:
            return None
        other = "fsdp" if kind == "hsdp" else "hsdp"
        if not _takes(case, other):
            return None
        theirs, peak = case.step_if(sharding=other), case.what_if(sharding=other).peak
        if theirs is None:
            return None
        saved = theirs.seconds - step.seconds if kind == "hsdp" else step.seconds - theirs.seconds
        if saved < WORTH_A_LINE * max(step.seconds, theirs.seconds):
            return None
        whole = f"a step of {seconds(theirs.seconds)} and {format_bytes(peak.required_bytes)} per card"
        if kind == "hsdp":
            text = f"hsdp shards inside each of {cluster.nodes} machines: fsdp among all cards would take {whole}"
        elif peak.high_bytes > case.usable:
            text = f"hsdp, which shards inside each machine only, would take {whole}, which these cards do not have"
        else:
            text = f"--sharding hsdp, which shards inside each machine only, would take {whole}"
        return Reason(code=self.code, text=text, number=saved, unit="seconds")


class WideTensor:
    """SHD008: tensor parallelism is wider than a machine.

    Why it matters: every layer waits for sums of its activations several times; no computing hides them.
    What helps:     --tensor-parallel no wider than the cards that NVLink joins; pipeline stages or shards among
                    machines.
    Source:         Narayanan et al. 2021, arXiv:2104.04473, section 3, takeaway 1.
    """

    code: ClassVar[str] = "SHD008"
    slug: ClassVar[str] = "wide-tensor"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, cluster, width = case.subject.step, case.scenario.cluster, case.train.tensor_parallel
        joined = max(cluster.gpus, cluster.gpu.nvlink_gpus or 0)
        if step is None or width <= joined:
            return None
        waits = step.exchanges.get("tensor", 0.0)
        text = (
            f"tensor parallelism over {width} cards leaves the {joined} that a machine joins: its sums take "
            f"{seconds(waits)} of a step of {seconds(step.seconds)}, and nothing runs beside them"
        )
        return Reason(code=self.code, text=text, number=waits, unit="seconds", severity="warning")


class LittleFaster:
    """SHD009: cards without NVLink are together not much faster than one.

    Why it matters: what they exchange passes the host's memory at a few GB/s. Cards are added for memory then, not for
                    speed: two cards that run two jobs side by side get more done.
    What helps:     larger micro-batches; 4-bit weights, which are a quarter; one card with more memory; NVLink.
    Source:         fsdp_qlora benchmarks (Answer.AI, 2024): 2 to 5 GB/s between two cards over PCIe; recomputed for
                    this case by the time model.
    """

    code: ClassVar[str] = "SHD009"
    slug: ClassVar[str] = "little-faster"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        step, cluster = case.subject.step, case.scenario.cluster
        if step is None or cluster.world_size == 1 or cluster.gpu.nvlink_bytes_per_s or case.train.offload:
            return None
        share = case.share("communicate")
        alone = _on(case, 1)
        if alone is None or alone.step is None or share < WORTH_A_LINE:
            return None
        one, needed = alone.step, alone.estimate.peak.required_bytes
        speedup = step.tokens_per_second / one.tokens_per_second
        if speedup >= POOR * cluster.world_size:
            return None
        room = "" if needed <= case.usable else f", which would need {format_bytes(needed)}"
        text = (
            f"exchanging over PCIe takes {percent(min(share, 1.0))} of the step: {cluster.world_size} cards reach "
            f"{step.tokens_per_second:,.0f} tokens per second, {speedup:.2g} times the {one.tokens_per_second:,.0f} of "
            f"one{room}"
        )
        return Reason(code=self.code, text=text, number=speedup, unit="ratio", severity="warning")


class HostMemory:
    """SHD010: a machine's RAM does not hold what the job keeps or loads there.

    Why it matters: a process that asks for more is killed, often while it loads. Page-locked memory cannot be swapped.
    What helps:     fewer states offloaded; --offload-device nvme under zero3; loading on one rank only; 4-bit weights.
    Source:         accelerate 1.15, cpu_ram_efficient_loading; fsdp_qlora README: 128 GB of RAM did not load 70B.
    """

    code: ClassVar[str] = "SHD010"
    slug: ClassVar[str] = "host-memory"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        cluster, host = case.scenario.cluster, case.subject.estimate.host
        if not lacks_ram(case.subject.estimate, cluster):
            return None
        needed = host.required_on(cluster)
        text = (
            f"{case.named} needs {format_bytes(needed)} of RAM in each machine"
            f"{' while it loads' if host.steady_bytes < needed else ''}, and "
            f"{format_bytes(cluster.host_memory_bytes or 0)} may be taken"
        )
        return Reason(code=self.code, text=text, number=needed, unit="bytes", severity="warning")


class Offloaded:
    """SHD011: states lie in host memory, which saves bytes of the card and costs time.

    Why it matters: they travel over PCIe in every step, and an optimizer there runs on the processor.
    What helps:     more cards; adapters; 8-bit optimizer states; more --grad-accumulation, which pays the update once.
    Source:         Ren et al. 2021, arXiv:2101.06840 (ZeRO-Offload); recomputed for this case.
    """

    code: ClassVar[str] = "SHD011"
    slug: ClassVar[str] = "offloaded"
    scope: ClassVar[Scope] = "choice"

    def check(self, case: Case) -> Reason | None:
        train, step = case.train, case.subject.step
        if not train.offload:
            return None
        saved = -case.saved_by(offload=())
        took = "" if step is None else f", takes {seconds(step.parts['offload'])} of a step of {seconds(step.seconds)}"
        ram = case.subject.estimate.host.required_on(case.scenario.cluster)
        text = (
            f"offloading {' and '.join(train.offload)} to host memory spares {format_bytes(max(saved, 0))} per "
            f"card{took}, and asks for {format_bytes(ram)} of RAM in each machine"
        )
        return Reason(code=self.code, text=text, number=saved, unit="bytes")


class EnoughCards:
    """SHD012: the smallest number of these cards that runs the method, and how fast.

    Why it matters: dividing a need by the cards' memory is wrong: replicated scales, gathered layers and activations do
                    not divide.
    What helps:     as many cards as it says; or the change that the plan lists for this many.
    Source:         every number tried by the closed form, in machines as they are let.
    """

    code: ClassVar[str] = "SHD012"
    slug: ClassVar[str] = "enough-cards"
    scope: ClassVar[Scope] = "each"

    def check(self, case: Case) -> Reason | None:
        if case.scenario.cluster.gpu.is_cpu:
            return None
        if case.subject.verdict == "does_not_fit":
            return self._more(case)
        return self._fewer(case) if case.is_choice and case.train.sharding in SHARDS_WEIGHTS else None

    def _more(self, case: Case) -> Reason | None:
        found = _larger(case)
        if found is None:
            return None
        runs = _runs(found.candidate)
        cards = found.candidate.scenario.cluster
        moving = may_offload(case.ask.on(cards.gpu, cards.world_size))  # then fewer may do, at another pace
        on = "on without offloading" if moving else "on"
        text = f"{case.named} {runs} from {found.gpus} × {found.gpu} {on}: {_pace(found.candidate)}"
        return Reason(code=self.code, text=text, number=found.gpus, unit="gpus")

    def _fewer(self, case: Case) -> Reason | None:
        world = case.scenario.cluster.world_size
        for count in _smaller(case.scenario.cluster):
            made = _on(case, count)
            if made is not None and RANKS[made.verdict] >= RANKS[case.subject.verdict]:
                text = (
                    f"{count} of these {world} cards would hold {made.method} as it is chosen: {_pace(made)}, against "
                    f"{_pace(case.subject)}"
                )
                return Reason(code=self.code, text=text, number=count, unit="gpus")
        return None


def _takes(case: Case, sharding: str) -> bool:
    """Whether the stack runs what was asked under another kind of sharding."""
    try:
        scenario_of(case.ask.setting({"sharding": sharding}), case.train.method)
    except UnsupportedScenario:
        return False
    return True


def _larger(case: Case) -> Way | None:
    """The fewest cards of the subject's kind, more than asked for, that run its method."""
    cluster, method = case.scenario.cluster, case.subject.method
    if case.ways is None and cluster.world_size == 1:
        return None  # something runs on the one card, and nobody asked for more
    ways = more_cards(case.ask, case.train.method, case.estimate) if case.ways is None else case.ways
    same = [one for one in ways if one.candidate.method == method and one.gpus > cluster.world_size]
    own = [one for one in same if one.candidate.scenario.cluster.gpu.id == cluster.gpu.id]
    return min(own, key=lambda one: one.gpus, default=None)


def _smaller(cluster: Cluster) -> Iterator[int]:
    """Numbers of cards below those of the cluster: each within one of its machines, then so many of these."""
    one, several = numbers(cluster.gpu, cluster.network_gbps, cluster.gpus)
    yield from (count for count in (*one, *several) if count < cluster.world_size)


def _on(case: Case, count: int) -> Candidate | None:
    """The subject with its settings on fewer cards; ``None`` where that is not planned."""
    train = case.train
    if is_divided(train) or train.offload:
        return None
    gpus = min(count, case.scenario.cluster.gpus)
    cluster = replace(case.scenario.cluster, gpus=gpus, nodes=count // gpus)
    if count == 1:
        train = replace(train, sharding="none", quant_storage="uint8" if train.quantized else train.quant_storage)
    scenario = replace(case.scenario, cluster=cluster, train=train)
    try:
        found = case.estimate(scenario)
    except UnsupportedScenario:
        return None
    return weighed(scenario, found, case.job)


def _runs(one: Candidate) -> str:
    return "fits" if one.verdict == "fits" else "runs, tight,"


def _pace(one: Candidate) -> str:
    """How fast a step is, in words."""
    if one.step is None:
        return "no time is known"
    return f"{one.step.tokens_per_second:,.0f} tokens per second in steps of {seconds(one.step.seconds)}"

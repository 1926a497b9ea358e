"""What a whole run takes besides memory: steps, hours, money, disk and host memory.

Only tokens that are computed cost time: what truncation cuts does not, what padding adds does.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from planner.formulas.host import checkpoint_bytes
from planner.formulas.params import model_params
from planner.formulas.sharding import divisors
from planner.result import Cost, Estimate, StepTime
from planner.spec import FLOAT_BYTES, Gpu, Job, Lengths, Price, Scenario, TrainSpec
from planner.spec.packing import packed_rows
from planner.throughput import Load

QUANTISE_BANDWIDTH = 0.20
"""Share of the memory bandwidth that bitsandbytes' 4-bit kernels reach: litgpt, fms-acceleration, fsdp_qlora tables."""

TEXT_BYTES = 4
"""Bytes of English text per token: OpenAI's help page "What are tokens and how to count them"."""

TOKEN_BYTES = 5
"""Bytes of a token in a tokenised Arrow cache: an int32 and a mask's int8. datasets 5.2 arrow_writer.py,
OptimizedTypedSequence."""

PROCESS_BYTES = 4 * 10**9
"""Host memory of one training process besides weights: Python, torch with its CUDA libraries, a trainer. Ours, rounded
up."""

KEPT = 2
"""Saved checkpoints that stay, as ``save_total_limit``: the last and the best (ours; the Trainer itself keeps all)."""

CARD_BUS = 25e9
"""Bytes per second into a card whose profile names no PCIe link (ours; a little less than PCIe 4.0 x16)."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What is not known of a machine that nobody has rented yet. All of it is ours.

    ``download_gbps``: from the Hub, in Gbit/s; hosts of marketplaces offer 0.1 to 10. ``disk``: read once the
    checkpoint is there, an SSD over a network; local NVMe reads several times faster. ``kept``: saved checkpoints that
    stay.
    """

    download_gbps: float = 1.0
    disk_bytes_per_s: float = 1e9
    kept: int = KEPT

    @property
    def network_bytes_per_s(self) -> float:
        """Bytes per second from the Hub."""
        return self.download_gbps * 1e9 / 8


ASSUMED = Assumed()


# ---------------------------------------------------------------- what is computed


def load_of(train: TrainSpec, job: Job) -> Load | None:
    """Tokens that one GPU computes in a micro-step on average, and the length that attention feels.

    Formula:   batch * E[longest of batch], with lengths; batch * min(mean, s) without; batch * s where packed.
               Attention: sum of squares over sum of the truncated lengths; min(mean, s) without them
    Source:    ``Lengths.padded``; the mean of lengths cut at s is at most min(mean, s)
    Valid:     batches drawn at random, padded to their longest; documents that do not attend to each other where packed
    Excludes:  sorting by length

    >>> from planner.spec import Lengths
    >>> train = TrainSpec(method="lora", seq_len=2048, micro_batch_size=2)
    >>> load_of(train, Job(lengths=Lengths(((1000, 1), (3000, 1)))))
    Load(tokens=3572.0, attended=1704.1679790026246)
    >>> load_of(train, Job(tokens=500_000, sequences=1000))
    Load(tokens=1000.0, attended=500.0)
    """
    if train.objective == "grpo":
        return _with_completions(train, job)
    s, batch = train.seq_len, train.sequences
    if job.lengths is not None and job.lengths.counts:
        padded, attended = _drawn(_Same(job.lengths), s, batch)
        return Load(float(train.tokens) if job.packing else batch * padded, attended)
    if job.tokens is None or not job.sequences:
        return None
    mean = min(job.tokens / job.sequences, float(s))
    return Load(float(train.tokens) if job.packing else batch * mean, mean)


def _with_completions(train: TrainSpec, job: Job) -> Load | None:
    """GRPO's data are prompts; each sequence is as much longer as a completion may be."""
    if job.lengths is None and (job.tokens is None or not job.sequences):
        return None
    batch, most = train.micro_batch_size, train.prompt_len
    if job.lengths is not None and job.lengths.counts:
        prompts, _ = _drawn(_Same(job.lengths), most, batch)
    else:
        prompts = min((job.tokens or 0) / (job.sequences or 1), float(most))
    length = prompts + train.completion_len
    return Load(batch * length, length)


class _Same:
    """Lengths by identity: a plan asks thousands of times, and hashing thousands of pairs takes longer than the sum."""

    __slots__ = ("lengths",)

    def __init__(self, lengths: Lengths) -> None:
        self.lengths = lengths

    def __hash__(self) -> int:
        return id(self.lengths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.lengths is self.lengths


@lru_cache(maxsize=256)
def _drawn(same: _Same, seq_len: int, batch: int) -> tuple[float, float]:
    """Mean padded length in batches of ``batch``, and the length that attention feels."""
    cut = same.lengths.truncated(seq_len)
    return cut.padded(batch), cut.attended


@lru_cache(maxsize=256)
def _packed(same: _Same, seq_len: int) -> int:
    return packed_rows(same.lengths, seq_len=seq_len)


def sequences_of(train: TrainSpec, job: Job) -> int | None:
    """Rows of one epoch: sequences, or windows of ``seq_len`` where they are packed or only tokens are known.

    Packed sequences of known lengths leave some space empty, as ``packed_rows`` has it; others are taken to leave none.

    >>> sequences_of(TrainSpec(method="lora", seq_len=2048), Job(tokens=50_000_000))
    24415
    """
    if job.lengths is not None and job.lengths.counts:
        return _packed(_Same(job.lengths), train.seq_len) if job.packing else job.lengths.sequences
    if job.sequences is not None and not job.packing:
        return job.sequences
    return None if job.tokens is None else ceil(job.tokens / train.seq_len)


def steps_of(scenario: Scenario, job: Job) -> int:
    """Optimizer steps of the whole run; 0 where nobody said how much there is to train on.

    Formula:   ceil(epochs * ceil(ceil(rows / (batch * ranks)) / accumulation))
    Source:    transformers 5.23 trainer.py, set_initial_training_values; every rank sees its own rows
    Valid:     data parallelism of every kind
    Excludes:  ``max_steps``, early stopping
    """
    rows = sequences_of(scenario.train, job)
    if not rows:
        return 0
    updates = ceil(_micro_steps(scenario, rows) / scenario.train.grad_accumulation)
    return ceil(job.epochs * updates)


def _micro_steps(scenario: Scenario, rows: int) -> int:
    """Micro-steps of one epoch on each rank; each of GRPO's prompts becomes a group of sequences."""
    train = scenario.train
    sequences = rows * (train.num_generations if train.objective == "grpo" else 1)
    return ceil(sequences / (train.sequences * scenario.layout.sequences))


# ---------------------------------------------------------------- hours and money


def run_cost(
    scenario: Scenario, estimate: Estimate, step: StepTime | None, job: Job, assumed: Assumed = ASSUMED
) -> Cost | None:
    """Hours and money of a whole run; ``None`` without data, without a step time, and for RL that is not GRPO.

    Formula:   hours = setup + micro-steps / accumulation * step; money = hours * GPUs * price per GPU-hour
    Source:    a machine is billed from start to end; the last step of an epoch runs the micro-steps that are left
    Valid:     one run without interruption; ``step`` at the load that ``load_of`` gives
    Excludes:  boot, installing, tokenising, evaluation, saving, failures; rewards
    """
    rows = sequences_of(scenario.train, job)
    if step is None or not rows or (job.task == "rl" and scenario.train.objective != "grpo"):
        return None
    count = job.epochs * _micro_steps(scenario, rows) / scenario.train.grad_accumulation
    setup = setup_seconds(scenario, estimate, assumed)
    low, middle, high = ((setup + count * seconds) / 3600 for seconds in (step.low, step.seconds, step.high))
    cluster, price = scenario.cluster, scenario.cluster.gpu.price
    rates = _rates(price)
    return Cost(
        steps=steps_of(scenario, job),
        hours=middle,
        low_hours=low,
        high_hours=high,
        setup_hours=setup / 3600,
        usd=_money(middle, cluster.world_size, None if price is None else price.typical_usd),
        usd_low=_money(low, cluster.world_size, min(rates, default=None)),
        usd_high=_money(high, cluster.world_size, max(rates, default=None)),
        price_as_of=None if price is None else price.as_of,
    )


def _rates(price: Price | None) -> tuple[float, ...]:
    """Every price per GPU-hour that is known."""
    if price is None:
        return ()
    found = (price.low_usd, price.typical_usd, price.hyperscaler_usd)
    return tuple(usd for usd in found if usd is not None)


def _money(hours: float, gpus: int, usd_per_hour: float | None) -> float | None:
    return None if usd_per_hour is None else hours * gpus * usd_per_hour


def setup_seconds(scenario: Scenario, estimate: Estimate, assumed: Assumed = ASSUMED) -> float:
    """From an empty machine to weights on the device: download, read, copy to the device, quantise.

    Formula:   checkpoint / network + checkpoint / disk + placed / PCIe + 2.5 * quantised / (0.2 * bandwidth)
    Source:    derived here: one after another, every machine by itself; quantising reads 2 and writes 0.5 bytes
               per parameter
    Valid:     rates of ``assumed``; 16-bit weights travel to the device before they are quantised
    Excludes:  boot, installing packages, starting CUDA; a checkpoint that is there already
    """
    gpu, train = scenario.cluster.gpu, scenario.train
    checkpoint = checkpoint_bytes(scenario.model)
    placed = _loaded_bytes(scenario)
    packed = 2.5 * estimate.parameters.quantized if train.quantized else 0.0
    return (
        checkpoint / assumed.network_bytes_per_s
        + checkpoint / assumed.disk_bytes_per_s
        + placed / _bus(gpu)
        + packed / (QUANTISE_BANDWIDTH * gpu.bandwidth_bytes_per_s)
    )


def _bus(gpu: Gpu) -> float:
    if gpu.unified_memory:
        return gpu.bandwidth_bytes_per_s
    return gpu.pcie_bytes_per_s or CARD_BUS


def _loaded_bytes(scenario: Scenario) -> int:
    """The whole model as it is read: 16-bit before quantising, else in the dtype of the weights."""
    width = 2 if scenario.train.quantized else FLOAT_BYTES[scenario.train.weights_dtype]
    return width * model_params(scenario.model)


# ---------------------------------------------------------------- disk and host memory


def saved_bytes(scenario: Scenario, estimate: Estimate) -> int:
    """One checkpoint of the run: what is trained, and the optimizer's states of all ranks.

    Formula:   width * trainable + states per rank * ranks that share them
    Source:    transformers 5.23 trainer.py, _save_checkpoint; PEFT 0.21 save_pretrained (adapters only)
    Valid:     safetensors of the trained dtype
    Excludes:  scheduler, random states, tokenizer
    """
    train, counts = scenario.train, estimate.parameters
    width = FLOAT_BYTES[train.adapter_dtype if train.uses_adapters else train.weights_dtype]
    states = estimate.phases["optimizer_step"].optimizer + estimate.peak.managed_bytes
    shards = divisors(train.sharding, scenario.layout.shard).optimizer
    return width * (counts.trainable if train.uses_adapters else counts.total) + states * shards


def disk_bytes(scenario: Scenario, estimate: Estimate, job: Job, assumed: Assumed = ASSUMED) -> int:
    """Disk that the job needs on one machine: the download, saved checkpoints, the data.

    Formula:   checkpoint + (kept + 1) * saved + tokens * (2 * 4 of text + 5 tokenised)
    Source:    the Hub's cache holds a file once; the Trainer writes a new checkpoint before it deletes an old one; text
               stands in the source file and in Arrow
    Valid:     ``kept`` as save_total_limit
    Excludes:  system and packages (some 10 GB with torch and CUDA), merged models, logs
    """
    data = (job.epoch_tokens or 0) * (2 * TEXT_BYTES + TOKEN_BYTES)
    return checkpoint_bytes(scenario.model) + (assumed.kept + 1) * saved_bytes(scenario, estimate) + data


def host_bytes(scenario: Scenario, estimate: Estimate) -> int:
    """Host memory that the job needs on one machine: what the estimate says of its RAM, and its processes.

    Formula:   max(loading, steady) + ranks * process
    Source:    ``closed_form.host``
    Valid:     dataloader_num_workers of 0, as in the Trainer
    Excludes:  the page cache, which makes a second read of the checkpoint quick where there is room for it
    """
    return estimate.host.required_on(scenario.cluster) + scenario.cluster.gpus * PROCESS_BYTES

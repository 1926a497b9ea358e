"""The cache of traces: what a hit is, what a key holds, and that nothing half-written or damaged is ever read."""

import gc
import importlib
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import planner
from planner.allocator.config import Settings
from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.allocator.replay import DEFAULT
from planner.errors import UnsupportedScenario
from planner.result import OWNERS, PHASES, Parameters
from planner.spec import Scenario, TrainSpec
from planner.trace import front, keys
from planner.trace.cache import UNFINISHED, VARIABLE, Cache, Kind, default_cache
from planner.trace.judgement import Traced, judge
from planner.trace.keys import CARD_FACTS, JUDGED_FACTS, PACKAGE, digest, finding_key, trace_key
from planner.trace.layers import Depth
from planner.trace.stored import JUDGED, TRACED, Judged
from planner.units import GIB
from tests.conftest import CARD, MODEL, STACK
from tests.conftest import candidate as candidate_of

MIB = 2**20
KEY = "0" * 64
SCENARIO = candidate_of("lora").scenario


def some_trace(count: int = 200, seed: int = 0) -> Traced:
    """Blocks of every owner that come and go at random; what lives at the end stays."""
    dice = random.Random(seed)
    blocks: list[Block] = []
    events: list[int] = []
    live: list[int] = []
    while len(events) < count:
        if live and dice.random() < 0.45:
            events.append(~live.pop(dice.randrange(len(live))))
            continue
        live.append(len(blocks))
        events.append(len(blocks))
        site = f"model.layers.{dice.randrange(9)}.mlp"
        blocks.append(Block(dice.randrange(1, 4 * MIB), dice.choice(OWNERS), site, dice.randrange(-1, 9)))
    marks = tuple(Mark(number * count // 10, PHASES[number % 5], number // 5) for number in range(10))
    layers = tuple(dice.randrange(-1, 9) for _ in events)
    return Traced(Trace(tuple(blocks), tuple(events), layers, marks), Parameters(9, 2, 0), 77, Depth(9, 0, 1))


TRACED_HERE = some_trace()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "traces")


def refuse() -> Any:
    raise AssertionError("made again, though it is stored")


def entries(cache: Cache) -> list[str]:
    assert cache.directory is not None
    return sorted(os.listdir(cache.directory)) if cache.directory.exists() else []


# ---------------------------------------------------------------- hits


def test_a_hit_is_what_was_made(cache: Cache) -> None:
    made = cache.cached(KEY, TRACED, lambda: TRACED_HERE)

    assert made is TRACED_HERE
    assert cache.cached(KEY, TRACED, refuse) == TRACED_HERE


def test_a_stored_finding_is_the_finding(cache: Cache) -> None:
    found = judge(SCENARIO, TRACED_HERE)
    kept = Judged(found.estimate, found.replay, found.peak)

    cache.keep(KEY, JUDGED, kept)
    read = cache.cached(KEY, JUDGED, refuse)

    assert read.on(TRACED_HERE) == found
    assert list(read.estimate.phases) == list(found.estimate.phases)


def test_two_kinds_share_a_key_and_no_entry(cache: Cache) -> None:
    cache.keep(KEY, TRACED, TRACED_HERE)

    assert cache.look_up(KEY, JUDGED) is None


def test_without_a_key_or_a_folder_everything_is_made(cache: Cache) -> None:
    nowhere, calls = Cache(None), []

    def make() -> Traced:
        calls.append(1)
        return TRACED_HERE

    for _ in range(2):
        cache.cached(None, TRACED, make)
        nowhere.cached(KEY, TRACED, make)

    assert len(calls) == 4
    assert entries(cache) == []


def test_a_long_trace_is_read_in_no_time(cache: Cache) -> None:
    """200,000 events; half a second is far more than it takes, and far less than a trace."""
    long = some_trace(200_000)
    cache.keep(KEY, TRACED, long)
    gc.collect()
    gc.freeze()  # what other tests left in memory is not to be searched for garbage
    found, seconds = None, list[float]()
    for _ in range(3):  # a processor that is shared takes twice as long at times
        start = time.process_time()
        found = cache.look_up(KEY, TRACED)
        seconds.append(time.process_time() - start)
        if seconds[-1] < 1.0:
            break
    gc.unfreeze()

    assert found == long
    assert min(seconds) < 1.0


# ---------------------------------------------------------------- damage and interruption


Damage = Callable[[bytes], bytes]


def flipped(share: float) -> Damage:
    """One bit is another one."""

    def damage(content: bytes) -> bytes:
        place = int(len(content) * share)
        return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]

    return damage


DAMAGES: dict[str, Damage] = {
    "empty": lambda _content: b"",
    "foreign": lambda _content: b"not an entry at all",
    "cut in half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "with something behind": lambda content: content + b"x",
    **{f"one bit at {share}": flipped(share) for share in (0.0, 0.3, 0.6, 0.99)},
}


@pytest.mark.parametrize("kind", [TRACED, JUDGED], ids=lambda kind: kind.suffix)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_again(cache: Cache, kind: Kind[Any], damage: Damage) -> None:
    found = judge(SCENARIO, TRACED_HERE)
    value = TRACED_HERE if kind is TRACED else Judged(found.estimate, found.replay, found.peak)
    cache.keep(KEY, kind, value)
    assert cache.directory is not None
    path = cache.directory / f"{KEY}.{kind.suffix}"
    path.write_bytes(damage(path.read_bytes()))

    assert cache.look_up(KEY, kind) is None
    assert cache.cached(KEY, kind, lambda: value) == value
    assert cache.cached(KEY, kind, refuse) == value


@pytest.mark.parametrize("error", [KeyboardInterrupt, UnsupportedScenario, SystemExit])
def test_an_interrupted_trace_leaves_nothing_behind(cache: Cache, error: type[BaseException]) -> None:
    def interrupted() -> Traced:
        raise error

    with pytest.raises(error):
        cache.cached(KEY, TRACED, interrupted)

    assert entries(cache) == []


def test_an_interrupted_write_leaves_nothing_behind(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_source: str, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.keep(KEY, TRACED, TRACED_HERE)

    assert entries(cache) == []


def test_a_full_disk_is_no_error_and_keeps_the_old_entry(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep(KEY, TRACED, TRACED_HERE)

    def full(_source: str, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.keep(KEY, TRACED, some_trace(seed=1))

    assert entries(cache) == [f"{KEY}.trace"]
    assert cache.look_up(KEY, TRACED) == TRACED_HERE


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")

    assert Cache(blocked).cached(KEY, TRACED, lambda: TRACED_HERE) is TRACED_HERE
    assert Cache(blocked / "below").cached(KEY, TRACED, lambda: TRACED_HERE) is TRACED_HERE
    assert blocked.read_text(encoding="utf-8") == "in the way"


# ---------------------------------------------------------------- several processes


def _write_and_read(directory: Path, seed: int, rounds: int) -> bool:
    """Whether every read gave a whole entry of somebody's, while others write."""
    cache, possible = Cache(directory), [some_trace(seed=number) for number in (0, 1)]
    for _ in range(rounds):
        cache.keep(KEY, TRACED, possible[seed])
        found = cache.look_up(KEY, TRACED)
        if found is None or found not in possible:
            return False
    return True


def test_two_processes_at_once(cache: Cache) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        fine = pool.starmap(_write_and_read, [(cache.directory, 0, 60), (cache.directory, 1, 60)])

    assert fine == [True, True]
    assert entries(cache) == [f"{KEY}.trace"]


# ---------------------------------------------------------------- size


def test_the_least_recently_used_goes_first(cache: Cache) -> None:
    assert cache.directory is not None
    size = len(TRACED.encode(TRACED_HERE))
    small = cache._replace(limit=3 * size)
    for number in range(3):
        small.keep(f"{number:064x}", TRACED, TRACED_HERE)
        os.utime(cache.directory / f"{number:064x}.trace", (1000 + number, 1000 + number))
    assert small.look_up(f"{0:064x}", TRACED) == TRACED_HERE  # used now, so number 1 is the oldest

    small.keep(f"{3:064x}", TRACED, TRACED_HERE)

    assert entries(cache) == [f"{number:064x}.trace" for number in (0, 2, 3)]


def test_what_is_larger_than_the_whole_cache_is_not_kept(cache: Cache) -> None:
    cache.keep(KEY, TRACED, TRACED_HERE)

    cache._replace(limit=10).keep("1" * 64, TRACED, TRACED_HERE)

    assert entries(cache) == [f"{KEY}.trace"]


def test_files_of_others_stay(cache: Cache) -> None:
    assert cache.directory is not None
    cache.directory.mkdir()
    for name in ("thesis.txt", "a.trace", f"{UNFINISHED}new", f"{UNFINISHED}old"):
        (cache.directory / name).write_bytes(b"x" * 1000)
    os.utime(cache.directory / f"{UNFINISHED}old", (1000, 1000))
    size = len(TRACED.encode(TRACED_HERE))

    cache._replace(limit=size).keep(KEY, TRACED, TRACED_HERE)

    assert entries(cache) == sorted([f"{KEY}.trace", "a.trace", "thesis.txt", f"{UNFINISHED}new"])


# ---------------------------------------------------------------- keys

OTHER: dict[str, Any] = {
    "method": "qlora",
    "lora_targets": ("q_proj",),
    "modules_to_save": ("lm_head",),
    "adapter_dtype": "bf16",
    "quant": "int8",
    "quant_storage": "bf16",
    "weights_dtype": "fp32",
    "autocast": "none",
    "optimizer": "sgd",
    "attention": "eager",
    "kernels": "fused",
    "loss": "chunked",
    "sharding": "ddp",
    "moments": ("save",),
    "offload": ("optimizer",),
}


def _another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + type(value)(1)


@pytest.mark.parametrize("name", [field.name for field in fields(TrainSpec)])
def test_every_training_setting_is_in_the_key(name: str) -> None:
    value = getattr(SCENARIO.train, name)
    other = OTHER[name] if name in OTHER else _another(value)
    changed = replace(SCENARIO, train=replace(SCENARIO.train, **{name: other}))

    assert getattr(changed.train, name) != value
    assert trace_key(changed) != trace_key(SCENARIO)


def with_gpu(**facts: Any) -> Scenario:
    return replace(SCENARIO, cluster=replace(SCENARIO.cluster, gpu=replace(CARD, **facts)))


@pytest.mark.parametrize(
    "changed",
    [
        replace(SCENARIO, model=replace(MODEL, config={"hidden_act": "gelu"})),
        replace(SCENARIO, model=replace(MODEL, vocab_size=1)),
        replace(SCENARIO, stack=replace(STACK, holds_logits=True)),
        replace(SCENARIO, stack=replace(STACK, versions={"torch": "2.12.0"})),
        replace(SCENARIO, cluster=replace(SCENARIO.cluster, gpus=2)),
        with_gpu(compute_capability=(8, 0)),
        with_gpu(sm_count=1),
    ],
)
def test_model_stack_and_the_card_are_in_the_key(changed: Scenario) -> None:
    assert trace_key(changed) != trace_key(SCENARIO)


@pytest.mark.parametrize(
    "same",
    [
        replace(SCENARIO, origins={"method": "default"}),
        with_gpu(price=None, memory_bytes=80 * GIB, name="another card of the kind"),
        replace(SCENARIO, cluster=replace(SCENARIO.cluster, headroom_bytes=GIB)),
    ],
)
def test_what_no_trace_reads_is_not(same: Scenario) -> None:
    assert trace_key(same) == trace_key(SCENARIO)


def test_how_it_is_traced_is_in_the_key() -> None:
    found = {
        trace_key(SCENARIO),
        trace_key(SCENARIO, lengths=(512, 1024)),
        trace_key(SCENARIO, lengths=(1024, 512)),
        trace_key(SCENARIO, all_layers=True),
    }

    assert len(found) == 4
    assert None not in found


def test_what_is_no_plain_data_has_no_key() -> None:
    assert digest({"target_modules": object()}) is None
    assert trace_key(replace(SCENARIO, model=replace(MODEL, config={"rope": object()}))) is None
    assert digest({"q", "k", "v"}) == digest({"v", "k", "q"})


def test_values_that_look_alike_have_different_keys() -> None:
    values: list[object] = [1, True, "1", 1.5, None, "None", (), {}, {1: 2}, {"1": 2}, [[1]], [1], {1}, ["set"], "set"]

    assert len({digest(value) for value in values}) == len(values)


class Fake:
    """An installed library as ``importlib.metadata`` shows it."""

    def __init__(self, version: str, origin: str | None = None) -> None:
        self.version, self.origin = version, origin

    def read_text(self, _name: str) -> str | None:
        return self.origin


@pytest.fixture
def key_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str | None]]:
    def key(**libraries: Fake) -> str | None:
        def distribution(name: str) -> Fake:
            if name not in libraries:
                raise importlib.metadata.PackageNotFoundError(name)
            return libraries[name]

        monkeypatch.setattr(keys, "distribution", distribution)
        keys.running_software.cache_clear()
        return trace_key(SCENARIO)

    yield key
    keys.running_software.cache_clear()


@pytest.mark.parametrize("name", [name for name in keys.ENTERING if "-" not in name])
def test_every_library_is_in_the_key(key_with: Callable[..., str | None], name: str) -> None:
    found = {
        key_with(),
        key_with(**{name: Fake("1.0")}),
        key_with(**{name: Fake("1.0+cpu")}),
        key_with(**{name: Fake("1.0", '{"vcs_info": {"commit_id": "a"}}')}),
        key_with(**{name: Fake("1.0", '{"vcs_info": {"commit_id": "b"}}')}),
    }

    assert len(found) == 5


def test_a_library_that_is_being_edited_has_no_key(key_with: Callable[..., str | None]) -> None:
    assert key_with(peft=Fake("1.0", '{"url": "file:///src", "dir_info": {"editable": true}}')) is None
    assert key_with(peft=Fake("1.0", "damaged")) is not None


def test_our_own_version_schema_and_sources_are_in_the_key(
    key_with: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [key_with()]
    for name, value in (("__version__", "99"), ("SCHEMA", 99), ("PACKAGE", tmp_path)):
        monkeypatch.setattr(keys, name, value)
        found.append(key_with())
    (tmp_path / "new.py").touch()
    found.append(key_with())

    assert len(set(found)) == 5


def test_a_finding_has_the_cards_other_facts_and_the_settings_in_its_key() -> None:
    found = {
        finding_key(KEY, SCENARIO, DEFAULT),
        finding_key("1" * 64, SCENARIO, DEFAULT),
        finding_key(KEY, SCENARIO, Settings(expandable_segments=True)),
        finding_key(KEY, with_gpu(context_bytes=0), DEFAULT),
        finding_key(KEY, with_gpu(unified_memory=True), DEFAULT),
    }

    assert len(found) == 5


def test_no_other_fact_of_a_card_is_read() -> None:
    """What building, tracing and judging ask of a card, by their text."""
    asked = set()
    for folder in ("build", "trace"):
        for path in (PACKAGE / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            asked |= set(re.findall(r"\bgpu\.(\w+)", text)) | set(re.findall(r"\bcluster\.(\w+)", text))

    assert asked - {"gpu", "world_size"} == {*CARD_FACTS, *JUDGED_FACTS}


# ---------------------------------------------------------------- the folder


@pytest.mark.parametrize("word", ["off", "OFF", " 0 ", "none"])
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv(VARIABLE, word)

    assert default_cache().directory is None


def test_the_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert default_cache().directory == tmp_path

    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert "finetune-planner" in str(default_cache().directory)


# ---------------------------------------------------------------- the front


def test_the_front_records_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def record(_scenario: Scenario, **_how: object) -> Traced:
        calls.append(1)
        return TRACED_HERE

    recorder = type(sys)("planner.trace.estimator")
    recorder.trace = record  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planner.trace.estimator", recorder)

    first = front.find(SCENARIO, cache=cache)
    second = front.find(SCENARIO, cache=cache)
    estimate = front.estimate(SCENARIO, cache=cache)
    front.find(SCENARIO, Settings(expandable_segments=True), cache=cache)

    assert first == second == judge(SCENARIO, TRACED_HERE)
    assert estimate == first.estimate
    assert len(calls) == 1
    assert [name.partition(".")[2] for name in entries(cache)].count("finding") == 2


HIT = """
import planner, sys
scenario = planner.scenario(model="8b", gpu="4090", method="lora")
first = planner.estimate(scenario, "traced")
assert planner.estimate(scenario, "traced") == first
assert first.parameters.total == 9
print(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.mark.torch
def test_a_hit_loads_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    scenario = planner.scenario(model="8b", gpu="4090", method="lora")
    Cache(tmp_path).keep(trace_key(scenario), TRACED, TRACED_HERE)

    environment = {**os.environ, VARIABLE: str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HIT], capture_output=True, text=True, check=True, cwd=PACKAGE.parent, env=environment
    )
    loaded = set(done.stdout.split())

    assert "planner" in loaded
    assert loaded & {"torch", "transformers", "accelerate", "peft", "bitsandbytes", "numpy"} == set()
    assert [name.partition(".")[2] for name in entries(Cache(tmp_path))].count("finding") == 1


def test_layer_numbers_outside_are_kept(cache: Cache) -> None:
    trace = Trace((Block(2**40, "weights", "", OUTSIDE),), (0, ~0), (OUTSIDE, 0), ())
    value = Traced(trace, Parameters(2**41, 0, 0), 2**42, Depth(1, 0, 1))

    cache.keep(KEY, TRACED, value)

    assert cache.look_up(KEY, TRACED) == value

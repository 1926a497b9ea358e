"""The readers, each with files that it takes: what ``python -m fuzz`` damages."""

import io
import json
import pickle
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.damage import HOSTILE, Bytes, flipped, objects, stored, texts

ROOT = Path(__file__).resolve().parents[1]
SEEDS = Path(__file__).resolve().parent / "seeds"
SIZES = (
    "-1.00 GiB",
    "1e9 MiB",
    "9" * 400 + " GiB",
    "0 bytes",
    "nan GiB",
    "GPU 99999999999",
    "1.2.3 GiB",
    "(GPU 0;",
    "CUDA out of memory. Tried to allocate",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A reader of files named ``file``, and what it is given; ``needs``: a library, not in Python, that reads it."""

    name: str
    file: str
    read: Callable[[Path], object]
    files: Callable[[], Bytes]
    needs: str = ""


# ---------------------------------------------------------------- readers


def _model(path: Path) -> object:
    from planner.catalog import from_path  # noqa: PLC0415  (a target loads what it reads with)

    return from_path(path)


def _adapter(path: Path) -> object:
    from planner.peft_config import beyond_plain_lora, lora_settings, method_of, read_adapter  # noqa: PLC0415

    fields = read_adapter(path)
    method_of(fields)
    beyond_plain_lora(fields)
    return lora_settings(fields)


def _profile(path: Path) -> object:
    from planner.hardware import list_classes, list_gpus  # noqa: PLC0415

    return list_gpus(path.parent), list_classes(path.parent)


def _dataset(path: Path) -> object:
    from planner.datasets import read  # noqa: PLC0415
    from planner.render.dataset import Setting, dataset_answer, dataset_sheets  # noqa: PLC0415

    data = read(path)
    at = Setting(data.suggested_seq_len(None), 2, None)
    return dataset_answer(data, at), dataset_sheets(data, at)


def _snapshot(path: Path) -> object:
    from planner.allocator.recorded import read  # noqa: PLC0415
    from planner.allocator.replay import replay  # noqa: PLC0415

    return replay(read(path.read_bytes()).trace)


def _message(path: Path) -> object:
    from planner.why import hints, parse, place  # noqa: PLC0415

    text = path.read_bytes().decode("utf-8", errors="replace")
    hints(text)
    place(text)
    return parse(text)


def _records(path: Path) -> object:
    from planner.records.exchange import import_lines  # noqa: PLC0415

    class Nowhere:
        def add_all(self, found: Sequence[object]) -> int:
            return len(found)

    return import_lines(path.read_bytes(), Nowhere())  # type: ignore[arg-type]  # a store that keeps nothing


def _rows(path: Path) -> object:
    from planner.cli.row_file import RowFile  # noqa: PLC0415

    return RowFile(str(path))


def _matrix(path: Path) -> object:
    from planner.measure.matrix import load_matrix  # noqa: PLC0415

    return load_matrix(str(path))


def _lengths(path: Path) -> object:
    from planner.trace.lengths import read_lengths  # noqa: PLC0415

    return read_lengths(path)


def _words(path: Path) -> object:
    """What options take as text, each line as one of them."""
    from planner.allocator.config import parse  # noqa: PLC0415
    from planner.catalog import load_model  # noqa: PLC0415
    from planner.errors import PlannerError  # noqa: PLC0415
    from planner.hardware import load_gpu  # noqa: PLC0415
    from planner.stacks import load_stack  # noqa: PLC0415
    from planner.units import parse_bytes, parse_count  # noqa: PLC0415

    said = PlannerError("")
    for line in path.read_bytes().decode("utf-8", errors="replace").split("\n"):
        for read in (parse, load_gpu, load_stack, parse_bytes, parse_count, load_model):
            if read is load_model and ("/" in line or "\\" in line or "." in line or "~" in line):
                continue  # names of repositories are fetched, and paths read
            try:
                read(line)
            except PlannerError as error:
                said = max(said, error, key=lambda one: len(str(one)))
    raise said


def _configuration(path: Path) -> object:
    """Read, then plan for a card: what a file says may be odd enough for a plan, too."""
    from planner.configs.checking import check, understand_files  # noqa: PLC0415
    from planner.recommend.request import Request  # noqa: PLC0415

    understood, documents = understand_files([path])
    return check(understood, documents, Request(model="1b", gpu="24gb", stack=""))


# ---------------------------------------------------------------- files


def _seed(name: str) -> str:
    return (SEEDS / name).read_text(encoding="utf-8")


def _seeds(name: str) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(_seed(name)))


def _text(name: str, pieces: Sequence[str] = HOSTILE) -> Callable[[], Bytes]:
    return lambda: texts([_seed(name)], pieces)


def _of_models() -> tuple[dict[str, Any], ...]:
    """One configuration of each architecture."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "planner" / "models").glob("*.toml")):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        if "config" in data:
            found.setdefault(data["model_type"], {"model_type": data["model_type"], **data["config"]})
    return tuple(found.values())


def _of_profiles() -> tuple[str, ...]:
    return tuple((ROOT / "hardware_profiles" / f"{name}.toml").read_text(encoding="utf-8") for name in PROFILES)


PROFILES = ("l4", "rtx4090", "h100")


def _pickles() -> Bytes:
    """Snapshots with other values, with other bytes, and no snapshots at all."""
    whole = [pickle.dumps(one) for one in _seeds("snapshot.json")]
    return st.one_of(
        st.sampled_from(whole).flatmap(flipped), objects(_seeds("snapshot.json")).map(_pickled), st.binary(max_size=60)
    )


def _pickled(data: bytes) -> bytes:
    """JSON as the pickle of the same; what is no JSON any more as it is."""
    try:
        return pickle.dumps(json.loads(data))
    except (ValueError, RecursionError):
        return data


def _parquet() -> Bytes:
    import pyarrow  # noqa: PLC0415  (optional)
    import pyarrow.parquet as pq  # noqa: PLC0415

    sink = io.BytesIO()
    pq.write_table(pyarrow.table({"prompt": ["a b", "c"], "completion": ["d", None], "image": [b"x", b"y"]}), sink)
    return st.just(sink.getvalue()).flatmap(flipped)


def _configuration_of(name: str, file: str, seed: str = "") -> Target:
    return Target(name, file, _configuration, _text(seed or file))


TARGETS = (
    Target("model", "config.json", _model, lambda: objects(_of_models())),
    Target("adapter", "adapter_config.json", _adapter, lambda: objects(_seeds("adapter.json"))),
    Target("profile", "l4.toml", _profile, lambda: texts(_of_profiles())),
    Target("jsonl", "rows.jsonl", _dataset, _text("chat.jsonl")),
    Target("json", "rows.json", _dataset, lambda: objects([json.loads(_seed("rows.json"))])),
    Target("csv", "rows.csv", _dataset, _text("rows.csv", ('"', ",", "\r", '""', '","', "\0"))),
    Target("text", "rows.txt", _dataset, _text("prose.txt")),
    Target("parquet", "rows.parquet", _dataset, _parquet, needs="pyarrow"),
    Target("snapshot", "snapshot.pickle", _snapshot, _pickles),
    Target("message", "log.txt", _message, _text("messages.txt", SIZES)),
    Target("records", "runs.jsonl", _records, lambda: objects([json.loads(_seed("records.jsonl").splitlines()[0])])),
    Target("rows", "rows.jsonl", _rows, _text("sweep.jsonl")),
    Target("matrix", "own.toml", _matrix, _text("matrix.toml")),
    Target("lengths", "lengths.txt", _lengths, _text("lengths.txt", ("-1", "0", "1,", "9" * 30, "#", "1 2 3", "²"))),
    Target("words", "words.txt", _words, lambda: st.one_of(st.text(max_size=40).flatmap(stored), _text("words.txt")())),
    _configuration_of("axolotl", "axolotl.yaml"),
    _configuration_of("llamafactory", "llamafactory.yaml"),
    _configuration_of("trl", "trl.yaml"),
    _configuration_of("transformers", "training_args.json"),
    _configuration_of("accelerate", "accelerate.yaml"),
    _configuration_of("deepspeed", "deepspeed.json"),
    _configuration_of("torchtune", "torchtune.yaml"),
    _configuration_of("unsloth", "unsloth.py", "unsloth.txt"),
)
BY_NAME = {target.name: target for target in TARGETS}

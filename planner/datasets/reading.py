"""One file to one ``Dataset``: format, rows, shapes, tokens, and what they amount to in the whole file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from planner.datasets.counting import Counter
from planner.datasets.documents import json_document
from planner.datasets.files import Opened, checked, opened
from planner.datasets.lines import json_lines, text_lines
from planner.datasets.parquet import parquet_rows
from planner.datasets.rows import QUICK, TOKENIZED, Budget, Cluster, Raw, Source, broken
from planner.datasets.shapes import ACCEPTED, Example, Passage, Unusable, example
from planner.datasets.tables import table_rows
from planner.datasets.tally import Counted, condensed, ratio_standard_error, scaled, scaled_lengths
from planner.datasets.tokenizers import counter_for
from planner.spec.dataset import SHAPES, Dataset, Fault, Shape
from planner.spec.job import Task
from planner.units import format_bytes

Told = Callable[[float, str], None]
"""Hears how much of 1 is done, and of what: ``Progress.bar``."""

PLACES = 3
"""Bad rows that are named for each reason."""
REASONS = 20
"""Reasons that are told apart; rows with others count together."""
TASK_OF: dict[Shape, Task] = {"preference": "dpo", "prompt": "rl"}
"""What data is for where nobody says: pairs are compared, prompts alone are answered by the model. Else sft."""


def read(
    path: str | Path,
    *,
    model: str | None = None,
    tokenizer: str | None = None,
    task: Task | None = None,
    told: Told | None = None,
) -> Dataset:
    """What a file of training data holds, in tokens of ``model`` where its tokenizer is here.

    ``task``: what the data is for; told from its shape where it is ``None``. Raise ``BrokenInput`` for a file without
    any row that can be used, and for a tokenizer that is named and cannot be read.
    """
    file = checked(Path(path))
    counter, missing = counter_for(model, tokenizer)
    with opened(file) as stream:
        source = source_of(stream, TOKENIZED if counter.slow else QUICK)
        seen = _seen(source, _Seen(counter, task), told, file.name)
    if not seen.rows:
        raise broken(file, _nothing(seen, whole=source.whole))
    return _dataset(file, source, seen, missing)


def _seen(source: Source, seen: "_Seen", told: Told | None, name: str) -> "_Seen":
    """All that the source finds."""
    for cluster in source.found:
        seen.add(cluster)
        if told is not None:
            told(min(seen.size / max(source.planned, 1), 1.0), f"reading {name}: {seen.rows:,} rows")
    return seen


def source_of(file: Opened, budget: Budget) -> Source:
    """The reader of a format over its file."""
    if file.format == "parquet":
        return parquet_rows(file.path, budget)
    readers = {"jsonl": json_lines, "json": json_document, "csv": table_rows, "tsv": table_rows, "text": text_lines}
    return readers[file.format](file, budget)


@dataclass
class _Seen:
    """What was read so far."""

    counter: Counter
    task: Task | None
    clusters: list[Counted] = field(default_factory=list)
    shapes: dict[Shape, int] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    fault_rows: dict[str, int] = field(default_factory=dict)
    marks: set[int] = field(default_factory=set)
    rows: int = 0
    bad: int = 0
    size: int = 0
    characters: int = 0
    tokens: int = 0
    answers: int = 0
    supervised: int = 0
    unique: int = 0
    duplicates: int = 0

    def add(self, cluster: Cluster) -> None:
        """Count one cluster."""
        found = [made for raw in cluster.rows if (made := self._example(raw)) is not None]
        passages = [(one, passage) for one in found for passage in one.sequences]
        counted = self.counter.tokens([passage for _, passage in passages])
        before = self.tokens
        new = {id(one): self._is_new(one) for one in found}
        for (one, passage), (tokens, answers) in zip(passages, counted, strict=True):
            self._passage(passage, tokens, answers, supervised_of(one.shape, self.task), new[id(one)])
        self.rows += len(found)
        self.size += cluster.size
        self.clusters.append(Counted(cluster.size, self.tokens - before))

    def _example(self, raw: Raw) -> Example | None:
        fault = raw.fault
        if raw.row is not None:
            try:
                made = example(raw.row, self.task)
            except Unusable as error:
                fault = str(error)
            except RecursionError:
                fault = "nested too deeply"
            else:
                self.shapes[made.shape] = self.shapes.get(made.shape, 0) + 1
                return made
        self.bad += 1
        if fault not in self.faults and len(self.faults) >= REASONS:
            fault = "other reasons"
        self.fault_rows[fault] = self.fault_rows.get(fault, 0) + 1
        places = self.faults.setdefault(fault, [])
        if len(places) < PLACES:
            places.append(raw.place)
        return None

    def _is_new(self, one: Example) -> bool:
        mark = hash(tuple((turn.role, turn.text) for passage in one.sequences for turn in passage.turns))
        if mark in self.marks:
            self.duplicates += 1
            return False
        self.marks.add(mark)
        return True

    def _passage(self, passage: Passage, tokens: int, answers: int, only_answers: bool, new: bool) -> None:
        self.characters += sum(len(turn.text) for turn in passage.turns)
        self.tokens += tokens
        self.answers += answers
        learned = answers if only_answers else tokens
        self.supervised += learned
        self.unique += learned if new else 0
        self.lengths[tokens] = self.lengths.get(tokens, 0) + 1


def supervised_of(shape: Shape, task: Task | None) -> bool:
    """Whether only answers bear loss: in completions and in preferences, as TRL has it unasked; else all tokens do.

    trl 1.16 trainer/sft_config.py: completion_only_loss None, assistant_only_loss False; trainer/dpo_trainer.py:
    completion_mask.
    """
    return task != "cpt" and shape in ("prompt-completion", "preference")


def _nothing(seen: _Seen, *, whole: bool) -> str:
    """Why no row can be used."""
    if not seen.bad:
        return f"holds no row; {ACCEPTED}"
    worst = max(seen.fault_rows, key=lambda reason: seen.fault_rows[reason])
    encoding = ": convert it first: iconv -f latin1 -t utf-8" if worst == "not UTF-8" else ""
    which = "its only row cannot" if seen.bad == 1 and whole else f"none of {seen.bad:,} rows that were read can"
    return f"{which} be used ({seen.faults[worst][0]}: {worst}{encoding}); {ACCEPTED}"


def _dataset(file: Path, source: Source, seen: _Seen, missing: str) -> Dataset:
    factor = 1.0 if source.whole else source.size / max(seen.size, 1)
    error = 0.0 if source.whole else _error(source, seen)
    shapes = tuple((shape, scaled(seen.shapes[shape], factor)) for shape in SHAPES if shape in seen.shapes)
    main = max(seen.shapes, key=lambda shape: seen.shapes[shape])
    task = seen.task or TASK_OF.get(main, "sft")
    rl = task == "rl"
    lengths = condensed(scaled_lengths(seen.lengths, factor))
    per_token = lengths.tokens / max(seen.tokens, 1)
    return Dataset(
        path=str(file),
        format=source.format,
        size_bytes=file.stat().st_size,
        task=task,
        shapes=shapes,
        rows=scaled(seen.rows, factor),
        bad_rows=scaled(seen.bad, factor),
        read_rows=seen.rows + seen.bad,
        read_share=1.0 if source.whole else min(1 / factor, 1.0),
        random=source.random or source.whole,
        faults=_faults(seen),
        duplicates=seen.duplicates,
        lengths=lengths,
        answer_tokens=scaled(seen.answers, per_token),
        supervised_tokens=None if rl else scaled(seen.supervised, per_token),
        unique_tokens=None if rl else scaled(seen.unique, per_token),
        standard_error=error,
        counting=seen.counter.told(seen.characters, seen.tokens),
        notes=_notes(source, seen, missing, task),
    )


def _error(source: Source, seen: _Seen) -> float | None:
    if not source.random:
        return None
    return ratio_standard_error(seen.clusters, size=source.size, total=max(source.clusters, len(seen.clusters)))


def _faults(seen: _Seen) -> tuple[Fault, ...]:
    order = sorted(seen.fault_rows, key=lambda reason: (-seen.fault_rows[reason], reason))
    return tuple(Fault(reason, seen.fault_rows[reason], tuple(seen.faults[reason])) for reason in order)


def _notes(source: Source, seen: _Seen, missing: str, task: Task) -> tuple[str, ...]:
    found = [missing] if missing else []
    if not source.whole and not source.random:
        found.append(
            f"only its head was read, {format_bytes(seen.size) if source.format != 'parquet' else 'by rows'}:"
            " a file in some order has other rows behind it, and no error can be stated"
        )
    if len(seen.shapes) > 1:
        parts = ", ".join(f"{shape} {count:,}" for shape, count in sorted(seen.shapes.items(), key=lambda one: -one[1]))
        found.append(f"rows of several shapes: {parts}; TRL takes one shape a file")
    if seen.task is None and task != "sft":
        found.append(f"taken for {task} by its shape; --task says otherwise")
    if task == "rl":
        found.append("lengths are those of prompts: what the model will write is not in the file")
    if seen.shapes.keys() == {"text"} and task == "sft":
        found.append("plain text: --task cpt if this is continued pretraining")
    return tuple(found)

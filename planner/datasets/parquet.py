"""Parquet through pyarrow, whole or by row groups at random."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from planner.datasets.rows import SEED, Budget, Cluster, Raw, Source, broken, reason
from planner.datasets.shapes import COLUMNS
from planner.errors import UsageError

INSTALL = "pip install pyarrow"
BATCH = 1000
"""Rows that are in memory at a time."""
GROUPS = 64
"""Row groups of a sample, from each of which as much is read as brings all to the sample's size."""


def parquet_rows(path: Path, budget: Budget) -> Source:
    """Rows of a Parquet file, of which only the columns that say something about training are read."""
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415  (optional, and slow to import)
    except ImportError:
        raise UsageError(f"data set {path.name}: Parquet needs pyarrow: {INSTALL} (or write .jsonl)") from None
    try:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if name in COLUMNS] or list(file.schema_arrow.names)
        sizes = _sizes(file, names)
    except Exception as error:  # pyarrow raises its own and Python's errors, by what is damaged
        raise broken(path, f"is no readable Parquet file: {reason(error)}") from None
    rows, total = file.metadata.num_rows, sum(sizes)
    if not rows:
        raise broken(path, "is empty: it must hold at least one row")
    groups = range(file.metadata.num_row_groups)
    whole = total <= budget.whole and rows <= budget.rows
    chosen = list(groups) if whole else Random(SEED).sample(groups, min(GROUPS, len(groups)))
    most = None if whole else max(BATCH, round(min(rows / max(total, 1) * budget.sample, budget.rows) / len(chosen)))
    starts = [sum(file.metadata.row_group(one).num_rows for one in range(group)) for group in chosen]
    return Source(
        format="parquet",
        size=rows,
        clusters=-(-rows // BATCH),
        whole=whole,
        random=not whole and len(groups) > 1,
        found=_clusters(path, file, names, list(zip(chosen, starts, strict=True)), most),
        planned=rows if most is None else min(rows, most * len(chosen)),
    )


def _sizes(file: Any, names: list[str]) -> list[int]:  # noqa: ANN401  (pyarrow has no types of ours)
    """Unpacked bytes of the columns in question, by row group; their share is that in the first one."""
    metadata = file.metadata
    totals = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
    share = 1.0 if not totals or set(names) == set(file.schema_arrow.names) else _share(file, names)
    return [round(total * share) for total in totals]


def _share(file: Any, names: list[str]) -> float:  # noqa: ANN401
    """How much of the first row group the columns take.

    Reading comes first: it refuses damaged statistics, of which asking for a column's metadata ends the process
    (pyarrow 26).
    """
    next(file.iter_batches(batch_size=1, row_groups=[0]), None)
    group = file.metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    sizes: list[tuple[bool, int]] = [
        (one.path_in_schema.split(".")[0] in names, one.total_uncompressed_size) for one in columns
    ]
    return sum(size for named, size in sizes if named) / max(sum(size for _, size in sizes), 1)


def _clusters(
    path: Path,
    file: Any,  # noqa: ANN401
    names: list[str],
    groups: list[tuple[int, int]],
    most: int | None,
) -> Iterator[Cluster]:
    for group, start in groups:
        at = start
        try:
            for batch in file.iter_batches(batch_size=BATCH, row_groups=[group], columns=names):
                rows = batch.to_pylist()
                yield Cluster(len(rows), [Raw(f"row {at + index:,}", row) for index, row in enumerate(rows, 1)])
                at += len(rows)
                if most is not None and at - start >= most:
                    break
        except GeneratorExit:
            raise
        except Exception as error:  # as above
            raise broken(path, f"row group {group} cannot be read: {reason(error)}") from None

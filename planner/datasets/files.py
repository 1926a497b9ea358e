"""A file as bytes that can be read anywhere: ordinary, compressed, in another encoding; and what format it has."""

import bz2
import codecs
import gzip
import io
import lzma
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, cast

from planner.datasets.rows import WHOLE_BYTES, broken, reason
from planner.spec.dataset import Format

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".jsonlines": "jsonl",
        ".json": "json",
        ".parquet": "parquet",
        ".pq": "parquet",
        ".csv": "csv",
        ".tsv": "tsv",
        ".txt": "text",
        ".text": "text",
        ".md": "text",
    }
)
UNPACKERS: Mapping[str, Callable[[BinaryIO], object]] = MappingProxyType(
    {".gz": lambda stream: gzip.GzipFile(fileobj=stream), ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
)
PACKED_ELSEWHERE = MappingProxyType(
    {".zst": "unzstd", ".zip": "unzip", ".7z": "7z x", ".tar": "tar -xf", ".tgz": "tar -xzf", ".rar": "unrar x"}
)
"""Archives that Python's library cannot read everywhere, or that hold several files."""
ELSEWHERE = MappingProxyType(
    {
        ".arrow": "write it as Parquet first: datasets.Dataset.from_file(...).to_parquet(...)",
        ".feather": "write it as Parquet first: pandas.read_feather(...).to_parquet(...)",
        ".xlsx": "save it as CSV first",
        ".xls": "save it as CSV first",
        ".sqlite": "export the table as CSV first",
        ".db": "export the table as CSV first",
        ".pkl": "write it as JSON Lines or Parquet first",
    }
)
"""Formats that hold rows and that others read."""
ENCODINGS = (
    (codecs.BOM_UTF8, ""),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, the longer of those that begin alike first."""
PARQUET_MAGIC = b"PAR1"
GZIP_MAGIC = b"\x1f\x8b"
SHOWN_FILES = 3
HEAD = 2**16
"""Bytes by which a format is told."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Bytes from ``start`` (behind a byte order mark) to ``available``; ``size`` is what the whole file has of them."""

    path: Path
    format: Format
    stream: BinaryIO
    start: int
    available: int
    size: int

    @property
    def whole(self) -> bool:
        """Whether all of the file is at hand."""
        return self.available >= self.size


def checked(path: Path) -> Path:
    """A path that names an ordinary file with something in it."""
    if "\0" in str(path):
        raise broken(path, "not a usable path")
    try:
        path = path.expanduser()
        if path.is_dir():
            raise broken(path, f"is a folder: name one file{_listed(path)}")
        if not path.exists():
            raise broken(path, f"no such file{_near(path)}")
        if not path.is_file():
            raise broken(path, "not an ordinary file")
        if not path.stat().st_size:
            raise broken(path, "is empty: it must hold at least one row")
    except (OSError, RuntimeError, UnicodeError) as error:
        raise broken(path, getattr(error, "strerror", None) or "not a usable path") from None
    return path


def _listed(folder: Path) -> str:
    names = sorted(one.name for one in folder.iterdir() if _suffixes(one)[0] in FORMATS)
    return f" of it, such as {', '.join(names[:SHOWN_FILES])}" if names else " of rows"


def _near(path: Path) -> str:
    try:
        names = [one.name for one in path.parent.iterdir() if one.is_file()]
    except OSError:
        names = []
    near = get_close_matches(path.name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {path.parent / near[0]}?"
    return "; download data of the Hub first: hf download NAME --repo-type dataset" if len(path.parts) > 1 else ""


def _suffixes(path: Path) -> tuple[str, str]:
    """What the name says of the format and of the compression."""
    last = path.suffix.lower()
    if last in UNPACKERS:
        return Path(path.stem).suffix.lower(), last
    return last, ""


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """The file ready for a reader of lines or documents; Parquet is opened by its own library."""
    path = checked(path)
    suffix, packed = _suffixes(path)
    if suffix in PACKED_ELSEWHERE:
        tool = f"{PACKED_ELSEWHERE[suffix]} {path.name}"
        raise broken(path, f"is packed: unpack it first ({tool}); .gz, .bz2 and .xz are read as they are")
    if suffix in ELSEWHERE:
        raise broken(path, f"{suffix} is no format that we read: {ELSEWHERE[suffix]}")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise broken(path, error.strerror or "cannot be read") from None
    with stream:
        try:
            made = _ready(path, stream, suffix, packed)
        except OSError as error:
            raise broken(path, error.strerror or "cannot be read") from None
        yield made


def _ready(path: Path, stream: BinaryIO, suffix: str, packed: str) -> Opened:
    head = stream.read(4)
    stream.seek(0)
    if packed or head.startswith(GZIP_MAGIC):
        return _unpacked(path, stream, packed or ".gz", suffix)
    size = os.fstat(stream.fileno()).st_size
    if head == PARQUET_MAGIC:
        return Opened(path, "parquet", stream, 0, size, size)
    return _decoded(path, stream, size, size, suffix)


def _unpacked(path: Path, stream: BinaryIO, packed: str, suffix: str) -> Opened:
    """The head of a compressed file in memory; where that is not all, its size is judged by how far it reached."""
    try:
        data = cast("BinaryIO", UNPACKERS[packed](stream)).read(WHOLE_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise broken(path, f"is no readable {packed} file: {reason(error)}") from None
    if not data:
        raise broken(path, "is empty: it must hold at least one row")
    size = len(data)
    if len(data) > WHOLE_BYTES:
        share = stream.tell() / os.fstat(stream.fileno()).st_size
        data = data[: data.rfind(b"\n") + 1] or data
        size = max(round(len(data) / share), len(data) + 1)
    return _decoded(path, io.BytesIO(data), len(data), size, suffix)


def _decoded(path: Path, stream: BinaryIO, available: int, size: int, suffix: str) -> Opened:
    """Text behind its byte order mark; UTF-16 and UTF-32 become UTF-8 in memory."""
    head = stream.read(4)
    mark, encoding = next(((mark, name) for mark, name in ENCODINGS if head.startswith(mark)), (b"", ""))
    stream.seek(0)
    if encoding:
        if size > WHOLE_BYTES:
            raise broken(path, f"is {encoding.upper()} and large: convert it first: iconv -f {encoding} -t utf-8")
        data = stream.read().decode(encoding, errors="replace").encode("utf-8", errors="replace")
        stream, available, size, mark = io.BytesIO(data), len(data), len(data), b""
    return Opened(path, _format(path, stream, len(mark), suffix), stream, len(mark), available, size)


def _format(path: Path, stream: BinaryIO, start: int, suffix: str) -> Format:
    """By the name where it says one; else, and among JSON files, by the first character."""
    named = FORMATS.get(suffix)
    stream.seek(start)
    first = stream.read(HEAD)
    head = first.lstrip()
    if named != "json" and b"\r" in first and b"\n" not in first and len(first) < HEAD:
        raise broken(path, "ends its lines as old Macintoshes did: convert it first: tr '\\r' '\\n'")
    if named is not None and named not in ("json", "jsonl", "parquet"):
        return named
    if named == "parquet":
        raise broken(path, "is no Parquet file: it does not begin with PAR1")
    if not head:
        raise broken(path, "is blank: it must hold at least one row")
    if named is None and b"\0" in head:
        raise broken(path, f"is neither text nor Parquet: name a file of {', '.join(FORMATS)}")
    if head.startswith(b"["):
        return "json" if named != "jsonl" or not _is_line(head) else "jsonl"
    if head.startswith(b"{"):
        return "jsonl" if named == "jsonl" or _is_object_line(head) else "json"
    return "jsonl" if named else "text"


def _is_line(head: bytes) -> bool:
    """Whether a bracket opens and closes on one line, so that rows are lists."""
    return head.partition(b"\n")[0].rstrip().endswith(b"]") and b"\n" in head.strip()


def _is_object_line(head: bytes) -> bool:
    """Whether the first line is a whole object, or too long to tell; else one object spans the file."""
    line, ended, _ = head.partition(b"\n")
    return line.rstrip().endswith(b"}") if ended else len(head) >= 2**15

"""Reading a ``config.json`` that may be anything at all."""

import json

from planner.errors import BrokenInput

DOCUMENT_LIMIT = 16 * 2**20
"""Bytes of the largest config that we read; those of the models in the catalogue stay below 100 KB."""


def parse_config(data: bytes, where: str) -> dict[str, object]:
    """The object in ``data``; anything but one JSON object with distinct keys is refused in one line."""
    if len(data) > DOCUMENT_LIMIT:
        raise BrokenInput(f"{where}: larger than {DOCUMENT_LIMIT // 2**20} MiB, so it is no config.json")
    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=distinct)
    except UnicodeDecodeError as error:
        raise BrokenInput(f"{where}: not text in UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise BrokenInput(f"{where}: nested too deeply") from None
    except ValueError as error:
        problem = str(error).splitlines()[0][:120]
        raise BrokenInput(f"{where}: not valid JSON: {problem}") from None
    if not isinstance(document, dict):
        raise BrokenInput(f"{where}: holds a {type(document).__name__} where an object is expected")
    return document


def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object without repeated keys, of which readers would disagree on the value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated[:40]!r} stands twice")
    return found

"""Files of training data for tests."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

CHAT = {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]}
PAIR = {"prompt": "Name a colour.", "completion": "Blue."}
COMPARED = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "A table, I should think."}
TEXT = {"text": "Blue is a colour."}
ASKED = {"prompt": "Name a colour."}


def jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path

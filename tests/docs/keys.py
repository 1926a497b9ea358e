"""Adds the keys that schema 1 has gained to ``keys_of_schema_1.json``: ``python -m tests.docs.keys``."""

import contextlib
import io
import json
from collections.abc import Mapping

from tests.docs.published import FILES, Keys, described, printed
from tests.docs.test_schemas import CALLS, KEPT, asked


def _printed(name: str) -> Keys:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        asked(name)
    text = output.getvalue()
    return printed(json.loads(text.splitlines()[0] if name.startswith("sweep") else text))


def _merged(before: Mapping[str, str], now: Keys) -> dict[str, str]:
    objects = sorted({*before, *now})
    return {one: " ".join(sorted({*before.get(one, "").split(), *now.get(one, ())})) for one in objects}


if __name__ == "__main__":
    found = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    now = {name: _printed(name) for name in CALLS} | {f"{name} (schema)": described(name) for name in FILES}
    merged = {name: _merged(found.get(name, {}), now.get(name, {})) for name in sorted({*found, *now})}
    KEPT.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")

"""Private names of torch stand in one file, so that an upgrade breaks one file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "planner"
ALLOWED = PACKAGE / "trace" / "private.py"
FILES = sorted(path for part in ("build", "trace", "measure") for path in (PACKAGE / part).rglob("*.py"))

OPERATORS = "torch.ops."
"""Below it stand operators: a leading underscore there is part of a schema that a version keeps."""

OF_MODULES = ("_parameters", "_buffers", "_modules", "_apply", "_C")
"""Private attributes of ``torch.nn.Module``, and torch's own binding, whatever name they are read from."""


def is_private(name: str) -> bool:
    """Whether a dotted name is torch's and private: an underscore, or torch's own tests."""
    parts = name.split(".")
    hidden = any(part.startswith("_") and not part.endswith("__") for part in parts) or "_internal" in parts
    return parts[0] == "torch" and hidden and not name.startswith(OPERATORS)


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Each name that an import binds, and what of torch it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname or alias.name.split(".")[0], alias.name if alias.asname else alias.name.split(".")[0])
    elif isinstance(node, ast.ImportFrom):
        yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr, bound: dict[str, str]) -> str:
    """``a.b.c`` with its first name replaced by what it was imported as; empty for other expressions."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, bound)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def second(call: ast.Call) -> object:
    """The second argument of a call where it is a constant."""
    found = call.args[1] if len(call.args) > 1 else None
    return found.value if isinstance(found, ast.Constant) else None


def private_names(source: str) -> list[str]:
    """Every private name of torch that a file imports, reads, or reaches by ``getattr`` or ``patch.object``."""
    nodes = list(ast.walk(ast.parse(source)))
    bound = {name: meaning for node in nodes for name, meaning in imported(node)}
    found = [meaning for node in nodes for _, meaning in imported(node)]
    found += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id == "self"
            of_module = node.attr in OF_MODULES and not own
            found.append(f"torch.nn.Module.{node.attr}" if of_module else dotted(node, bound))
        elif isinstance(node, ast.Call) and isinstance(second(node), str):
            found.append(f"{dotted(node.args[0], bound)}.{second(node)}")
    return sorted({name for name in found if is_private(name)})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_torch_stand_in_one_file(path: Path) -> None:
    found = private_names(path.read_text(encoding="utf-8"))

    assert found == [] or path == ALLOWED


def test_there_are_private_names_to_find() -> None:
    assert len(private_names(ALLOWED.read_text(encoding="utf-8"))) > 10


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._C._get_tracing_state()",
        "from torch._subclasses.fake_tensor import FakeTensor",
        "from torch.utils._pytree import tree_map",
        "from torch.utils import _pytree",
        "import torch.utils._pytree",
        "import torch.utils._pytree as trees",
        "from torch.testing._internal.distributed import fake_pg",
        "from torch import nn\nnn.Module._apply = None",
        "def f(module): return module._parameters",
        "import torch\ngetattr(torch, '_foreach_add')",
        "from unittest.mock import patch\nfrom torch.optim import optimizer\npatch.object(optimizer, '_use_grad')",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert private_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.ops.aten._grouped_mm.default",
        "import torch\naten = torch.ops.aten\naten._grouped_mm.default",
        "import torch\ntorch.Tensor.__deepcopy__",
        "from transformers.utils import _hidden",
        "def f(pair): return pair._replace(a=1)",
        "def f(self): return self._apply(1)",
    ],
)
def test_nothing_else_is_found(source: str) -> None:
    assert private_names(source) == []

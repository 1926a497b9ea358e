"""Liger's kernels as on CUDA: its own Python code runs and allocates, its Triton kernels do nothing.

Inside ``liger_on_cuda`` the package ``liger_kernel`` is read from its installed sources. Triton is a stand-in whose
kernels are launched without effect, and files under ``liger_kernel.ops`` hear about the device what they would on the
card: ``x.device.type`` is ``"cuda"``, and ``torch.cuda`` tells its capability and its multiprocessors. Outside, the
process is as before: neither the stand-in nor what was loaded with it can be imported, and what Liger wrote into
modules of transformers and torch is taken back.

liger-kernel 0.7 and 0.8, ops/*.py and transformers/monkey_patch.py; older ones do not go with transformers 5.
"""

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from planner.trace.cuda.card import Card

LIGER, OPS, INTEGRATION = "liger_kernel", "liger_kernel.ops", "transformers.integrations.liger"


@contextmanager
def liger_on_cuda(card: Card) -> Iterator[None]:
    """Liger can be applied to models that are built in here; nothing happens where none is installed."""
    if not find_spec(LIGER) or not find_spec(INTEGRATION):
        yield
        return
    _ask_first()
    outside = _take_out()
    sys.modules.update(_INSIDE or _stand_in())
    integration = import_module(INTEGRATION)
    finder, changes = _Finder(), _Changes(integration.apply_liger_kernel)
    sys.meta_path.insert(0, finder)
    try:
        with patch.object(integration, "apply_liger_kernel", changes), patch.object(_Cuda, "card", card):
            yield
    finally:
        changes.take_back()
        sys.meta_path.remove(finder)
        _INSIDE.update(_take_out())
        sys.modules.update(outside)


_INSIDE: dict[str, ModuleType] = {}
"""Liger, and Triton's stand-in, as they were loaded in here: kept for the next time."""


def _take_out() -> dict[str, ModuleType]:
    """Make Liger and Triton forgotten as imported modules, and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] in (LIGER, "triton")]
    return {name: sys.modules.pop(name) for name in names}


def _ask_first() -> None:
    """Whoever remembers whether Triton is there asks before the stand-in is."""
    import_module("torch.utils._triton").has_triton_package()
    import_module("transformers.utils.import_utils").is_triton_available()
    for library in ("bitsandbytes", "trl"):
        if find_spec(library):
            import_module(library)


# ---------------------------------------------------------------- Triton


class _Kernel:
    """A Triton kernel that is launched, ``kernel[grid](...)``, and does nothing."""

    def __getitem__(self, _grid: Any) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


class _Name:
    """Anything of Triton's language: a type, a function, a constant. Only its ``value`` is ever looked at."""

    def __init__(self, value: Any = None, **_rest: Any) -> None:
        self.value = value


def _decorate(*args: Any, **_options: Any) -> Any:
    """``@triton.jit`` and its kin, with options or without."""
    return _Kernel() if args and (callable(args[0]) or isinstance(args[0], _Kernel)) else _decorate


class _Language(ModuleType):
    """A module in which every name exists."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name


def _stand_in() -> dict[str, ModuleType]:
    """Triton's modules by name, as far as Liger's files import them."""
    names = ("", ".language", ".language.math", ".language.extra", ".language.extra.libdevice")
    found: dict[str, ModuleType] = {f"triton{name}": _Language(f"triton{name}") for name in names}
    for name, module in found.items():
        module.__spec__, module.__path__ = ModuleSpec(name, None, is_package=True), []
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(found[parent], last, module)
    triton: Any = found["triton"]
    triton.__version__ = "3.0.0"
    triton.jit = triton.autotune = triton.heuristics = _decorate
    triton.cdiv = lambda count, size: -(-count // size)
    triton.next_power_of_2 = lambda count: 1 << (count - 1).bit_length()
    return found


# ---------------------------------------------------------------- the device


class _Cuda:
    """``torch.cuda`` as Liger's files ask it."""

    card = Card()

    def get_device_capability(self, _device: Any = None) -> tuple[int, int]:
        return self.card.capability

    def get_device_properties(self, _device: Any = None) -> Any:
        return SimpleNamespace(multi_processor_count=self.card.multiprocessors)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)


class _OnCuda(ast.NodeTransformer):
    """``x.device.type`` becomes ``"cuda"``, ``torch.cuda`` becomes ``_Cuda``, autocast's dtype that of the CPU's."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr == "type" and isinstance(node.value, ast.Attribute) and node.value.attr == "device":
            return ast.copy_location(ast.Constant("cuda"), node)
        if node.attr == "cuda" and isinstance(node.value, ast.Name) and node.value.id == "torch":
            return ast.copy_location(ast.Name("_planner_cuda", ast.Load()), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get_autocast_dtype":
            node.args = [ast.Constant("cpu")]
            ast.fix_missing_locations(node)
        return node


class _Loader(SourceFileLoader):
    """A file of Liger's operators, from its source and not from what was compiled of it before."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = _OnCuda().visit(ast.parse(self.get_data(path), path))
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["_planner_cuda"] = _Cuda()
        super().exec_module(module)


class _Finder:
    """Finds Liger's operators first."""

    def find_spec(self, name: str, path: Sequence[str] | None, _target: Any = None) -> ModuleSpec | None:
        if name != OPS and not name.startswith(f"{OPS}."):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


# ---------------------------------------------------------------- what Liger writes elsewhere


class _Changes:
    """``apply_liger_kernel``, and the way back: models come and go, modules and classes stay."""

    def __init__(self, apply: Callable[[Any, Any], None]) -> None:
        self._apply = apply
        self._before: list[tuple[Any, dict[str, Any]]] = []

    def __call__(self, model: Any, config: Any) -> None:
        self._before.extend((place, dict(vars(place))) for place in _written())
        self._apply(model, config)

    def take_back(self) -> None:
        """Every name that was assigned gets its old value."""
        for place, names in reversed(self._before):
            for name, value in vars(place).copy().items():
                if name in names and names[name] is not value:
                    setattr(place, name, names[name])


def _written() -> Iterator[Any]:
    """Where ``apply_liger_kernel_to_...`` assigns: modelling files, their classes, and the functions of torch."""
    yield torch.nn.functional
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and ".modeling_" in name:
            yield module
            yield from (
                kind
                for kind in vars(module).values()
                if getattr(kind, "__module__", None) == name and isinstance(kind, type)
            )

"""Every public formula says, in this order, its shapes, its formula, its source, when it holds and what it excludes."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "planner" / "formulas"
MODULES = ("counts", "states", "loss", "overhead", "sharding")
HEADINGS = (("Shapes", "Saved"), ("Formula",), ("Source",), ("Valid",), ("Excludes",))
RESULTS = ("int", "LossBytes", "OptimizerBytes", "Divided")
"""Return types of formulas; other functions are helpers."""

HELPERS = ("shard", "next_power_of_2")
"""Arithmetic without a source of its own."""

SOURCE = re.compile(
    r"arXiv:\d{4}\.\d{5}|https?://|\b[\w/.-]+\.(py|cpp|h|yaml|csv)\b|\b(torch|transformers|peft|trl|bitsandbytes|DeepSpeed|accelerate)\b",
    re.IGNORECASE,
)


class Formula(NamedTuple):
    """A function and where it stands."""

    module: str
    node: ast.FunctionDef

    def __str__(self) -> str:
        return f"{self.module}.{self.node.name}"

    @property
    def doc(self) -> str:
        """Its docstring."""
        return ast.get_docstring(self.node) or ""


def formulas() -> list[Formula]:
    """Public functions of the formula modules that return a number of bytes or parameters."""
    found = []
    for module in MODULES:
        tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.name in HELPERS:
                continue
            if node.returns is not None and ast.unparse(node.returns) in RESULTS:
                found.append(Formula(module, node))
    return found


FORMULAS = formulas()


def section(doc: str, names: tuple[str, ...]) -> str | None:
    """The text of one heading."""
    every = "|".join(name for group in HEADINGS for name in group)
    match = re.search(rf"^(?:{'|'.join(names)}):\s+(.+?)(?=^(?:{every}):|^\s*>>>|^\s*$|\Z)", doc, re.M | re.S)
    return match[1].strip() if match else None


def test_the_formulas_are_found() -> None:
    names = {formula.node.name for formula in FORMULAS}

    assert {"nf4_bytes", "trl_fused", "cublas_workspace", "fsdp_gathered", "attention_params"} <= names
    assert len(FORMULAS) >= 18


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
def test_the_five_headings_stand_in_order(formula: Formula) -> None:
    places = [formula.doc.find(f"\n{name}:") for group in HEADINGS for name in group if f"\n{name}:" in formula.doc]

    for group in HEADINGS:
        assert section(formula.doc, group), f"{formula} lacks {' or '.join(group)}"
    assert places == sorted(places), f"{formula}: headings out of order"


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
def test_the_first_line_says_what_it_is(formula: Formula) -> None:
    first = formula.doc.splitlines()[0]

    assert len(first) > 20
    assert first.endswith((".", ":")), first


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
def test_the_source_can_be_looked_up(formula: Formula) -> None:
    source = section(formula.doc, ("Source",))

    assert source is not None
    assert SOURCE.search(source), source


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
def test_there_is_an_example(formula: Formula) -> None:
    assert ">>>" in formula.doc


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
def test_a_formula_takes_no_configuration_object(formula: Formula) -> None:
    # a formula that takes a config cannot be tested by a table
    taken = {
        ast.unparse(arg.annotation) for arg in formula.node.args.args + formula.node.args.kwonlyargs if arg.annotation
    }

    assert taken.isdisjoint({"ModelSpec", "TrainSpec", "Scenario", "Behaviour", "Gpu", "Block"})


def test_every_module_constant_is_explained() -> None:
    # NAME = value, then a string: the name, the unit, the source
    for module in MODULES:
        body = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8")).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(target, ast.Name):
                continue
            if target.id.isupper() and not target.id.startswith("_"):
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert explained, f"{module}.{target.id} has no explanation"

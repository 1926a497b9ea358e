"""Changes of a question: every single one, and some at once, each with the scenario that comes of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.errors import PlannerError
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.request import Ask
from planner.spec import Method, Scenario
from planner.why.table import CHANGES, LARGER, OLDER, OLDER_LIBRARIES, STACK_SETTINGS, STACKS, UPCAST, Change


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change, or two at once, with the question and the scenario that plan it."""

    changes: tuple[Change, ...]
    ask: Ask
    scenario: Scenario
    solved: bool = False
    """Its number was chosen to meet what was observed, which by itself is no evidence."""

    @property
    def words(self) -> str:
        """All that is changed."""
        return "; and ".join(change.words for change in self.changes)

    @property
    def usual(self) -> int:
        """How rare it is, in all."""
        return sum(change.usual for change in self.changes)


def variants(ask: Ask, scenario: Scenario) -> Iterator[Variant]:
    """Every single change that this model, card and stack can take and that a scenario comes of."""
    method = scenario.train.method
    for change in (*CHANGES, *_preparations(scenario), *_trainers(ask, scenario), *_doubled(scenario)):
        if change.holds(scenario.train):
            found = variant(ask, method, (change,))
            if found is not None and found.scenario != scenario:
                yield found


def variant(ask: Ask, method: Method, changes: tuple[Change, ...], *, solved: bool = False) -> Variant | None:
    """These changes at once; ``None`` where no scenario comes of them."""
    changed = ask
    for change in changes:
        changed = change.on(changed, changed.request.methods[0] if changed is not ask else method)
    try:
        return Variant(changes=changes, ask=changed, scenario=scenario_of(changed, changed.methods[0]), solved=solved)
    except PlannerError:
        return None


def _preparations(scenario: Scenario) -> Iterator[Change]:
    """A 4-bit base prepared by PEFT, with everything else as it was."""
    train = scenario.train
    if train.quantized and scenario.stack.kbit_upcast != "all":
        yield replace(UPCAST, settings={name: getattr(train, name) for name in STACK_SETTINGS})


def _trainers(ask: Ask, scenario: Scenario) -> Iterator[Change]:
    name = ask.request.stack.partition(",")[0]
    for change in STACKS:
        if change.stack != name:
            yield change
    if "transformers" not in ask.request.stack:
        yield replace(OLDER_LIBRARIES, stack=f"{ask.request.stack},{OLDER}")


def _doubled(scenario: Scenario) -> Iterator[Change]:
    """Twice to eight times the batch and the rank, half of them where there is a half."""
    for name, code, words in LARGER:
        planned = getattr(scenario.train, name)
        if name == "lora_rank" and (not scenario.train.uses_adapters or scenario.train.peft_config):
            continue
        for count in (planned * 2, planned * 4, planned * 8, planned // 2):
            if count:
                yield Change(code=code, words=f"{words.format(count)}, not {planned}", usual=3, settings={name: count})

"""``plan explain TOPIC``: a rule, the stack, a job's memory, interval, time or recipe."""

from dataclasses import replace

from planner.cli.options import Values
from planner.cli.output import check_format, write, write_lines
from planner.cli.request import build_request, refuse_traced
from planner.cli.show import show
from planner.errors import EXIT_FITS, UnknownName, UsageError
from planner.planning import as_installed
from planner.recommend.rules import RULES, Rule, documentation, find
from planner.render.explained import items_document, items_sheet, rule_parts, stack_document, stack_sheet
from planner.render.machine import times_document, to_json
from planner.render.markdown import page_markdown
from planner.render.terminal import page_lines
from planner.result import Plan
from planner.stacks import describe_stack, describe_unset

TOPICS = ("memory", "interval", "time", "recipe", "stack")


def main(values: Values) -> int:
    """Explain the topic in the format that was asked for."""
    format_name = check_format(values["format"])
    topic = (values["topic"] or "").strip()
    if not topic:
        raise UsageError(
            f"explain what? {', '.join(TOPICS)}, or a code of `plan rules`; for instance: plan explain FIT001"
        )
    if topic.lower() == "memory":
        _memory(values, format_name)
    elif topic.lower() == "interval":
        _interval(values, format_name)
    elif topic.lower() == "time":
        _time(values, format_name)
    elif topic.lower() == "recipe":
        _recipe(values, format_name)
    elif topic.lower() == "stack":
        stack = values["stack"] or "trl"
        rules, unset = describe_stack(stack), describe_unset(stack)
        show(
            format_name,
            lambda: [stack_sheet(f"Stack {stack}", rules), stack_sheet("Where its configuration is silent", unset)],
            lambda: stack_document(stack, rules, unset),
        )
    else:
        _rule(_find(topic), format_name)
    return EXIT_FITS


def _memory(values: Values, format_name: str) -> None:
    from planner.closed_form.estimator import fullest_rank  # noqa: PLC0415  (a rule's page needs no estimator)
    from planner.closed_form.explain import itemised  # noqa: PLC0415
    from planner.estimators import estimate  # noqa: PLC0415
    from planner.recommend.candidates import candidates  # noqa: PLC0415
    from planner.recommend.names import understand  # noqa: PLC0415

    command = "plan explain memory"
    ask, _ = understand(refuse_traced(build_request(values, command=command), command=command))
    able, missing = candidates(ask, estimate)
    left_out = tuple(f"{method} is left out: {why}" for method, why in missing.items())
    found = [(one, *itemised(fullest_rank(one.scenario))) for one in able]
    show(
        format_name,
        lambda: [items_sheet(*parts, notes=left_out if parts is found[-1] else ()) for parts in found],
        lambda: {"schema": 1, "methods": [items_document(*parts) for parts in found], "notes": list(left_out)},
    )


def _interval(values: Values, format_name: str) -> None:
    from planner.estimators import measured_here, uncalibrated  # noqa: PLC0415  (a rule's page needs no estimator)
    from planner.recommend.candidates import candidates  # noqa: PLC0415
    from planner.recommend.names import understand  # noqa: PLC0415
    from planner.render.interval import IntervalView, interval_document, interval_sheet  # noqa: PLC0415

    request = build_request(values, command="plan explain interval")
    ask, _ = understand(as_installed(request))
    able, missing = candidates(ask, uncalibrated(request.evidence))
    left_out = tuple(f"{method} is left out: {why}" for method, why in missing.items())
    calibration = measured_here().calibration
    views = [
        IntervalView(
            scenario=one.scenario,
            bare=one.estimate,
            errors=calibration.errors(one.estimate, one.scenario),
            beyond=calibration.beyond(one.estimate, one.scenario),
            calibrated=calibration.calibrated(one.estimate, one.scenario),
        )
        for one in able
    ]
    show(
        format_name,
        lambda: [interval_sheet(view, notes=left_out if view is views[-1] else ()) for view in views],
        lambda: {"schema": 1, "methods": [interval_document(view) for view in views], "notes": list(left_out)},
    )


def _planned(values: Values, topic: str) -> Plan:
    from planner.cli.plan import request_from  # noqa: PLC0415  (a rule's page needs no plan)
    from planner.planning import plan  # noqa: PLC0415

    command = f"plan explain {topic}"
    return plan(refuse_traced(request_from(values, command=command), command=command))


def _time(values: Values, format_name: str) -> None:
    from planner.render.time_text import parts_sheet  # noqa: PLC0415

    answer = _planned(values, "time")
    show(format_name, lambda: [parts_sheet(answer)], lambda: times_document(answer))


def _recipe(values: Values, format_name: str) -> None:
    """The recipe of what is recommended, else of each method that was asked for."""
    from planner.recommend.recipe import recipe  # noqa: PLC0415
    from planner.render.recipe import document, sheet  # noqa: PLC0415

    answer = _planned(values, "recipe")
    index = answer.recommendation.candidate
    chosen = answer.candidates if index is None else (answer.candidates[index],)
    found = {one.method: recipe(one.scenario, answer.job) for one in chosen}
    show(
        format_name,
        lambda: [replace(sheet(one), title=f"{sheet(one).title}: {method}") for method, one in found.items()],
        lambda: {"schema": 1, "methods": {method: document(one) for method, one in found.items()}},
    )


def _find(topic: str) -> Rule:
    try:
        return find(topic)
    except UnknownName:
        known = [*TOPICS, *(name for rule in RULES for name in (rule.code.lower(), rule.slug))]
        raise UnknownName("topic", topic, known, listing="plan rules") from None


def _rule(rule: Rule, format_name: str) -> None:
    text = documentation(rule)
    if format_name == "json":
        write(to_json({"schema": 1, "code": rule.code, "name": rule.slug, "text": text}))
        return
    sentence, parts = rule_parts(text)
    if format_name == "markdown":
        write(page_markdown(sentence, parts))
    else:
        write_lines(lambda screen: page_lines(sentence, parts, screen))

"""Rules of Argo Workflows for a single template, task or step, which its schema does not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.kubernetes.schemas import join
from tests.kubernetes.variables import RETRY_VARIABLES, Scope, expression_variables

TASK_RESULTS = {"Succeeded", "Failed", "Errored", "Skipped", "Omitted", "Daemoned", "AnySucceeded", "AllFailed"}
NAME_IN_DEPENDS = re.compile(r"([a-zA-Z0-9][-a-zA-Z0-9]*)(?:\.([A-Za-z]+))?")
GO_DURATION = re.compile(r"(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+")
DISPLAY_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-.]{0,61}[a-zA-Z0-9]")
DISPLAY_NAME_KEY = "workflows.argoproj.io/display-name"

Object = dict[str, Any]


def objects(holder: Any, *fields: str) -> list[Object]:
    """The objects of a list some levels down; whatever has another shape is the schema's business."""
    for field in fields:
        holder = holder.get(field) if isinstance(holder, dict) else None
    return [item for item in holder if isinstance(item, dict)] if isinstance(holder, list) else []


def duplicates(named: list[Object], path: str) -> Iterator[str]:
    seen: set[str] = set()
    for position, item in enumerate(named):
        name = item.get("name")
        if name in seen:
            yield f"{join(path, position, 'name')}: {name!r} stands twice"
        seen.add(name) if isinstance(name, str) else None


def dependencies(task: Object, names: set[str], listed: list[Object], path: str) -> tuple[set[str], list[str]]:
    """The tasks that a task waits for, and what is wrong with how it says so."""
    problems = []
    waits: set[str] = set()
    fan_outs = {other.get("name") for other in listed if {"withItems", "withParam", "withSequence"} & set(other)}
    text = task.get("depends")
    for name in task.get("dependencies") or []:
        waits.add(name)
        if name not in names:
            problems.append(f"{join(path, 'dependencies')}: no task {name!r}")
    if isinstance(text, str):
        where = join(path, "depends")
        for name, result in NAME_IN_DEPENDS.findall(text):
            waits.add(name)
            if name not in names:
                problems.append(f"{where}: no task {name!r}")
            if result and result not in TASK_RESULTS:
                problems.append(
                    f"{where}: {name}.{result}: a task's result is one of {', '.join(sorted(TASK_RESULTS))}"
                )
            if result in {"AnySucceeded", "AllFailed"} and name not in fan_outs:
                problems.append(f"{where}: {name}.{result}: {name!r} is no fan-out")
        skeleton = re.sub(r"\s+", "", NAME_IN_DEPENDS.sub("x", text))
        while (reduced := re.sub(r"!x|x(&&|\|\|)x|\(x\)", "x", skeleton)) != skeleton:
            skeleton = reduced
        if skeleton != "x":
            problems.append(f"{where}: {text!r} is no expression of task results, '&&', '||', '!' and parentheses")
    if waits and re.match(r"\d", str(task.get("name", ""))):
        problems.append(f"{join(path, 'name')}: must not begin with a digit, since the task waits for others")
    return waits & names, problems


def ancestors(name: str, waits: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(waits.get(name, ()))
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += waits.get(other, ())
    return found


def argument_problems(call: Object, template: Object, path: str) -> Iterator[str]:
    """Arguments that the template does not take, and inputs that get no value."""
    for sort in ("parameters", "artifacts"):
        inputs = {item.get("name"): item for item in objects(template, "inputs", sort)}
        given = {item.get("name") for item in objects(call, "arguments", sort)}
        for position, argument in enumerate(objects(call, "arguments", sort)):
            if argument.get("name") not in inputs:
                where = join(path, "arguments", sort, position, "name")
                yield f"{where}: template {template.get('name')!r} has no input {argument.get('name')!r}"
        for name, item in inputs.items():
            if sort == "parameters":
                has_own = any(key in item for key in ("value", "valueFrom", "default"))
            else:
                has_own = bool(item.get("optional")) or bool(
                    set(item) - {"name", "path", "mode", "archive", "optional"}
                )
            if name not in given and not has_own:
                yield f"{join(path, 'arguments', sort)}: template {template.get('name')!r} needs {name!r}"


def retry_problems(strategy: Any, path: str) -> Iterator[str]:
    if not isinstance(strategy, dict):
        return
    limit = strategy.get("limit")
    if isinstance(limit, str) and "{{" not in limit and not re.fullmatch(r"\d+", limit):
        yield f"{join(path, 'limit')}: {limit!r} is no whole number"
    backoff = strategy.get("backoff") or {}
    if backoff and not backoff.get("duration"):
        yield f"{join(path, 'backoff', 'duration')}: required"
    if backoff and limit is None:
        yield f"{join(path, 'limit')}: required, since Argo does not back off without it"
    for field in ("duration", "maxDuration", "cap"):
        text = backoff.get(field)
        if isinstance(text, str) and "{{" not in text and not re.fullmatch(rf"\d+|{GO_DURATION.pattern}", text):
            yield f"{join(path, 'backoff', field)}: {text!r} is no duration"
    yield from expression_problems(
        strategy.get("expression"), Scope(frozenset(RETRY_VARIABLES)), join(path, "expression")
    )


def expression_problems(expression: Any, scope: Scope, path: str) -> Iterator[str]:
    """As for tags, for a field that is an expression as a whole; tags in it are text that is pasted first."""
    if isinstance(expression, str):
        for name in expression_variables(re.sub(r"\{\{.*?\}\}", "0", expression)):
            if not scope.holds(name, in_expression=True):
                yield f"{path}: {name}: {scope.why_not(name)}"


def display_name_problems(template: Object, path: str) -> Iterator[str]:
    name = (template.get("annotations") or {}).get(DISPLAY_NAME_KEY)
    if isinstance(name, str) and not DISPLAY_NAME.fullmatch(re.sub(r"\{\{.*?\}\}", "aa", name)):
        where = join(path, "annotations", DISPLAY_NAME_KEY)
        yield f"{where}: {name!r}: Argo fails the node, save for 2 to 63 letters, digits, '-', '.'"

"""What a template itself says of its parameters, before CloudFormation says it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from infra.template import Template


def refusals(template: Template, given: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[str]:
    """What CloudFormation would say against parameters.

    Args:
        template: with their limits, and rules on several of them.
        given: parameters by name.
        variables: what a person calls them, by name.
    """
    values = {name: _parts(template.parameters[name], text) for name, text in given.items()}
    for name, parts in values.items():
        limits = template.parameters[name]
        for part in [parts] if isinstance(parts, str) else parts:
            allowed = _allowed(limits, part)
            if allowed:
                yield f"{variables[name]}={given[name]!r}: {allowed}"
    for rule in template.content.get("Rules", {}).values():
        if not _is_true(rule.get("RuleCondition", True), values):
            continue
        for assertion in rule["Assertions"]:
            if not _is_true(assertion["Assert"], values):
                named = dict.fromkeys(_references([rule.get("RuleCondition"), assertion["Assert"]]))
                shown = ", ".join(f"{variables[name]}={given[name]!r}" for name in named)
                words = re.sub(r"\w+", lambda found: variables.get(found[0], found[0]), assertion["AssertDescription"])
                yield f"{shown}: {words}"


def _parts(limits: Mapping[str, Any], text: str) -> str | list[str]:
    return text.split(",") if limits["Type"] == "CommaDelimitedList" else text


def _allowed(limits: Mapping[str, Any], value: str) -> str | None:
    """What is allowed instead of a value; None if it is."""
    known = [str(one) for one in limits.get("AllowedValues", [value])]
    if value not in known:
        return f"allowed are {', '.join(known)}"
    if not re.fullmatch(limits.get("AllowedPattern", ".*"), value, re.DOTALL):
        return str(limits.get("ConstraintDescription", f"allowed is what matches {limits['AllowedPattern']}"))
    if limits["Type"] == "Number":
        least, most = limits.get("MinValue", float("-inf")), limits.get("MaxValue", float("inf"))
        if not least <= float(value) <= most:
            return f"allowed is {least} to {most}"
    return None


def _is_true(node: Any, values: Mapping[str, str | list[str]]) -> bool:
    if isinstance(node, bool):
        return node
    ((name, arguments),) = node.items()
    if name in ("Fn::Not", "Fn::And", "Fn::Or"):
        parts = [_is_true(one, values) for one in arguments]
        return not parts[0] if name == "Fn::Not" else all(parts) if name == "Fn::And" else any(parts)
    first, second = (_value(one, values) for one in arguments)
    match name:
        case "Fn::Equals":
            return bool(first == second)
        case "Fn::Contains":
            return second in first
        case "Fn::EachMemberIn":
            return set(first) <= set(second)
    raise NotImplementedError(f"{name} of a rule is not known to {__name__}")


def _value(node: Any, values: Mapping[str, str | list[str]]) -> Any:
    if isinstance(node, dict):
        return values[node["Ref"]]
    return node if isinstance(node, list) else str(node)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict) and "Ref" in node:
        yield node["Ref"]
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _references(one)

"""The template tags in Argo's texts, `{{a.b}}` and `{{=expression}}`, and the variables that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.kubernetes.schemas import join

TAG = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
# Roots of the variables in an expression; all else there is a function, a literal or a local name.
ROOTS = ("inputs", "outputs", "tasks", "steps", "workflow", "item", "pod", "node", "retries", "lastRetry")
VARIABLE = re.compile(rf"(?<![\w.'\"])({'|'.join(ROOTS)})\b((?:\s*\??\.\s*\w+|\s*\[\s*(?:'[^']*'|\"[^\"]*\")\s*\])*)")
STRING = re.compile(r"\[\s*(?:'[^']*'|\"[^\"]*\")|'[^']*'|\"[^\"]*\"")
PART = re.compile(r"\.\s*(\w+)|'([^']*)'|\"([^\"]*)\"")

# Variables that every template has. Those that end in a dot have more names than are worth a list.
WORKFLOW_VARIABLES = {
    "node.name", "workflow.annotations.", "workflow.annotations.json", "workflow.creationTimestamp",
    "workflow.creationTimestamp.", "workflow.duration", "workflow.labels.", "workflow.labels.json",
    "workflow.mainEntrypoint", "workflow.name", "workflow.namespace", "workflow.parameters", "workflow.parameters.json",
    "workflow.scheduledTime", "workflow.serviceAccountName", "workflow.status", "workflow.uid",
}  # fmt: skip
RETRY_VARIABLES = {"retries", "lastRetry.exitCode", "lastRetry.status", "lastRetry.duration", "lastRetry.message"}
METRIC_VARIABLES = {"duration", "status", "exitCode", "resourcesDuration.", "outputs.result", "outputs.parameters."}


@dataclass(frozen=True)
class Scope:
    """The variables that a text may use, and why others of the same beginning may not be used."""

    names: frozenset[str]
    reasons: dict[str, str] = field(default_factory=dict)

    def plus(self, names: set[str], reasons: dict[str, str] | None = None) -> Scope:
        return replace(self, names=self.names | names, reasons={**self.reasons, **(reasons or {})})

    def holds(self, name: str, *, in_expression: bool) -> bool:
        if name in self.names or any(known.endswith(".") and name.startswith(known) for known in self.names):
            return True
        # An expression sees `inputs.parameters` and the like as a map.
        return in_expression and any(known.startswith(f"{name}.") for known in self.names)

    def why_not(self, name: str) -> str:
        for beginning, reason in self.reasons.items():
            if name == beginning or name.startswith(f"{beginning}."):
                return reason
        return "no such variable here"


def tags(text: str) -> Iterator[tuple[str, bool]]:
    """The variables that a text names, each with whether an expression names it."""
    for tag in TAG.findall(text):
        if tag.startswith("="):
            yield from ((name, True) for name in expression_variables(tag[1:]))
        else:
            yield tag.strip(), False


def expression_variables(expression: str) -> Iterator[str]:
    """`inputs.parameters['a-b']` is told as `inputs.parameters.a-b`; calls of a value's methods are left out."""
    for match in VARIABLE.finditer(without_strings(expression)):
        end = match.end()
        parts = [match[1], *(next(filter(None, found), "") for found in PART.findall(match[2]))]
        if expression[end:].lstrip().startswith("("):
            parts.pop()
        yield ".".join(parts)


def without_strings(expression: str) -> str:
    """The expression, as long as it was, with blanks for the letters of its string literals that are no index."""
    return STRING.sub(
        lambda match: match[0] if match[0][0] == "[" else match[0][0] + " " * (len(match[0]) - 2) + match[0][0],
        expression,
    )


def variable_problems(value: Any, scope: Scope, path: str, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    """Each tag in the texts of a value that names no variable of the scope; the fields named in `skip` are left out."""
    if isinstance(value, str):
        if value.count("{{") != len(TAG.findall(value)):
            yield f"{path}: braces that do not close"
        for name, in_expression in tags(value):
            if not scope.holds(name, in_expression=in_expression):
                yield f"{path}: {{{{{name}}}}}: {scope.why_not(name)}"
    elif isinstance(value, dict):
        for key, member in value.items():
            if key == "metrics":
                yield from variable_problems(member, scope.plus(METRIC_VARIABLES), join(path, key))
            elif key not in skip:
                yield from variable_problems(member, scope, join(path, str(key)))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from variable_problems(item, scope, join(path, position))

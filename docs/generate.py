"""Writes docs/reference.md from the code: `python docs/generate.py`. A test says when it is stale."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from steps import errors
from steps.options import Options, flag_of
from steps.settings import Settings, variable_of
from steps.variables import COMMAND_VARIABLES
from workflows.definition import parameters
from workflows.settings import Placement, Resources, Serving, Toleration, WorkflowSettings, known_limits

TARGET = Path(__file__).with_name("reference.md")


def main() -> None:
    """Write the page."""
    TARGET.write_text(reference())


def reference() -> str:
    """The text of docs/reference.md."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `python docs/generate.py`.",
            "",
            "## Options of a task",
            "",
            "The same in a flag, in a field of a task message, and as a variable that sets a deployment's default.",
            "Lists are arrays in messages and comma-separated elsewhere.",
            "",
            *_table(
                ("flag", "message field", "variable", "default", "meaning"),
                (
                    ("" if name == "priority" else f"`{flag_of(name)}`", f"`{name}`", f"`{variable_of(name)}`",
                     _default(field), _meaning(field))
                    for name, field in Options.model_fields.items()
                ),
            ),
            "",
            "## Settings of a deployment",
            "",
            *_table(
                ("variable", "default", "meaning"),
                (
                    (f"`{variable_of(name)}`", _default(field), _meaning(field))
                    for name, field in Settings.model_fields.items()
                ),
            ),
            "",
            f"Of the command line alone: `{'`, `'.join(COMMAND_VARIABLES)}`. A `REELSCAN_*` variable that is none",
            "of these is refused, but for those that Kubernetes sets for a Service named `reelscan-...`.",
            "",
            "AWS is found by its usual variables and files: `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_PROFILE`, keys.",
            "",
            "## Parameters of the workflow",
            "",
            "Given by `argo submit -p NAME=VALUE`; all of them are text, and each may be left out. `body`, by which",
            "messages come in, excludes the others but `message_id` and `title`.",
            "",
            *_table(
                ("parameter", "meaning"),
                ((f"`{parameter.name}`", _escaped(parameter.description or "")) for parameter in parameters()),
            ),
            "",
            "## Settings of the workflow",
            "",
            "Fields of `workflows.WorkflowSettings`, and of the file of `reelscan template --settings FILE`;",
            "`--set NAME=VALUE` sets one more.",
            "",
            *_settings_table(WorkflowSettings),
            "",
            "`limits` takes every setting and option above but those that have a field of their own:",
            f"`{'`, `'.join(known_limits())}`.",
            "",
            *(
                line
                for name, model in (
                    ("serving", Serving),
                    ("..._resources` and `serving.resources", Resources),
                    ("..._nodes", Placement),
                    ("tolerations", Toleration),
                )
                for line in (f"Fields of `{name}`:", "", *_settings_table(model), "")
            ),
            "## Exit statuses and error codes",
            "",
            *_table(
                ("status", "code in messages", "meaning"),
                (
                    (str(error.exit_status), f"`{error.code}`", (error.__doc__ or "").splitlines()[0])
                    for error in _leaves()
                ),
            ),
            "",
            "0 is done, 1 a defect, 130 stopped by Ctrl-C. `deleted` is the code of a run deleted before it ended.",
            "`send --wait` ends with 1 for `internal`: something is wrong where the service runs; the message says it.",
            "",
        ]
    )  # fmt: skip


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _settings_table(model: type[BaseModel]) -> list[str]:
    rows = ((f"`{name}`", _default(field), _meaning(field)) for name, field in model.model_fields.items())
    return _table(("setting", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
        if not value:
            return "the defaults below"
    if value is None:
        return "none"
    if isinstance(value, dict) or value == []:
        # As YAML may be written.
        return f"`{json.dumps(value)}`".replace('"', "")
    if isinstance(value, list | tuple):
        return f"`{','.join(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(field: FieldInfo) -> str:
    bounds = []
    for rule in field.metadata:
        for name, sign in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
            if hasattr(rule, name):
                bounds.append(f"{sign} {getattr(rule, name)}")
    text = _escaped(field.description or "")
    return text + (f" ({', '.join(bounds)})" if bounds else "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _leaves(base: type[errors.ReelscanError] = errors.ReelscanError) -> list[type[errors.ReelscanError]]:
    found = []
    for error in base.__subclasses__():
        if error.__module__ == errors.__name__:
            found += _leaves(error) or [error]
    return sorted(found, key=lambda error: error.exit_status)


if __name__ == "__main__":
    main()

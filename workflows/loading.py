"""Settings from a YAML file and from `NAME=VALUE` texts, and what is wrong with them in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from steps.errors import UsageError
from workflows.settings import WorkflowSettings, known_limits, nearest

# What pydantic says, and what whoever writes settings understands.
_WORDS = {
    "Value error, ": "",
    "Input should be": "allowed is",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid integer, unable to parse string as an integer": "a whole number",
    "a valid integer": "a whole number",
    "a valid string": "text, in quotes if YAML would read it otherwise",
    "a valid list": "a list",
    "a valid dictionary": "settings by name",
}


def load_settings(path: Path | None = None, changes: list[str] | None = None) -> WorkflowSettings:
    """Settings of a YAML file, and of texts that go before it.

    Args:
        path: of a file with settings by name; None: the defaults.
        changes: `NAME=VALUE` texts. A name may have dots, `serving.image`; a value is YAML.

    Raises:
        UsageError: the file cannot be read, a name is not known, or a value is not allowed.
    """
    fields = {} if path is None else _read(path)
    for change in changes or []:
        name, equals, text = change.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {change!r}: expected NAME=VALUE")
        try:
            _put(fields, name.split("."), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UsageError(f"--set {change!r}: the value is no YAML") from error
    try:
        return WorkflowSettings.model_validate(fields)
    except ValidationError as error:
        raise UsageError(_problem(error.errors(include_url=False)[0], path)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a YAML file with settings") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if fields is not None and not isinstance(fields, dict):
        raise UsageError(f"{path}: holds a {type(fields).__name__}, expected settings by name, such as retries: 3")
    return {str(name): value for name, value in (fields or {}).items()}


def _put(fields: dict[str, Any], names: list[str], value: Any) -> None:
    for depth, name in enumerate(names[:-1], 1):
        inner = fields.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {'.'.join(names)}: {'.'.join(names[:depth])} holds no settings of its own")
        fields = inner
    fields[names[-1]] = value


def _problem(first: ErrorDetails, path: Path | None) -> str:
    """A problem in one line: the setting, its value, what is allowed."""
    places = [str(part) for part in first["loc"]]
    where = ".".join(places)
    start = f"{path}: " if path is not None else ""
    if first["type"] == "extra_forbidden":
        if where in known_limits():
            return f"{start}{where} is a setting of the steps; write limits.{where}"
        similar = ".".join([*places[:-1], nearest(places[-1], _fields_of(places[:-1]))])
        return f"{start}no setting is named {where[:80]}; the most similar is {similar}"
    message = _in_words(str(first["msg"]))
    if not where:
        return f"{start}{message}"
    # A whole section is no help to whoever looks for what is wrong in it.
    given = "" if isinstance(first["input"], dict) else f"={json.dumps(first['input'], default=str)[:80]}"
    return f"{start}{where}{given}: {message}"


def _in_words(message: str) -> str:
    for said, better in _WORDS.items():
        message = message.replace(said, better)
    return re.sub(" or instance of .*", "", message)


def _fields_of(places: list[str]) -> list[str]:
    """Names of the settings in a section."""
    model: Any = WorkflowSettings
    for place in places:
        if not place.isdecimal():
            model = _section(model.model_fields[place].annotation)
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel]:
    """The model in an annotation such as `list[Toleration]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_section(part) for part in annotation.__args__)

"""Schemas of Kubernetes objects, checked as an API server does with `fieldValidation: Strict`."""

from __future__ import annotations

import base64
import binascii
import functools
import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import celpy
import celpy.adapter
import celpy.evaluation
import jsonschema
import jsonschema.validators
from jsonschema.exceptions import ValidationError

FOLDER = Path(__file__).with_name("schemas")
PRESERVE = "x-kubernetes-preserve-unknown-fields"
PATTERN_OF_QUANTITY = r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?"
RANGES_OF_INTEGERS = {"int32": 1 << 31, "int64": 1 << 63}
NAMES_OF_TYPES = {
    "array": "a list",
    "object": "an object",
    "integer": "an integer",
    "boolean": "true or false",
    "null": "null",
}

Schema = dict[str, Any]


@dataclass(frozen=True)
class SchemaFile:
    """One file of `tests/kubernetes/schemas/`, ready to check with."""

    kinds: dict[str, Schema]
    definitions: dict[str, Schema]
    check: Callable[[Schema], jsonschema.protocols.Validator]

    def problems(self, schema: Schema, value: Any, path: str = "") -> Iterator[str]:
        """What the schema finds wrong with a value that stands at `path`."""
        for error in self.check(schema).iter_errors(value):
            yield f"{join(path, *error.absolute_path)}: {error.message}"


def schema_file(name: str, version: str = "") -> SchemaFile:
    """The newest checked-in file of a project whose version begins with the given parts, such as `4.0`.

    Raises:
        ValueError: There is none.
    """
    paths = sorted(FOLDER.glob(f"{name}-*.json.gz"), key=lambda path: version_of(path, name))
    wanted = [int(part) for part in version.split(".")] if version else []
    fitting = [path for path in paths if version_of(path, name)[: len(wanted)] == wanted]
    if not fitting:
        there = ", ".join(".".join(map(str, version_of(path, name))) for path in paths)
        raise ValueError(f"no schemas of {name} {version}; there are: {there}")
    return load(fitting[-1])


def version_of(path: Path, name: str) -> list[int]:
    return [int(part) for part in path.name.removeprefix(f"{name}-").removesuffix(".json.gz").split(".")]


@functools.cache
def load(path: Path) -> SchemaFile:
    document = json.loads(gzip.decompress(path.read_bytes()))
    definitions: dict[str, Schema] = document["definitions"]

    def referenced(validator: Any, name: str, value: Any, _: Schema) -> Iterator[ValidationError]:
        yield from validator.descend(value, definitions[name])

    checker = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, {**KEYWORDS, "$ref": referenced}
    )
    return SchemaFile(document["kinds"], definitions, checker)


def join(path: str, *parts: str | int) -> str:
    """A path as `kubectl` writes it: `spec.templates[2].name`, with quotes around keys that hold a dot."""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.search(r"[./\[\]]", part):
            path += f"[{json.dumps(part)}]"
        else:
            path += f".{part}" if path else part
    return path


def check_type(_: Any, wanted: str | list[str], value: Any, schema: Schema) -> Iterator[ValidationError]:
    types = [wanted] if isinstance(wanted, str) else wanted
    found = type_of(value)
    if found not in types and not (found == "integer" and "number" in types):
        names = " or ".join(NAMES_OF_TYPES.get(name, f"a {name}") for name in types)
        yield ValidationError(f"must be {names}, not {json.dumps(value, default=str)[:80]}")
    elif found == "object" and not {"properties", "additionalProperties", PRESERVE} & set(schema):
        yield from (ValidationError("unknown field", path=[name]) for name in value)


def type_of(value: Any) -> str:
    kinds: list[tuple[type, str]] = [
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
    ]
    kinds += [(dict, "object"), (type(None), "null")]
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def check_properties(validator: Any, properties: Schema, value: Any, schema: Schema) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    for name, member in value.items():
        if name in properties:
            yield from validator.descend(member, properties[name], path=name)
        elif "additionalProperties" not in schema and not schema.get(PRESERVE):
            yield ValidationError("unknown field", path=[name])


def check_required(_: Any, names: list[str], value: Any, __: Schema) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        yield from (ValidationError("required", path=[name]) for name in names if name not in value)


def check_enum(_: Any, allowed: list[Any], value: Any, __: Schema) -> Iterator[ValidationError]:
    if value not in allowed:
        yield ValidationError(f"must be one of {', '.join(map(str, allowed))}, not {value!r}")


def check_int_or_string(_: Any, __: bool, value: Any, ___: Schema) -> Iterator[ValidationError]:
    if type_of(value) not in {"integer", "string"}:
        yield ValidationError(f"must be an integer or a string, not {json.dumps(value, default=str)[:80]}")


def check_format(_: Any, name: str, value: Any, __: Schema) -> Iterator[ValidationError]:
    # Formats that Kubernetes only documents, such as `double`, demand nothing.
    fits = FORMATS.get(name)
    if fits is not None and not fits(value):
        yield ValidationError(f"must be a valid {name}, not {json.dumps(value, default=str)[:80]}")


def check_list_type(_: Any, kind: str, value: Any, schema: Schema) -> Iterator[ValidationError]:
    if kind not in {"map", "set"} or not isinstance(value, list):
        return
    seen = set()
    for position, item in enumerate(value):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        identity = [item.get(key) for key in keys] if kind == "map" and isinstance(item, dict) else item
        text = json.dumps(identity, sort_keys=True, default=str)
        if text in seen:
            yield ValidationError(f"stands twice: {text}", path=[position])
        seen.add(text)


def check_rules(_: Any, rules: list[Schema], value: Any, __: Schema) -> Iterator[ValidationError]:
    """Runs the rules that are written in CEL, save those that compare with the object before a change."""
    converted = None
    for rule in rules:
        if "oldSelf" in rule["rule"]:
            continue
        converted = celpy.adapter.json_to_cel(value) if converted is None else converted
        try:
            holds = bool(program_of(rule["rule"]).evaluate({"self": converted}))
        except celpy.evaluation.CELEvalError as error:
            yield ValidationError(f"rule cannot be evaluated: {rule['rule']}: {error.args[0]}")
            continue
        if not holds:
            yield ValidationError(rule.get("message") or f"failed rule: {rule['rule']}")


@functools.cache
def program_of(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def is_base64(value: Any) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return False
    return True


def is_date_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (ValueError, TypeError):
        return value is None  # `creationTimestamp: null` is what Kubernetes' own tools write.


def is_quantity(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number or (isinstance(value, str) and re.fullmatch(PATTERN_OF_QUANTITY, value) is not None)


def fits_range(limit: int) -> Callable[[Any], bool]:
    return lambda value: not isinstance(value, int) or -limit <= value < limit


FORMATS: dict[str, Callable[[Any], bool]] = {
    "byte": is_base64,
    "date-time": is_date_time,
    "quantity": is_quantity,
    **{name: fits_range(limit) for name, limit in RANGES_OF_INTEGERS.items()},
}
KEYWORDS: dict[str, Any] = {
    "enum": check_enum,
    "format": check_format,
    "properties": check_properties,
    "required": check_required,
    "type": check_type,
    "x-kubernetes-int-or-string": check_int_or_string,
    "x-kubernetes-list-type": check_list_type,
    "x-kubernetes-validations": check_rules,
}

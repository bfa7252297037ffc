"""The checked-in schemas are those of the stated modules, and what makes them loses nothing."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.kubernetes.fetch_schemas import CHECKED_IN, FOLDER, cleaned, with_needed_definitions, with_shared_subtrees


def test_the_checked_in_files_are_those_of_the_stated_modules() -> None:
    for (name, version), module_sum in CHECKED_IN.items():
        path = FOLDER / f"{name}-{version.removeprefix('v')}.json.gz"
        origin = json.loads(gzip.decompress(path.read_bytes()))["origin"]
        assert (origin["version"], origin["sum"]) == (version, module_sum)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json.gz")), ids=lambda path: path.name)
def test_the_files_are_small_carry_no_date_and_refer_to_nothing_that_lacks(path: Any) -> None:
    content = path.read_bytes()
    assert len(content) < 150_000
    assert content[4:8] == b"\0\0\0\0"
    document = json.loads(gzip.decompress(content))
    text = json.dumps(document)
    referred = {part.split('"', 1)[0] for part in text.split('{"$ref": "')[1:]}
    assert referred <= set(document["definitions"])


def test_only_what_demands_something_is_kept() -> None:
    schema = {
        "description": "text",
        "properties": {"description": {"type": "string", "description": "text", "default": ""}},
        "type": "object",
    }
    assert cleaned(schema, is_openapi=False) == {"properties": {"description": {"type": "string"}}, "type": "object"}


def test_a_keyword_that_is_new_is_refused() -> None:
    with pytest.raises(SystemExit, match="dependentRequired"):
        cleaned({"type": "object", "dependentRequired": {}}, is_openapi=False)


def test_subtrees_that_recur_are_stored_once_and_mean_the_same() -> None:
    part = {"type": "object", "properties": {f"field-{number}": {"type": "string"} for number in range(20)}}
    kinds = {
        "v1 A": {"type": "object", "properties": {"one": part, "many": {"type": "array", "items": part}}},
        "v1 B": {"type": "object", "properties": {"any": {"type": "object", "additionalProperties": part}}},
    }
    document = with_shared_subtrees(kinds)

    def expanded(schema: Any) -> Any:
        if isinstance(schema, dict):
            if "$ref" in schema:
                return expanded(document["definitions"][schema["$ref"]])
            return {key: expanded(value) for key, value in schema.items()}
        return schema

    assert len(document["definitions"]) == 1
    assert expanded(document["kinds"]) == kinds


def test_all_that_a_kind_refers_to_is_kept_and_nothing_else() -> None:
    definitions = {
        "Kind": {"type": "object", "properties": {"spec": {"allOf": [{"$ref": "#/definitions/Spec"}]}, "metadata": {}}},
        "Spec": {"type": "object", "properties": {"again": {"$ref": "#/definitions/Spec"}, "any": {"type": "object"}}},
        "Other": {"type": "object"},
    }
    document = with_needed_definitions({"v1 Kind": "Kind"}, definitions)
    assert set(document["definitions"]) == {"Kind", "Spec"}
    spec = document["definitions"]["Spec"]["properties"]
    assert spec == {"again": {"$ref": "Spec"}, "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}

"""The checked-in YAML is what the definition renders, and no server refuses what it renders."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.validation import validate
from tests.workflows.rendered import ROOT, VARIANTS, rendered
from workflows import load_settings, objects
from workflows.rendering import to_yaml

MANIFESTS = ROOT / "workflows" / "manifests"
EXAMPLES = ROOT / "workflows" / "examples"
SETTINGS: dict[str, Path | None] = {"default.yaml": None, **{path.name: path for path in EXAMPLES.glob("*.yaml")}}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_manifest_is_as_the_definition_renders_it(name: str) -> None:
    checked_in = list(yaml.safe_load_all((MANIFESTS / name).read_text()))
    assert checked_in == objects(load_settings(SETTINGS[name])), f"{name} is stale: run make manifests"


def test_there_is_a_manifest_of_each_example_and_no_other() -> None:
    assert {path.name for path in MANIFESTS.iterdir()} == set(SETTINGS)


@pytest.mark.parametrize(("name", "version"), list(itertools.product(SETTINGS, ("3.7", "4.0"))))
def test_a_manifest_is_valid(name: str, version: str) -> None:
    for document in yaml.safe_load_all((MANIFESTS / name).read_text()):
        assert validate(document, version) == [], document["kind"]


@pytest.mark.parametrize(("variant", "version"), list(itertools.product(VARIANTS, ("3.7", "4.0"))))
def test_whatever_is_set_the_objects_are_valid(variant: str, version: str) -> None:
    for document in rendered(variant):
        assert validate(document, version) == [], document["kind"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_yaml_holds_the_same_as_the_objects(variant: str) -> None:
    text = to_yaml(rendered(variant))
    assert list(yaml.safe_load_all(text)) == list(rendered(variant))
    assert "&id" not in text


@pytest.mark.parametrize("text", ["y", "N", "1e3", "+.5", "0o17", "0x1F", "12:30", "1_000", "on", "null", "~", "1.0"])
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    # kubectl reads another version of YAML than PyYAML, so that what the one leaves plain is a number to the other.
    assert to_yaml([{"value": text}]) == f"---\nvalue: '{text}'\n"


@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_come_in_an_order_in_which_they_can_be_applied(variant: str) -> None:
    kinds = [document["kind"] for document in rendered(variant)]
    assert kinds[-1] == "WorkflowTemplate"
    assert kinds.index("ServiceAccount") < kinds.index("RoleBinding") < kinds.index("Secret")


def test_every_object_is_in_the_namespace_and_has_the_labels_of_the_deployment() -> None:
    for document in rendered("a namespace and other names"):
        metadata: dict[str, Any] = document["metadata"]
        assert metadata["namespace"] == "video"
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "reelscan"
        assert metadata["name"].startswith("people")

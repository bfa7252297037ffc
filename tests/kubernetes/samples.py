"""A correct WorkflowTemplate, and copies of objects with one thing changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]


def sample_template() -> Object:
    """One that uses what Reelscan's own uses: sidecar, fan-out, mutex, retries, patches, exit handler."""
    document: Object = yaml.safe_load(Path(__file__).with_name("sample_template.yaml").read_text())
    return document


def changed(document: Object, path: str, value: Any) -> Object:
    """A copy with another value at a path such as `spec/templates/1/name` (`~1`: a slash in a key); `...` removes."""
    document = copy.deepcopy(document)
    *parents, last = [int(part) if part.isdigit() else part.replace("~1", "/") for part in path.split("/")]
    holder: Any = document
    for part in parents:
        holder = holder[part]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return document

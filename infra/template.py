"""CloudFormation templates as objects: tags such as `!Ref` in their long form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from steps.errors import UsageError

CLUSTER = Path(__file__).with_name("cluster.yaml")
ELASTIC_INFERENCE = Path(__file__).with_name("eia.yaml")
MAX_BODY_BYTES = 51200
"""Of a template that goes along with the request; a larger one would need a bucket."""


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):  # type: ignore[misc]  # in C where it can be had
    """Reads the tags of CloudFormation."""


def _construct(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _construct)
# `2012-10-17` is text to CloudFormation.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Template:
    """A template of CloudFormation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text()
        self.content: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 - a loader made of SafeLoader
        self._text = text

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """By name."""
        found: dict[str, dict[str, Any]] = self.content.get("Parameters", {})
        return found

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """By logical name."""
        found: dict[str, dict[str, Any]] = self.content.get("Resources", {})
        return found

    def body(self) -> str:
        """What a request carries: the file, or if that is too long the same on one line, without what only people read.

        Raises:
            UsageError: that is too long too.
        """
        if len(self._text.encode()) <= MAX_BODY_BYTES:
            return self._text
        short = {key: value for key, value in self.content.items() if key != "Metadata"}
        for section in ("Parameters", "Outputs"):
            short[section] = {
                name: {key: value for key, value in item.items() if key != "Description"}
                for name, item in self.content.get(section, {}).items()
            }
        body = _compact(short)
        if len(body.encode()) > MAX_BODY_BYTES:
            raise UsageError(
                f"{self.path}: {len(body.encode())} bytes as short as can be, and CloudFormation takes "
                f"{MAX_BODY_BYTES}: put what was added into a template of its own"
            )
        return body

    def names(self, field: str, values: Mapping[str, str]) -> dict[str, str]:
        """The names that resources are given by a property such as `BucketName`, by logical name.

        Args:
            field: the property.
            values: of parameters and pseudo-parameters, by name.
        """
        found = {}
        for logical, resource in self.resources.items():
            name = _text(resource.get("Properties", {}).get(field), values)
            if name is not None:
                found[logical] = name
        return found


_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_NO_TEXT = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


def _compact(value: Any) -> str:
    """YAML on one line, with the short forms of functions: a fifth shorter than JSON."""
    if isinstance(value, dict):
        function = next(iter(value)) if len(value) == 1 else ""
        inner: Any = value.get(function)
        # Two tags cannot follow one another.
        is_short = (function == "Ref" or function.startswith("Fn::")) and not isinstance(inner, dict)
        if is_short:
            if function == "Fn::GetAtt":
                inner = ".".join(inner)
            return f"!{function.removeprefix('Fn::')} {_compact(inner)}"
        return "{" + ",".join(f"{_compact(key)}: {_compact(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_compact(item) for item in value) + "]"
    if isinstance(value, str) and _WORD.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    return json.dumps(value)


def _text(value: Any, values: Mapping[str, str]) -> str | None:
    """A property as text; None if it is not known before the stack is made."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "Ref" in value:
        return values.get(value["Ref"])
    if isinstance(value, dict) and isinstance(value.get("Fn::Sub"), str):
        text: str = value["Fn::Sub"]
        names = re.findall(r"\$\{([^!}]+)\}", text)
        if all(name in values for name in names):
            return re.sub(r"\$\{([^!}]+)\}", lambda found: values[found[1]], text)
    return None

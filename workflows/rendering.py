"""Kubernetes objects as YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

# What other readers than PyYAML take for a number or a truth value: kubectl's YAML is another version than Python's.
_NOT_PLAIN = re.compile(r"[+-]?[.0-9][0-9_.eE+:-]*|[+-]?0[xXoObB].*|[yYnN]")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """No object is written as a reference to another."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _NOT_PLAIN.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(documents: Iterable[dict[str, Any]]) -> str:
    """The text of a file with these objects, each value on one line."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**6,
        explicit_start=True,
    )  # fmt: skip

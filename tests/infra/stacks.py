"""Fixtures of the stack of infra/cluster.yaml; the conftest imports them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.infra.template import Stack, load

NEEDED = {
    "Az0": "us-east-1a",
    "Az1": "us-east-1b",
    "AdminPrincipalArn": "arn:aws:iam::123456789012:role/admin",
}
"""Parameters without a default."""

Deploy = Callable[..., Stack]


@pytest.fixture(scope="session")
def cluster_template() -> Mapping[str, Any]:
    return load("cluster.yaml")


@pytest.fixture(scope="session")
def deploy(cluster_template: Mapping[str, Any]) -> Deploy:
    """The stack of infra/cluster.yaml with some parameters; `name` is the stack's."""

    def make(*, name: str = "reelscan", **parameters: str) -> Stack:
        return Stack(cluster_template, {**NEEDED, **parameters}, name=name)

    return make

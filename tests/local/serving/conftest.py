"""Servers and stubs for the tests of the model server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.serving.server import ModelServer
from tests.conformance.target import Target, connected
from tests.local.serving.gated import GatedBackend


@pytest.fixture
def gated() -> Iterator[GatedBackend]:
    """A model that computes when its gate is opened, at the end of the test at last."""
    backend = GatedBackend()
    yield backend
    backend.gate.set()


@pytest.fixture
def gated_server(gated: GatedBackend) -> Iterator[tuple[ModelServer, Target]]:
    """A server that computes one request at a time, and lets two wait."""
    with (
        ModelServer(gated, queue_size=2, workers=1, rest_port=0) as server,
        connected(server.address, "ssd") as target,
    ):
        yield server, target
        gated.gate.set()

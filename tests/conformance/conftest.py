"""Which server the suite looks at, and its report.

With SERVING=host:port (and MODEL, default "ssd") it is that one, else embedded ones, set up here so that every
expectation can be seen. What a given server cannot be brought to show is listed at the end of the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from local.serving.backends import default_model
from local.serving.backends.coded import CodedBackend
from local.serving.backends.litert import LiteRTBackend
from local.serving.server import ModelServer
from tests.conformance.target import Target, connected
from tests.local.serving.gated import GatedBackend

GIVEN = os.environ.get("SERVING")
MODEL = os.environ.get("MODEL", "ssd")
GIVEN_MAX_BATCH = os.environ.get("SERVING_MAX_BATCH")
GIVEN_LOADING_VERSION = os.environ.get("SERVING_LOADING_VERSION")

_EMBEDDED_MAX_BATCH = 4
_not_shown: list[str] = []


@dataclass(frozen=True)
class LoadingTarget:
    """A server with a version of the model that is not loaded yet. `finish` lets it load."""

    target: Target
    version: int
    finish: Callable[[], None]


@dataclass(frozen=True)
class BusyTarget:
    """A server whose queue is small. `go_on` lets a model that holds up its requests compute them."""

    target: Target
    go_on: Callable[[], None]


def not_shown(expectation: str, how: str) -> NoReturn:
    """The given server does not show this; it goes into the report."""
    assert GIVEN, "the embedded servers show every expectation"
    _not_shown.append(f"{expectation}: {how}")
    pytest.skip(how)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "source(*places): where TensorFlow Serving's source says so")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("source") is None:
            raise pytest.UsageError(f"{item.nodeid} names no source: what TensorFlow Serving does is not made up")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if GIVEN:
        terminalreporter.section(f"conformance of {GIVEN}, model {MODEL}")
        for line in _not_shown or ["every expectation was shown"]:
            terminalreporter.line(f"NOT SHOWN {line}" if _not_shown else line)


@pytest.fixture(scope="module", params=["given"] if GIVEN else ["coded", "litert"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A server with the model available."""
    if GIVEN:
        with connected(GIVEN, MODEL) as given:
            yield given
        return
    backend = CodedBackend() if request.param == "coded" else LiteRTBackend(default_model(), threads=1)
    with ModelServer(backend, MODEL, 3) as server, connected(server.address, MODEL) as embedded:
        yield embedded


@pytest.fixture
def batching_target() -> Iterator[tuple[Target, int]]:
    """A server with a largest batch, and that."""
    if GIVEN:
        if GIVEN_MAX_BATCH is None:
            not_shown("too large a batch", "start the server with batching and set SERVING_MAX_BATCH")
        with connected(GIVEN, MODEL) as given:
            yield given, int(GIVEN_MAX_BATCH)
        return
    backend = GatedBackend(max_batch=_EMBEDDED_MAX_BATCH)
    backend.gate.set()
    with ModelServer(backend, MODEL) as server, connected(server.address, MODEL) as embedded:
        yield embedded, _EMBEDDED_MAX_BATCH


@pytest.fixture
def busy_target() -> Iterator[BusyTarget]:
    """A server whose queue can be filled."""
    if GIVEN:
        with connected(GIVEN, MODEL) as given:
            yield BusyTarget(given, lambda: None)
        return
    backend = GatedBackend()
    with (
        ModelServer(backend, MODEL, queue_size=1, workers=1) as server,
        connected(server.address, MODEL) as embedded,
    ):
        yield BusyTarget(embedded, backend.gate.set)
        backend.gate.set()


@pytest.fixture
def loading_target() -> Iterator[LoadingTarget]:
    """A server that is loading."""
    if GIVEN:
        if GIVEN_LOADING_VERSION is None:
            not_shown("model still loading", "set SERVING_LOADING_VERSION and add that version during the run")
        with connected(GIVEN, MODEL) as given:
            yield LoadingTarget(given, int(GIVEN_LOADING_VERSION), lambda: None)
        return
    backend = GatedBackend()

    def load() -> GatedBackend:
        assert backend.gate.wait(60)
        return backend

    with ModelServer(load, MODEL, 2) as server, connected(server.address, MODEL) as embedded:
        yield LoadingTarget(embedded, 2, backend.gate.set)
        backend.gate.set()

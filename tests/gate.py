"""A model server that computes only so many requests, until the test opens the gate."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from local.serving.backends import Arrays
from local.serving.backends.coded import CodedBackend
from local.serving.server import ModelServer

DEADLINE_SECONDS = 120.0


class GatedCodedBackend(CodedBackend):
    """Reads the numbers in pictures; after `free` requests only once `gate` is set."""

    def __init__(self, free: int = 0) -> None:
        self.gate = threading.Event()
        self.stuck = threading.Event()
        """Set when the first request waits at the gate."""
        self.frames = 0
        """Frames of all requests that were computed, padding included."""
        self._free = threading.Semaphore(free)
        self._lock = threading.Lock()

    def predict(self, inputs: Arrays) -> Arrays:
        if not self._free.acquire(blocking=False) and not self.gate.is_set():
            self.stuck.set()
            if not self.gate.wait(DEADLINE_SECONDS):
                raise TimeoutError("the test never opened the gate")
        with self._lock:
            self.frames += sum(len(array) for array in inputs.values())
        return super().predict(inputs)

    def wait_until_stuck(self) -> None:
        assert self.stuck.wait(DEADLINE_SECONDS), "no request came"


@contextmanager
def gated_server(free: int = 0) -> Iterator[tuple[GatedCodedBackend, str]]:
    """A server named `coded`, and its address. The gate opens when the block ends."""
    backend = GatedCodedBackend(free)
    with ModelServer(backend, model_name="coded") as server:
        try:
            yield backend, server.address
        finally:
            backend.gate.set()

"""Who may compute, who waits, who is sent away."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from local.serving.status import ServingError


class Caller:
    """One request, which may end while it waits.

    Args:
        timeout_seconds: How long it may wait, or None where its transport ends it.
    """

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self.deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self.gone = threading.Event()

    @property
    def has_ended(self) -> bool:
        """Nobody waits for the answer any more."""
        return self.gone.is_set() or (self.deadline is not None and time.monotonic() >= self.deadline)


class Admission:
    """Lets some requests run at once and some more wait, first come, first served.

    Args:
        workers: Requests that run at once, at least 1.
        queue_size: Requests that wait for their turn at most.
    """

    def __init__(self, workers: int, queue_size: int) -> None:
        self._workers = workers
        self._queue_size = queue_size
        self._running = 0
        self._waiting: deque[Caller] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        with self._changed:
            return len(self._waiting)

    def leave(self, caller: Caller) -> None:
        """The caller has gone. If it waits, its place becomes free."""
        caller.gone.set()
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def turn(self, caller: Caller) -> Iterator[None]:
        """Runs the body once it is the caller's turn.

        Raises:
            ServingError: UNAVAILABLE at once when the queue is full, as TensorFlow's batching queue does
                (tensorflow/core/kernels/batching_util/shared_batch_scheduler.h,
                ValidateBatchTaskQueueCapacity); DEADLINE_EXCEEDED when the caller has gone or timed out.
        """
        with self._changed:
            self._enter(caller)
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _enter(self, caller: Caller) -> None:
        if self._running >= self._workers or self._waiting:
            self._wait(caller)
        if caller.has_ended:
            raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "the request ended while it waited for its turn")
        self._running += 1

    def _wait(self, caller: Caller) -> None:
        if len(self._waiting) >= self._queue_size:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                f"The queue to which this request was submitted is full; "
                f"currently {len(self._waiting)} requests wait and queue_size is {self._queue_size}",
            )

        def is_over() -> bool:
            return caller.has_ended or (self._waiting[0] is caller and self._running < self._workers)

        self._waiting.append(caller)
        try:
            timeout = None if caller.deadline is None else max(0.0, caller.deadline - time.monotonic())
            self._changed.wait_for(is_over, timeout)
        finally:
            self._waiting.remove(caller)
            self._changed.notify_all()

"""Keeping a received message hidden from others while its task runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from steps.errors import OutsideError, ReelscanError
from steps.queues import MAX_VISIBILITY_SECONDS, Message, Queues, ReceiptLostError


class VisibilityKeeper:
    """Keeps a received message hidden while its task runs. A context manager with a thread.

    The message is hidden for `seconds` from each renewal on, every third of that, and for `max_seconds` at most from
    the start: then it is given up, so that a task that hangs is not kept from others for ever. A process that dies
    stops renewing, and the message appears again.

    Args:
        seconds: how long it is hidden from each renewal on.
        max_seconds: how long from the start, at most.
        on_lost: called once, in another thread, when others may receive the message while this process still works
            on it.
    """

    def __init__(
        self,
        queues: Queues,
        queue: str,
        message: Message,
        *,
        seconds: float,
        max_seconds: float,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._queues = queues
        self._queue = queue
        self._receipt = message.receipt
        self._seconds = max(1.0, seconds)
        self._max_seconds = min(max_seconds, float(MAX_VISIBILITY_SECONDS))
        self._on_lost = on_lost
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="visibility", daemon=True)
        self.lost = threading.Event()
        """Set when the message may be received by others while this process still works on it."""

    def __enter__(self) -> VisibilityKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _keep(self) -> None:
        start = renewed = time.monotonic()
        while not self._stopped.wait(self._seconds / 3):
            now = time.monotonic()
            left = start + self._max_seconds - now
            if left <= 0:
                self._lose()
                return
            try:
                self._queues.set_visibility(self._queue, self._receipt, min(self._seconds, left))
                renewed = now
            except ReceiptLostError:
                self._lose()
                return
            except OutsideError:
                # SQS may answer again before the message appears; the next round tries.
                if time.monotonic() > renewed + self._seconds:
                    self._lose()
            except ReelscanError:
                self._lose()
                return

    def _lose(self) -> None:
        if not self.lost.is_set():
            self.lost.set()
            self._on_lost()

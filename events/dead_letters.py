"""Going through a dead-letter queue once, with every letter that is not taken given back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from steps.errors import ReelscanError
from steps.queues import MAX_BATCH, Message, Queues, ReceiptLostError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

HOLD_SECONDS = 300.0
WAIT_SECONDS = 1.0
"""A receive that waits asks all of SQS' servers; one that does not may find nothing where there is something."""
_AT_ONCE = 8
"""Requests at a time that renew or give back: there may be thousands of letters."""


class DeadLetters:
    """The letters of a dead-letter queue, each once. A context manager, and iterable once while it is entered.

    ::

        with DeadLetters(queues, queue) as letters:
            for letter in letters:
                if wanted(letter):
                    ...
                    letters.delete(letter)

    Letters are hidden from others from when they are received until the block ends, however it ends: then those
    that were not deleted are given back. Going through them ends with the first receive that brings none, or that
    brings one again: others have been given back meanwhile. A process that is killed gives nothing back; its letters
    appear after `hold_seconds`.

    Args:
        queues: to speak to SQS.
        queue: name or URL.
        hold_seconds: for how long letters are hidden at a time. A thread renews that every third of it.

    Raises:
        UsageError: the queue does not exist.
        AccessDeniedError: SQS refuses.
        QueueError: it cannot be reached.
    """

    def __init__(self, queues: Queues, queue: str, *, hold_seconds: float = HOLD_SECONDS) -> None:
        self._queues = queues
        self._queue = queue
        self._hold_seconds = hold_seconds
        self._seen: set[str] = set()
        self._held: dict[str, Message] = {}
        """By message id, in the order in which they came; without their bodies, which would fill the memory."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="dead letters", daemon=True)

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __iter__(self) -> Iterator[Message]:
        while True:
            messages = self._queues.receive(
                self._queue,
                wait_seconds=WAIT_SECONDS,
                visibility_seconds=self._hold_seconds,
                max_messages=MAX_BATCH,
            )
            with self._lock:
                # Of one that came again this receipt is the one that counts.
                self._held.update((message.id, replace(message, body="", attributes={})) for message in messages)
            new = [message for message in messages if message.id not in self._seen]
            self._seen.update(message.id for message in new)
            yield from new
            if not messages or len(new) < len(messages):
                return

    def delete(self, message: Message) -> None:
        """Take a letter off the queue. One that others received meanwhile, or deleted, is left to them.

        Raises:
            QueueError, AccessDeniedError, UsageError: it is not deleted, and is given back at the end.
        """
        with contextlib.suppress(ReceiptLostError):
            self._queues.delete(self._queue, message.receipt)
        with self._lock:
            self._held.pop(message.id, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._keeper.join()
        self._set_visibility(self._held.values(), 0)

    def _keep(self) -> None:
        while not self._stopped.wait(self._hold_seconds / 3):
            with self._lock:
                held = list(self._held.values())
            self._set_visibility(held, self._hold_seconds)

    def _set_visibility(self, messages: Iterable[Message], seconds: float) -> None:
        """As well as can be: a letter that another has is left to it, and once SQS is out of reach no more is tried."""
        away = threading.Event()

        def set_one(message: Message) -> None:
            # When the block ends, what is hidden for longer is only shown later.
            if away.is_set() or (seconds and (self._stopped.is_set() or message.id not in self._held)):
                return
            try:
                self._queues.set_visibility(self._queue, message.receipt, seconds)
            except ReceiptLostError:
                return
            except ReelscanError:
                away.set()

        with ThreadPoolExecutor(_AT_ONCE, "dead letters") as pool:
            for message in messages:
                pool.submit(set_one, message)


def is_stray(letter: Message) -> bool:
    """Whether SQS itself put the letter there, so that nobody has reported it: our own name their task.

    A sender can name one too, which counts for nothing where SQS tells where the letter came from.
    """
    return letter.moved_by_sqs or "task_id" not in letter.attributes

"""The ledger, which accounts for every task, and the outbox, through which every completed message is sent.

Below the results, for attempt N of a task::

    ledger/TASK_ID.N.completed.json     the message, written once, by whoever reports first
    ledger/TASK_ID.N.resend-K           who may send it again, K counted from 1, when the one before did not end
    ledger/TASK_ID.N.sent               it is on the queue
    ledger/TASK_ID.N.closed             the attempt failed and has ended: what is reported now belongs to the next one

The outbox takes three steps: create the entry, send its bytes, create `.sent`. One who dies between two of them leaves
an entry without `.sent`; the others wait until that is old, and then one of them goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from steps.completed import Completed
from steps.errors import AccessDeniedError, NotFoundError, StoppedError, StorageError, TimeLimitError, UsageError
from steps.timestamps import utc_now, utc_text

if TYPE_CHECKING:
    from steps.queues import Queues
    from steps.settings import Settings
    from steps.store import Store

POLL_SECONDS = 1.0
_MOST_TURNS = 3
"""How many others in a row, each dying or hanging while it sends, are waited for."""
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_COMPLETED_SUFFIX = ".completed.json"
_SENT_SUFFIX = ".sent"
_CLOSED_SUFFIX = ".closed"
_CLOCK_KEY = "clock"


@dataclass(frozen=True)
class Entry:
    """What the ledger holds of one attempt of a task."""

    task_id: str
    attempt: int
    data: bytes
    """The completed message, as it was sent or will be."""
    sent: bool

    @property
    def completed(self) -> Completed:
        """The message. Raises StorageError if it cannot be read."""
        return Completed.from_bytes(self.data)


@dataclass(frozen=True)
class Closure:
    """The end of an attempt that failed."""

    closed_at: datetime
    since: datetime | None
    """By which whoever closed it knows the attempt again: `Origin.since` of `steps.reporting`."""


@dataclass(frozen=True)
class Outcome:
    """What became of reporting a task."""

    state: Literal["sent", "already_sent", "young"]
    """`young`: another wrote the entry a short while ago and may still be sending it; call again later."""
    completed: Completed
    """The message that counts: of whoever reported first."""
    seconds_left: float = 0.0
    """If `young`: after which it may be sent by another."""


def safe_name(task_id: str) -> str:
    """The task's part of keys and of ids in queues: itself if it is made of letters, digits, `-` and `_`.

    Any other id is digested, and cannot coincide with one that is not.
    """
    if _SAFE_ID.fullmatch(task_id):
        return task_id
    return "_" + hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]


class Ledger:
    """Looks up what was reported. `store` is that of `ledger/`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def check(self) -> None:
        """See whether an object can be written there.

        Raises:
            UsageError: the bucket does not exist, or writing is refused.
            StorageError: the store failed.
        """
        try:
            self.store.put(_CLOCK_KEY, b"")
        except (NotFoundError, AccessDeniedError) as error:
            raise UsageError(
                f"the ledger cannot be written: {error}; or set REELSCAN_RESULTS to another place"
            ) from error

    def age_seconds(self, key: str) -> float:
        """How long an object has been there by the store's own clock, since those of machines may differ.

        Raises NotFoundError, StorageError.
        """
        self.store.put(_CLOCK_KEY, b"")
        age = self.store.written_at(_CLOCK_KEY) - self.store.written_at(key)
        return max(0.0, age.total_seconds())

    def key(self, task_id: str, attempt: int, suffix: str) -> str:
        """Key of an object of an attempt."""
        return f"{safe_name(task_id)}.{attempt}{suffix}"

    def entry(self, task_id: str, attempt: int = 1) -> Entry | None:
        """What was reported of an attempt; None if nothing was. Raises StorageError."""
        try:
            data = self.store.get(self.key(task_id, attempt, _COMPLETED_SUFFIX)).data
        except NotFoundError:
            return None
        return Entry(task_id, attempt, data, self.store.exists(self.key(task_id, attempt, _SENT_SUFFIX)))

    def find(self, task_id: str) -> list[Entry]:
        """What was reported of all attempts of a task, the first one first. Raises StorageError."""
        start = f"{safe_name(task_id)}."
        attempts = [
            int(number)
            for number, dot, end in (key.removeprefix(start).partition(".") for key in self.store.list(start))
            if dot + end == _COMPLETED_SUFFIX and number.isdecimal()
        ]
        entries = (self.entry(task_id, attempt) for attempt in sorted(attempts))
        return [entry for entry in entries if entry is not None]

    def close(self, task_id: str, attempt: int, since: datetime | None = None) -> None:
        """Note that an attempt has ended; the first note counts. Raises StorageError."""
        note = {"closed_at": utc_text(utc_now()), "since": None if since is None else utc_text(since)}
        self.store.create(self.key(task_id, attempt, _CLOSED_SUFFIX), json.dumps(note).encode())

    def closure(self, task_id: str, attempt: int) -> Closure | None:
        """How an attempt was closed; None if it was not. Raises StorageError."""
        key = self.key(task_id, attempt, _CLOSED_SUFFIX)
        try:
            note = json.loads(self.store.get(key).data)
            since = None if note["since"] is None else datetime.fromisoformat(note["since"])
            return Closure(datetime.fromisoformat(note["closed_at"]), since)
        except NotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self.store.url}{key} cannot be read: {error}") from error


class Outbox:
    """Reports tasks, each at least once and, unless a process dies or hangs at the wrong moment, once.

    Raises:
        UsageError: the settings name no completed queue, or no dead-letter queue.
    """

    def __init__(self, ledger: Ledger, queues: Queues, settings: Settings) -> None:
        self._ledger = ledger
        self._queues = queues
        self._completed_queue = _required(settings, "completed_queue")
        self._dead_letter_queue = _required(settings, "dead_letter_queue")
        self._resend_after_seconds = settings.resend_after_seconds
        self._on_queue: set[str] = set()
        """What this object sent of entries that it could not yet mark so: their keys, with the queue's setting."""

    def report(
        self,
        completed: Completed,
        body: str,
        *,
        wait: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Report what became of a task. If another did before, what that one said counts.

        Args:
            completed: The message.
            body: The task as a message, for the dead-letter queue if the message that counts says `failed`.
            wait: Whether to wait for another who is still sending, rather than to answer `young`.
            cancelled: Asked while waiting.

        Raises:
            OutsideError: S3 or SQS failed. Call again with the same message.
            StoppedError: cancelled.
        """
        data = completed.to_bytes()
        key = self._ledger.key(completed.task_id, completed.attempt, _COMPLETED_SUFFIX)
        if self._ledger.store.create(key, data) is not None:
            return self._send(Entry(completed.task_id, completed.attempt, data, sent=False), body)
        outcome = self.resume(completed.task_id, body, completed.attempt, wait=wait, cancelled=cancelled)
        if outcome is None:
            raise StorageError(f"{self._ledger.store.url}{key} was there and is gone; report again")
        return outcome

    def resume(
        self,
        task_id: str,
        body: str,
        attempt: int = 1,
        *,
        wait: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Outcome | None:
        """See to it that an entry that is there is sent; None if there is none.

        Arguments and errors are those of `report`.
        """
        deadline = time.monotonic() + _MOST_TURNS * self._resend_after_seconds
        while True:
            entry = self._ledger.entry(task_id, attempt)
            if entry is None:
                return None
            if entry.sent:
                return Outcome("already_sent", entry.completed)
            turn, seconds_left = self._next_turn(entry)
            if seconds_left <= 0:
                if self._take_turn(entry, turn):
                    return self._send(entry, body)
            elif not wait:
                return Outcome("young", entry.completed, seconds_left)
            elif time.monotonic() > deadline:
                raise TimeLimitError(
                    f"task {entry.task_id[:100]}: others began to report it {_MOST_TURNS} times and did not end; "
                    "report it again"
                )
            else:
                self._wait(entry, seconds_left, cancelled)

    def _send(self, entry: Entry, body: str) -> Outcome:
        """Steps 2 and 3."""
        completed = entry.completed
        key = self._ledger.key(entry.task_id, entry.attempt, _SENT_SUFFIX)
        name = f"{safe_name(entry.task_id)}.{entry.attempt}"
        # When one of the two fails, the next try must not send the other again.
        letter, message = f"{key} dead_letter_queue", f"{key} completed_queue"
        if message not in self._on_queue:
            self._queues.send(self._completed_queue, entry.data.decode(), group=name, deduplication_id=name)
            self._on_queue.add(message)
        if completed.error is not None and letter not in self._on_queue:
            attributes = {"task_id": entry.task_id, "code": completed.error.code, "reason": completed.error.message}
            self._queues.send(self._dead_letter_queue, body, attributes, group=name, deduplication_id=name)
            self._on_queue.add(letter)
        self._ledger.store.create(key, json.dumps({"sent_at": utc_text(utc_now())}).encode())
        self._on_queue -= {letter, message}
        return Outcome("sent", completed)

    def _next_turn(self, entry: Entry) -> tuple[int, float]:
        """Number of the next one's turn to send, and in how many seconds that begins."""
        start = self._ledger.key(entry.task_id, entry.attempt, ".resend-")
        taken = max((int(key.removeprefix(start)) for key in self._ledger.store.list(start)), default=0)
        last = f"{start}{taken}" if taken else self._ledger.key(entry.task_id, entry.attempt, _COMPLETED_SUFFIX)
        return taken + 1, self._resend_after_seconds - self._ledger.age_seconds(last)

    def _take_turn(self, entry: Entry, turn: int) -> bool:
        key = self._ledger.key(entry.task_id, entry.attempt, f".resend-{turn}")
        return self._ledger.store.create(key, uuid.uuid4().bytes) is not None

    def _wait(self, entry: Entry, seconds: float, cancelled: Callable[[], bool]) -> None:
        """Until the entry is sent, at most so long."""
        deadline = time.monotonic() + seconds
        key = self._ledger.key(entry.task_id, entry.attempt, _SENT_SUFFIX)
        while (left := deadline - time.monotonic()) > 0 and not self._ledger.store.exists(key):
            if cancelled():
                raise StoppedError(f"stopped while another process reports task {entry.task_id[:100]}")
            time.sleep(min(left, POLL_SECONDS))


def _required(settings: Settings, name: str) -> str:
    queue: str | None = getattr(settings, name)
    if not queue:
        raise UsageError(f"no {name.replace('_', ' ')} is set; set REELSCAN_{name.upper()} to its name or URL")
    return queue

"""The lease on a run: who computes it. Others wait, so that two tasks of one video compute it once.

It is the object `lease.json` under RUN. Whoever creates it holds it, and writes it anew every third of its time. One
who waits takes it over, with `If-Match`, when it did not change for its whole time by that one's own clock: no two
machines' clocks are compared. A holder on the same machine that is dead is not waited for.

Processes that work on one computation together, as the pods of a workflow do, name the same owner and share it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from steps.errors import NotFoundError, ReelscanError, StoppedError, StorageError, TimeLimitError
from steps.store import Store

LEASE_KEY = "lease.json"
MAX_LEASE_SECONDS = 3600.0
"""Of a lease that somebody else wrote."""
_RENEWALS = 3
_CANCEL_POLL_SECONDS = 0.2
_MOST_POLL_SECONDS = 2.0


class Lease:
    """The lease on the run in a store, for one holder. `with` acquires and releases it.

    Args:
        store: The RUN.
        seconds: For which it holds without a renewal.
        owner: Who share the lease name the same; by default nobody does.
    """

    def __init__(self, store: Store, seconds: float, owner: str | None = None) -> None:
        self._store = store
        self._seconds = seconds
        self._shared = owner is not None
        self._owner = owner or uuid.uuid4().hex
        self._renewals = 0
        self._tag: str | None = None
        self._held_since = 0.0
        self._lost = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(
        self,
        wait_seconds: float = 21600.0,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        until: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Become the holder, or wait until that is no longer needed.

        Args:
            wait_seconds: For another holder, at most.
            cancelled: Asked a few times a second.
            until: Asked now and then while another holds it: whether what the lease is for is done.

        Returns:
            True: this is the holder until `release`. False: `until` came true.

        Raises:
            TimeLimitError: another held it all the time.
            StoppedError: cancelled.
            StorageError: the store failed.
        """
        deadline = time.monotonic() + wait_seconds
        seen_tag, seen_since = "", 0.0
        while not self._create():
            if until():
                return False
            try:
                current = self._store.get(LEASE_KEY)
            except NotFoundError:
                continue
            now = time.monotonic()
            if current.etag != seen_tag:
                seen_tag, seen_since = current.etag, now
            holder = _Holder(current.data, self._seconds)
            if holder.owner == self._owner or holder.is_gone() or now - seen_since >= holder.seconds:
                if self._take_over(current.etag):
                    break
                continue
            if now > deadline:
                raise TimeLimitError(
                    f"{self._store.url}{LEASE_KEY}: {holder.name} has computed this run for {wait_seconds:g} s; "
                    "wait longer, or stop it"
                )
            self._pause(min(_MOST_POLL_SECONDS, holder.seconds / 4), deadline, cancelled)
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return True

    @property
    def lost(self) -> bool:
        """Whether another may compute the run by now: the lease was taken over, or could not be renewed in time."""
        return self._lost or time.monotonic() >= self._held_since + self._seconds

    def check(self) -> None:
        """Raise StorageError if the lease is lost."""
        if self.lost:
            raise StorageError(
                f"{self._store.url}{LEASE_KEY}: the lease was lost, since it could not be renewed for "
                f"{self._seconds:g} s (REELSCAN_LEASE_SECONDS); another process may compute this run now"
            )

    def leave(self) -> None:
        """Stop renewing and leave the lease to those who share it. Without any it runs out by itself."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def release(self) -> None:
        """Let the next one in at once. A store that fails does not matter: the lease runs out by itself."""
        self.leave()
        if self._tag is not None:
            with contextlib.suppress(ReelscanError):
                self._store.replace(LEASE_KEY, self._content(released=True), self._tag)
            self._tag = None

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _create(self) -> bool:
        before = time.monotonic()
        return self._hold(self._store.create(LEASE_KEY, self._content()), before)

    def _take_over(self, etag: str) -> bool:
        before = time.monotonic()
        return self._hold(self._store.replace(LEASE_KEY, self._content(), etag), before)

    def _hold(self, tag: str | None, since: float) -> bool:
        if tag is None:
            return False
        self._tag, self._held_since = tag, since
        return True

    def _renew(self) -> None:
        while not self._stopped.wait(self._seconds / _RENEWALS) and self._tag is not None:
            try:
                if not self._take_over(self._tag) and not self._renew_with_others():
                    self._lost, self._tag = True, None
            except ReelscanError:
                # The time that is left decides: see `lost`.
                continue

    def _renew_with_others(self) -> bool:
        """Renew a lease that one of those who share it has renewed since. False: it is another's now."""
        while True:
            try:
                current = self._store.get(LEASE_KEY)
            except NotFoundError:
                return False
            holder = _Holder(current.data, self._seconds)
            if holder.owner != self._owner or holder.is_gone():
                return False
            if self._take_over(current.etag):
                return True

    def _pause(self, seconds: float, deadline: float, cancelled: Callable[[], bool]) -> None:
        end = min(time.monotonic() + seconds, deadline)
        while True:
            if cancelled():
                raise StoppedError(f"stopped while waiting for {self._store.url}{LEASE_KEY}")
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _CANCEL_POLL_SECONDS))

    def _content(self, *, released: bool = False) -> bytes:
        """Different at every call, so that a tag stands for one writing."""
        self._renewals += 1
        document = {
            "owner": self._owner,
            # Of those who share it one may end while the others go on.
            "machine": None if self._shared else _machine(),
            "pid": None if self._shared else os.getpid(),
            "seconds": self._seconds,
            "renewals": self._renewals,
            "released": released,
        }
        return json.dumps(document).encode()


class _Holder:
    """What a lease says of who holds it. One that cannot be read counts as held for the reader's own time."""

    def __init__(self, data: bytes, default_seconds: float) -> None:
        document: Any
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        self._fields: dict[str, Any] = document if isinstance(document, dict) else {}
        seconds = self._fields.get("seconds")
        self.seconds = default_seconds
        if isinstance(seconds, int | float) and seconds > 0:
            self.seconds = min(float(seconds), MAX_LEASE_SECONDS)

    @property
    def owner(self) -> str:
        """As it names itself."""
        return str(self._fields.get("owner"))

    @property
    def name(self) -> str:
        """Who it is, for people to read."""
        if self._fields.get("pid") is None:
            return self.owner[:100]
        return f"process {self._fields.get('pid')} on {str(self._fields.get('machine'))[:100]}"

    def is_gone(self) -> bool:
        """Whether it released the lease, or died on this machine."""
        if self._fields.get("released") is True:
            return True
        pid = self._fields.get("pid")
        if self._fields.get("machine") != _machine() or not isinstance(pid, int) or pid <= 0:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False


def _machine() -> str:
    """Names where a process id means something: host, boot, and namespace of process ids."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    except OSError:
        # Not Linux: the host's name has to do.
        pass
    return "/".join(parts)

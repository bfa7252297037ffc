"""Chunks of a run in parallel: each is a `reelscan detect` in a process of its own, started again if it breaks down."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from steps.errors import ReelscanError, StoppedError, TimeLimitError
from steps.processes import SERVING_MALLOC, last_line, read_progress, reelscan_command, settings_variables, spawn, stop
from steps.shards import write_chunk_error

if TYPE_CHECKING:
    from steps.plan import Chunk, Plan
    from steps.settings import Settings
    from steps.store import Store

MAX_RETRIES = 3
RETRY_SECONDS = 0.5
"""Before the first retry of a chunk; each further one waits twice as long."""

POLL_SECONDS = 0.1
_NEVER_RETRIED = (2, 3)
_NOTED = (3, 4)
"""With these detect has noted itself why the chunk has no shard."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Attempt:
    """A chunk that waits for its turn, for the first time or again."""

    chunk: Chunk
    retries: int = 0
    not_before: float = 0.0


@dataclass
class _Worker:
    """A chunk's process."""

    attempt: _Attempt
    process: subprocess.Popen[bytes]
    progress: Path
    messages: Path
    started: float = field(default_factory=time.monotonic)

    def done_frames(self) -> int:
        """What the process last wrote of its progress, 0 before that."""
        progress = read_progress(self.progress)
        return 0 if progress is None else progress[0]


class Workers:
    """Analyses chunks, as many at a time as `jobs`, and keeps account of their frames.

    Args:
        store: where the RUN's files are.
        settings: handed on to the processes; `serving` is the model server's address.
        jobs: processes at a time.
        advance: is told the frames done since the start.
        note: is told of each retry and failure, in one line.
        check: is called again and again; what it raises ends the work.
    """

    def __init__(
        self, store: Store, plan: Plan, settings: Settings, *, jobs: int,
        advance: Callable[[int], None], note: Callable[[str], None], check: Callable[[], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._plan = plan
        self._settings = settings
        self._jobs = jobs
        self._advance = advance
        self._note = note
        self._check = check
        self._environment = self._make_environment()
        self._waiting: list[_Attempt] = []
        self._running: list[_Worker] = []
        self._finished_frames = 0

    def analyse(self, chunks: list[Chunk], deadline: float) -> None:
        """Give each chunk its shard, or where that fails a note that says why.

        Args:
            chunks: those to analyse, in order.
            deadline: of `time.monotonic`; what is not done then gets the note `timeout`.

        Raises:
            ReelscanError: what `check` raised, or the store failed.
        """
        self._waiting = [_Attempt(chunk) for chunk in chunks]
        with tempfile.TemporaryDirectory(prefix="reelscan-chunks-") as folder:
            try:
                while self._waiting or self._running:
                    self._check()
                    now = time.monotonic()
                    if now > deadline:
                        self._give_up(TimeLimitError("the job's time limit (REELSCAN_JOB_TIMEOUT_SECONDS) passed"))
                        return
                    self._start_due(Path(folder), now)
                    self._collect_ended(now)
                    self._advance(self._finished_frames + sum(worker.done_frames() for worker in self._running))
                    time.sleep(POLL_SECONDS)
            finally:
                stop(worker.process for worker in self._running)

    def _start_due(self, folder: Path, now: float) -> None:
        for attempt in list(self._waiting):
            if len(self._running) >= self._jobs:
                return
            if attempt.not_before <= now:
                self._waiting.remove(attempt)
                self._running.append(self._start(attempt, folder))

    def _start(self, attempt: _Attempt, folder: Path) -> _Worker:
        stem = f"{attempt.chunk.index}-{attempt.retries}"
        progress, messages = folder / f"{stem}.progress", folder / f"{stem}.log"
        command = reelscan_command(
            "detect", "--run", self._store.url, "--chunk", str(attempt.chunk.index), "--progress-file", str(progress)
        )  # fmt: skip
        with messages.open("wb") as file:
            process = spawn(command, environment=self._environment, stderr=file)
        return _Worker(attempt, process, progress, messages)

    def _collect_ended(self, now: float) -> None:
        for worker in list(self._running):
            status = worker.process.poll()
            if status is None and now - worker.started > self._settings.chunk_timeout_seconds + 60:
                # It ends by itself at its time limit, unless it hangs in a library.
                stop([worker.process])
                status = worker.process.returncode
            if status is None:
                continue
            self._running.remove(worker)
            if status == 0:
                self._finished_frames += worker.attempt.chunk.frames
            else:
                self._retry_or_fail(worker, status, now)

    def _retry_or_fail(self, worker: _Worker, status: int, now: float) -> None:
        attempt, chunk = worker.attempt, worker.attempt.chunk
        said = last_line(worker.messages) or "it said nothing"
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        what = f"chunk {chunk.index} (frames {chunk.name}) {how}: {said}"
        if status not in _NEVER_RETRIED and attempt.retries < MAX_RETRIES:
            self._note(f"{what}; trying again ({attempt.retries + 1} of {MAX_RETRIES})")
            wait_seconds = RETRY_SECONDS * 2**attempt.retries
            self._waiting.insert(0, _Attempt(chunk, attempt.retries + 1, now + wait_seconds))
            return
        self._note(what)
        if status not in _NOTED:
            code = StoppedError.code if status in (143, -15) else ReelscanError.code
            write_chunk_error(self._store, self._plan, chunk, code, what)

    def _give_up(self, error: TimeLimitError) -> None:
        stop(worker.process for worker in self._running)
        unfinished = [attempt.chunk for attempt in self._waiting] + [w.attempt.chunk for w in self._running]
        self._note(f"{error}; {len(unfinished)} chunks are left out")
        for chunk in unfinished:
            write_chunk_error(self._store, self._plan, chunk, error.code, str(error))

    def _make_environment(self) -> dict[str, str]:
        settings = self._settings
        if not settings.decode_threads:
            settings = settings.model_copy(update={"decode_threads": max(1, cores() // self._jobs)})
        return {**os.environ, **SERVING_MALLOC, **settings_variables(settings)}

"""`reelscan up`: takes tasks from the queue one after another, does them on this machine, reports each."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from local.view import JobView
from steps.completed import Completed, StepError, completed_from_error, completed_from_summary
from steps.errors import InvalidTaskError, NotFoundError, OutsideError, ReelscanError, StorageError, UsageError
from steps.job import Job, ModelServer
from steps.ledger import Ledger, Outbox, safe_name
from steps.planner import load_plan
from steps.queues import MAX_VISIBILITY_SECONDS, MAX_WAIT_SECONDS, Message, Queues, ReceiptLostError
from steps.store import Store, open_store
from steps.task import Received, parse_message
from steps.timestamps import utc_now
from steps.visibility import VisibilityKeeper

if TYPE_CHECKING:
    from datetime import datetime

    from steps.plan import Plan
    from steps.settings import Settings
    from steps.task import Task

VISIBILITY_SECONDS = 60.0
"""How long a message stays hidden after this process has died; while it lives that is renewed."""
MAX_TRIES = 20
"""Receipts of a message after which its tasks are reported as failed: what ends a process ends the next one too."""
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0


class Service:
    """Receives, works, reports, deletes: at least once for every task, whatever happens in between.

    Args:
        settings: with task, completed and dead-letter queue and results.
        server: the model server.
        view: shows what runs.
        processes: chunks analysed at a time; 0 is as many as the cores allow.
        visibility_seconds: see `VISIBILITY_SECONDS`.

    Raises:
        UsageError: the settings name no queue or no results.
    """

    def __init__(
        self, settings: Settings, server: ModelServer, view: JobView, *, processes: int = 0,
        visibility_seconds: float = VISIBILITY_SECONDS,
    ) -> None:  # fmt: skip
        if settings.results is None:
            raise UsageError("no place for results is set; set REELSCAN_RESULTS to s3://BUCKET/PREFIX or a folder")
        if settings.task_queue is None:
            raise UsageError("no task queue is set; set REELSCAN_TASK_QUEUE to its name or URL")
        self._settings = settings
        self._task_queue = settings.task_queue
        self._results = open_store(settings.results, settings)
        self._server = server
        self._view = view
        self._processes = processes
        self._visibility_seconds = visibility_seconds
        self._queues = Queues(settings)
        self._ledger = Ledger(self._results.below("ledger"))
        self._outbox = Outbox(self._ledger, self._queues, settings)

    def check_places(self) -> None:
        """See whether the queues are there and the ledger can be written.

        Raises:
            UsageError: one is not there; the variable that names it is told.
            AccessDeniedError: SQS refuses to tell.
            OutsideError: SQS or S3 cannot be reached.
        """
        for queue in (self._task_queue, self._settings.completed_queue, self._settings.dead_letter_queue):
            self._queues.check(queue or "")
        self._ledger.check()

    def serve(self, *, once: bool) -> None:
        """Work until stopped; with `once` until the queue is empty.

        Raises:
            KeyboardInterrupt: a message that was being worked on is visible to others again.
            UsageError, AccessDeniedError: the task queue does not exist, or may not be read.
        """
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while True:
            try:
                message = self._receive(1 if once else MAX_WAIT_SECONDS)
                if message is None and once and self._queues.is_empty(self._task_queue):
                    return
                if message is not None:
                    self._handle(message)
                backoff_seconds = FIRST_BACKOFF_SECONDS
            except OutsideError as error:
                self._view.note(f"{error}; trying again in {backoff_seconds:g} s")
                time.sleep(backoff_seconds)
                backoff_seconds = min(backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)

    def _receive(self, wait_seconds: float) -> Message | None:
        messages = self._queues.receive(
            self._task_queue, wait_seconds=wait_seconds, visibility_seconds=self._visibility_seconds
        )
        return messages[0] if messages else None

    def _handle(self, message: Message) -> None:
        """Do and report the tasks of a message, then delete it.

        Raises:
            OutsideError: a task could not be reported. The message appears again when its visibility ends; what is
                done is then found done.
        """
        received_at = utc_now()

        def tell_lost() -> None:
            # No reason to stop: the lease and the ledger see to it that the work and the report are one.
            self._view.note(f"message {message.id}: could not be kept hidden; another may work on it too")

        keeper = VisibilityKeeper(
            self._queues,
            self._task_queue,
            message,
            seconds=self._visibility_seconds,
            max_seconds=MAX_VISIBILITY_SECONDS,
            on_lost=tell_lost,
        )
        try:
            with keeper:
                for received in parse_message(message.body.encode(), message.id, self._settings):
                    self._account_for(received, received_at, message.receive_count)
        except KeyboardInterrupt:
            self._give_back(message)
            raise
        try:
            self._queues.delete(self._task_queue, message.receipt)
        except ReceiptLostError:
            if not keeper.lost.is_set():
                self._view.note(f"message {message.id}: was taken for lost while it was worked on; it may come again")

    def _give_back(self, message: Message) -> None:
        # What fails here fails because the queue is out of reach: then the message appears when its time is up.
        with contextlib.suppress(ReelscanError, ReceiptLostError):
            self._queues.set_visibility(self._task_queue, message.receipt, 0)

    def _account_for(self, received: Received, received_at: datetime, receive_count: int) -> None:
        """See to it that a task is done and reported, unless that has happened before."""
        outcome = self._outbox.resume(received.task_id, received.body, wait=True)
        if outcome is None:
            if receive_count > MAX_TRIES:
                reason = f"received {receive_count} times, and each time the process that worked on it ended"
                failure = StepError.make(ReelscanError.code, reason, "detect")
                completed = completed_from_error(received, failure, received_at=received_at)
            else:
                completed = self._do(received, received_at)
            outcome = self._outbox.report(completed, received.body, wait=True)
        said_before = " before" if outcome.state == "already_sent" else ""
        self._view.note(describe(outcome.completed) + said_before)

    def _do(self, received: Received, received_at: datetime) -> Completed:
        """Do a task; gives the message that tells what became of it."""
        if received.task is None:
            error = received.error or InvalidTaskError("the message holds no task")
            return completed_from_error(received, StepError.of(error, "plan"), received_at=received_at)
        stores: list[Store] = []
        self._view.start(received.task.object.rpartition("/")[2])
        try:
            return self._compute(received, received.task, received_at, stores.append)
        except ReelscanError as error:
            failure = StepError.of(error, self._view.step or "plan")
        except Exception as error:
            for line in traceback.format_exc().splitlines():
                self._view.note(line)
            reason = f"{type(error).__name__}: {error}"
            failure = StepError.make(ReelscanError.code, reason, self._view.step or "plan")
        finally:
            self._view.pause()
        plan = _plan_in(stores[-1]) if stores else None
        return completed_from_error(received, failure, received_at=received_at, plan=plan)

    def _compute(
        self, received: Received, task: Task, received_at: datetime, opened: Callable[[Store], None]
    ) -> Completed:
        def open_run(run: str) -> Store:
            store = self._results.below(run)
            opened(store)
            return store

        result = Job(
            bucket=task.bucket,
            key=task.object,
            options=task.options,
            settings=self._settings,
            open_run=open_run,
            server=self._server,
            processes=self._processes,
            # The same task, received again after a stop, goes on with what it computed.
            force_nonce=safe_name(received.task_id),
            observer=self._view,
        ).run()
        return completed_from_summary(received, result.summary, result.store, received_at=received_at)


def describe(completed: Completed) -> str:
    """A completed message in one line for people."""
    where = "" if completed.task is None else f" s3://{completed.task.bucket}/{completed.task.object}"
    start = f"task {completed.task_id}{where}: {completed.status}"
    if completed.error is not None:
        return f"{start}: {completed.error.code}: {completed.error.message}"
    return f"{start} after {completed.wall_seconds:.1f} s, {found_text(completed)}: {completed.results}"


def found_text(completed: Completed) -> str:
    """The detections by label: `person 67, tv 28`."""
    labels = completed.detections_by_label or {}
    most = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{label} {count}" for label, count in most) or "nothing found"


def _plan_in(store: Store) -> Plan | None:
    try:
        return load_plan(store)
    except (NotFoundError, StorageError):
        return None

"""Reports what nothing else has reported: the last resort that makes every task accounted for.

A run reports its tasks itself, by its last step or its exit handler. What was terminated, deleted or never valid
cannot. Such a Workflow stays, by its finalizer, until a pass of this has seen to it that the ledger has an entry for
each of its tasks.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from events.dead_letters import DeadLetters
from events.kubernetes import ConflictError, Namespace
from events.runs import COMPLETED_LABEL, FINALIZER, NAME_START, PHASE_LABEL, STEP, Metadata, RunObject
from steps.completed import StepError
from steps.errors import BadInputError, NotFoundError, OutsideError, ReelscanError
from steps.finish import TaskError, finish
from steps.reporting import Origin, Reporter
from steps.timestamps import utc_now, utc_text

if TYPE_CHECKING:
    from steps.queues import Message, Queues
    from steps.settings import Settings
    from steps.store import Store

PHASELESS_SECONDS = 120
"""How much older than the reconciler's own Workflow, which Argo has begun, one must be that it has not begun."""
UNDELIVERED_SELECTOR = "reelscan.dev/undelivered=true"
"""Of the ConfigMaps by which the Sensor hands on messages of which it could not make a Workflow."""
MOST_DEAD_LETTERS = 1000
"""Looked at in one pass."""
MOST_FAILURES = 3
"""In a row, after which a pass ends: S3, SQS or Kubernetes is away, and the next pass will find out."""


@dataclass(frozen=True)
class Finding:
    """A task that nothing else had reported."""

    task_id: str
    code: str
    message: str
    workflow: str | None


@dataclass
class Report:
    """What a pass came to."""

    findings: list[Finding] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    """Workflows whose finalizer was removed."""
    waiting: int = 0
    """Workflows that are to be accounted for and are not yet: another is sending, or something failed."""
    failures: list[ReelscanError] = field(default_factory=list)
    dead_letters: int = 0
    """Messages on the dead-letter queue, those included that are being looked at."""
    queued: int = 0
    """Messages on the task queue that nobody has received."""


class Reconciler:
    """One pass over a namespace. Safe to run twice at once: every report goes through the outbox.

    Args:
        namespace: of the Workflows.
        settings: the deployment's, as the steps have them.
        queues: to send by.
        results: the store of the results, with the ledger.
        own_created_at: when the Workflow that this runs in was made: what is much older and has not begun never
            will. None: such Workflows are left alone, since Argo itself may be away.
    """

    def __init__(
        self, namespace: Namespace, settings: Settings, queues: Queues, results: Store,
        own_created_at: datetime | None = None,
    ) -> None:  # fmt: skip
        self._namespace = namespace
        self._settings = settings
        self._queues = queues
        self._results = results
        self._own_created_at = own_created_at
        self._report = Report()
        self._failures_in_a_row = 0

    def reconcile(self) -> Report:
        """Account for all that is due. Raises ReelscanError if not even a list can be had; see `Report.failures`."""
        for metadata in self._namespace.list_metadata("workflows"):
            due = Metadata(metadata)
            if due.is_accounted:
                # `argo retry` began another attempt of one that had been accounted for.
                if due.is_from_message and not due.has_ended and not due.is_being_deleted:
                    self._try(partial(self._hold, due))
            elif self._is_due(due):
                self._report.waiting += 1
                self._try(partial(self._account, due))
            if self._gives_up():
                return self._report
        for metadata in self._namespace.list_metadata("configmaps", UNDELIVERED_SELECTOR):
            name = str(metadata["name"])
            self._try(partial(self._account_undelivered, name))
            if self._gives_up():
                return self._report
        self._try(self._account_strays)
        self._try(self._count)
        return self._report

    def _is_due(self, metadata: Metadata) -> bool:
        if metadata.has_ended or metadata.is_being_deleted:
            return True
        if metadata.phase == "Pending":
            # One that waits for its turn would notice `argo stop` only when that comes.
            return metadata.may_be_shut_down
        return not metadata.phase and self._never_begins(metadata)

    def _never_begins(self, metadata: Metadata) -> bool:
        if self._own_created_at is None:
            return False
        return metadata.created_at < self._own_created_at - timedelta(seconds=PHASELESS_SECONDS)

    def _account(self, metadata: Metadata) -> None:
        if self._is_settled(metadata):
            self._report.waiting -= 1

    def _is_settled(self, metadata: Metadata) -> bool:
        """Report what a run's tasks lack; gives whether there is nothing left to do for it."""
        document = self._namespace.find("workflows", metadata.name)
        if document is None:
            return True
        run = RunObject(document)
        goes_on = not run.metadata.has_ended and not run.metadata.is_being_deleted
        waits_for_its_turn = run.phase == "Pending" and not run.shutdown
        if run.metadata.is_accounted or waits_for_its_turn or not self._is_due(run.metadata):
            return True
        if goes_on and run.shutdown != "Terminate":
            self._namespace.patch("workflows", metadata.name, {"spec": {"shutdown": "Terminate"}})
        given = run.given()
        origin = Origin(given.received_at, metadata.name, started_at=run.started_at)
        error = run.error()
        if not self._finish(given.body, given.message_id, error, origin):
            return False
        if goes_on and not run.phase:
            self._close(run, error.message)
        self._release(run)
        return True

    def _close(self, run: RunObject, message: str) -> None:
        """Mark a run as failed that Argo could not begin: after five minutes without a phase it would make Argo's
        controller fail its health check again and again."""
        # Not now: what has just been reported must not look like an earlier attempt's.
        began = utc_text(run.metadata.created_at)
        labels = {PHASE_LABEL: "Failed", COMPLETED_LABEL: "true"}
        status = {"phase": "Failed", "message": message, "startedAt": began, "finishedAt": utc_text(utc_now())}
        self._namespace.patch("workflows", run.metadata.name, {"metadata": {"labels": labels}, "status": status})

    def _finish(self, body: bytes, message_id: str, error: StepError, origin: Origin) -> bool:
        """Report the tasks of a message that nobody has reported; gives whether all reports are on the queue."""
        reporter = Reporter(self._results, self._queues, self._settings, origin)
        finished = finish(body, message_id, [TaskError(error)], self._settings, reporter)
        for task in finished:
            completed = task.outcome.completed
            if task.is_new and completed.error is not None:
                self._report.findings.append(
                    Finding(completed.task_id, completed.error.code, completed.error.message, origin.workflow)
                )
        return all(task.outcome.state != "young" for task in finished)

    def _release(self, run: RunObject) -> None:
        finalizers = run.metadata.finalizers
        change = [
            {"op": "test", "path": "/metadata/uid", "value": run.uid},
            {"op": "test", "path": "/metadata/finalizers", "value": finalizers},
            {"op": "replace", "path": "/metadata/finalizers", "value": [f for f in finalizers if f != FINALIZER]},
        ]
        try:
            self._namespace.patch("workflows", run.metadata.name, change, form="json")
        except (ConflictError, NotFoundError):
            # Another reconciler was faster, or somebody changed it: the next pass looks again.
            return
        self._report.released.append(run.metadata.name)

    def _hold(self, metadata: Metadata) -> None:
        change = {"metadata": {"finalizers": [*metadata.finalizers, FINALIZER], "uid": metadata.fields["uid"]}}
        try:
            self._namespace.patch("workflows", metadata.name, change)
        except (ConflictError, NotFoundError):
            return

    def _account_undelivered(self, name: str) -> None:
        document = self._namespace.find("configmaps", name)
        if document is None:
            return
        data = document.get("data", {})
        message_id = str(data.get("message_id", ""))
        if self._namespace.find("workflows", NAME_START + message_id) is None:
            error = StepError.make(
                "internal",
                "no workflow could be made of the message; see the Sensor's log, and send the task again",
                STEP,
            )
            received_at = datetime.fromisoformat(document["metadata"]["creationTimestamp"])
            if not self._finish(_decoded(str(data.get("body", ""))), message_id, error, Origin(received_at)):
                return
        self._namespace.delete("configmaps", name)

    def _account_strays(self) -> None:
        """What SQS itself moved to the dead-letter queue, since nothing made a run of it."""
        if not self._settings.dead_letter_queue:
            return
        with DeadLetters(self._queues, self._settings.dead_letter_queue) as letters:
            for number, letter in enumerate(letters):
                if "task_id" not in letter.attributes and self._account_stray(letter):
                    letters.delete(letter)
                if number + 1 >= MOST_DEAD_LETTERS:
                    break

    def _account_stray(self, letter: Message) -> bool:
        if self._namespace.find("workflows", NAME_START + letter.id) is not None:
            return True
        error = StepError.make(
            "internal",
            "the message was received again and again and no workflow was made of it; send the task again",
            STEP,
        )
        return self._finish(letter.body.encode(), letter.id, error, Origin(datetime.now(UTC)))

    def _count(self) -> None:
        settings = self._settings
        if settings.dead_letter_queue:
            self._report.dead_letters = self._queues.count(settings.dead_letter_queue).all
        if settings.task_queue:
            self._report.queued = self._queues.count(settings.task_queue).visible

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
            self._failures_in_a_row = 0
        except (OutsideError, BadInputError) as error:
            self._report.failures.append(error)
            self._failures_in_a_row += 1

    def _gives_up(self) -> bool:
        return self._failures_in_a_row >= MOST_FAILURES


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()

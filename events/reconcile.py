"""Reports what nothing else has reported: the last resort that makes every task accounted for.

A run reports its tasks itself, by its last step or its exit handler. What was terminated, deleted or never valid
cannot. Such a Workflow stays, by its finalizer, until a pass of this has seen to it that the ledger has an entry for
each of its tasks.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from events.dead_letters import DeadLetters, is_stray
from events.kubernetes import ConflictError, Namespace
from events.runs import (
    COMPLETED_LABEL,
    FINALIZER,
    NAME_START,
    NEVER_BEGAN,
    PHASE_LABEL,
    STEP,
    UNDELIVERED_SELECTOR,
    Metadata,
    RunObject,
)
from steps.completed import StepError
from steps.errors import NotFoundError, ReelscanError
from steps.finish import TaskError, finish
from steps.ledger import Ledger
from steps.reporting import Origin, Reporter
from steps.timestamps import utc_now, utc_text

if TYPE_CHECKING:
    from steps.queues import Message, Queues
    from steps.settings import Settings
    from steps.store import Store

T = TypeVar("T")

PHASELESS_SECONDS = 120
"""How much older than the reconciler's own Workflow, which Argo has begun, one must be that it has not begun."""
MOST_DEAD_LETTERS = 1000
"""Looked at in one pass."""
STRAYS_SECONDS = 290.0
"""Between two looks through the dead-letter queue, which hide all letters from others for a moment."""
_STRAYS_KEY = "strays-looked-for"
"""In the ledger, written after each look."""
MOST_FAILURES = 3
"""In a row, after which a pass leaves the rest to the next one: S3, SQS or Kubernetes is away."""


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
        told: is given each task as it is reported.
    """

    def __init__(
        self, namespace: Namespace, settings: Settings, queues: Queues, results: Store,
        own_created_at: datetime | None = None, told: Callable[[Finding], None] = lambda finding: None,
    ) -> None:  # fmt: skip
        self._namespace = namespace
        self._settings = settings
        self._queues = queues
        self._results = results
        self._ledger = Ledger(results.below("ledger"))
        self._own_created_at = own_created_at
        self._told = told
        self._report = Report()

    def reconcile(self) -> Report:
        """Account for all that is due. Raises ReelscanError if not even a list can be had; see `Report.failures`."""
        # The few first: many runs that are due may take as long as a pass has.
        kept = [str(metadata["name"]) for metadata in self._namespace.list_metadata("configmaps", UNDELIVERED_SELECTOR)]
        self._each(kept, self._account_undelivered)
        self._try(self._account_strays)
        due, unheld = self._look()
        self._each(unheld, self._hold)
        settled = self._each(due, self._account)
        self._report.waiting = len(due) - settled
        self._try(self._count)
        return self._report

    def _look(self) -> tuple[list[Metadata], list[Metadata]]:
        """Workflows that are to be accounted for now, and those that lack the finalizer though they go on."""
        due, unheld = [], []
        for fields in self._namespace.list_metadata("workflows"):
            metadata = Metadata(fields)
            if not metadata.is_accounted:
                if self._is_due(metadata):
                    due.append(metadata.without_history())
            elif metadata.is_from_message and not metadata.has_ended and not metadata.is_being_deleted:
                # `argo retry` began another attempt of one that had been accounted for.
                unheld.append(metadata.without_history())
        # In another order each time: those that fail must not keep the others waiting for ever.
        random.shuffle(due)
        return due, unheld

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

    def _account(self, metadata: Metadata) -> bool:
        """Report what a run's tasks lack; gives whether there is nothing left to do for it."""
        document = self._namespace.find("workflows", metadata.name)
        if document is None:
            return True
        run = RunObject(document)
        if run.metadata.is_accounted or not self._is_due(run.metadata):
            return True
        if not run.metadata.has_ended and not run.metadata.is_being_deleted:
            if run.phase and not run.shutdown:
                return True
            run = self._terminated(run)
            if run.phase:
                # It ends now, and is reported by the next pass: a report must not come before its start.
                return False
            # Likewise: from now on Argo begins it no more.
            run = self._closed(run)
        given = run.given()
        # One that succeeded lacks nothing, unless nobody has ever reported it.
        started_at = run.started_at if run.phase != "Succeeded" else None
        origin = Origin(given.received_at, metadata.name, since=started_at or given.received_at)
        # What goes on until it is deleted must not take its own reports for those of another attempt.
        close = run.metadata.has_ended and not run.metadata.is_being_deleted
        if not self._finish(given.body, given.message_id, run.error(), origin, close=close):
            return False
        self._release(run)
        return True

    def _terminated(self, run: RunObject) -> RunObject:
        """The run once it has been told to end."""
        if run.shutdown == "Terminate":
            return run
        change = {
            "metadata": {"resourceVersion": run.metadata.fields["resourceVersion"]},
            "spec": {"shutdown": "Terminate"},
        }
        return RunObject(self._namespace.patch("workflows", run.metadata.name, change))

    def _closed(self, run: RunObject) -> RunObject:
        """The run that Argo could not begin once it is marked as failed.

        After five minutes without a phase it would make Argo's controller fail its health check again and again.
        """
        # Not now: what is reported in a moment must not look like an earlier attempt's.
        began = utc_text(run.metadata.created_at)
        labels = {PHASE_LABEL: "Failed", COMPLETED_LABEL: "true"}
        status = {"phase": "Failed", "message": NEVER_BEGAN, "startedAt": began, "finishedAt": utc_text(utc_now())}
        # Only as long as nobody else has changed it: Argo may have begun it after all.
        metadata = {"labels": labels, "resourceVersion": run.metadata.fields["resourceVersion"]}
        change = {"metadata": metadata, "status": status}
        return RunObject(self._namespace.patch("workflows", run.metadata.name, change))

    def _finish(self, body: bytes, message_id: str, error: StepError, origin: Origin, *, close: bool = False) -> bool:
        """Report the tasks of a message that nobody has reported; gives whether all reports are on the queue."""
        reporter = Reporter(self._results, self._queues, self._settings, origin)
        finished = finish(body, message_id, [TaskError(error)], self._settings, reporter, close=close)
        for task in finished:
            completed = task.outcome.completed
            if task.is_new and completed.error is not None:
                finding = Finding(completed.task_id, completed.error.code, completed.error.message, origin.workflow)
                self._report.findings.append(finding)
                self._told(finding)
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

    def _hold(self, metadata: Metadata) -> bool:
        self._namespace.patch("workflows", metadata.name, {"metadata": metadata.holding()})
        return True

    def _account_undelivered(self, name: str) -> bool:
        document = self._namespace.find("configmaps", name)
        if document is None:
            return True
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
                return False
        self._namespace.delete("configmaps", name)
        return True

    def _account_strays(self) -> bool:
        """What SQS itself moved to the dead-letter queue, since nothing made a run of it."""
        if not self._settings.dead_letter_queue or not self._strays_are_due():
            return True
        failures = 0
        with DeadLetters(self._queues, self._settings.dead_letter_queue) as letters:
            for number, letter in enumerate(letters):
                if is_stray(letter):
                    settled = self._try(partial(self._settle_stray, letters, letter))
                    failures = failures + 1 if settled is None else 0
                if number + 1 >= MOST_DEAD_LETTERS or failures >= MOST_FAILURES:
                    break
        if not failures:
            self._ledger.store.put(_STRAYS_KEY, b"")
        return True

    def _strays_are_due(self) -> bool:
        if self._own_created_at is None:
            return True
        try:
            return self._ledger.age_seconds(_STRAYS_KEY) >= STRAYS_SECONDS
        except NotFoundError:
            return True

    def _settle_stray(self, letters: DeadLetters, letter: Message) -> bool:
        accounted = self._account_stray(letter)
        if accounted:
            letters.delete(letter)
        return accounted

    def _account_stray(self, letter: Message) -> bool:
        if self._namespace.find("workflows", NAME_START + letter.id) is not None:
            return True
        error = StepError.make(
            "internal",
            "the message was received again and again and no workflow was made of it; send the task again",
            STEP,
        )
        return self._finish(letter.body.encode(), letter.id, error, Origin(datetime.now(UTC)))

    def _count(self) -> bool:
        settings = self._settings
        if settings.dead_letter_queue:
            self._report.dead_letters = self._queues.count(settings.dead_letter_queue).all
        if settings.task_queue:
            self._report.queued = self._queues.count(settings.task_queue).visible
        return True

    def _each(self, items: Sequence[T], action: Callable[[T], bool]) -> int:
        """Do something with each; gives for how many nothing is left to do. Ends when too many in a row fail."""
        done, failures = 0, 0
        for item in items:
            answer = self._try(partial(action, item))
            done += answer is True
            failures = failures + 1 if answer is None else 0
            if failures >= MOST_FAILURES:
                break
        return done

    def _try(self, action: Callable[[], bool]) -> bool | None:
        """What it gives; None if it failed, which is told in the end, and keeps nothing else from being done."""
        try:
            return action()
        except ConflictError:
            # Somebody changed the object meanwhile: the next pass looks again.
            return False
        except ReelscanError as error:
            self._report.failures.append(error)
        except Exception as error:
            self._report.failures.append(ReelscanError(f"a defect of the reconciler: {type(error).__name__}: {error}"))
        return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()

"""Reporting the tasks of a workflow. Every step can report one; what another has reported stays as it is.

Besides the entries of `steps.ledger`, for attempt N of a task::

    ledger/TASK_ID.N.reason.json    why a step gave up that may be tried again: `finish` reports that if nothing helps
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from steps.completed import Completed, StepError, completed_from_error, completed_from_summary
from steps.errors import NotFoundError
from steps.ledger import Entry, Ledger, Outbox, Outcome

if TYPE_CHECKING:
    from steps.plan import Plan
    from steps.queues import Queues
    from steps.results.summary import Summary
    from steps.settings import Settings
    from steps.store import Store
    from steps.task import Received

_REASON_SUFFIX = ".reason.json"


@dataclass(frozen=True)
class Origin:
    """Where a report comes from."""

    received_at: datetime
    """When the task's message was received: of a Workflow, when it was made."""
    workflow: str | None = None
    """Name of the Workflow, if there is one."""
    attempt: int = 1
    """Of the task, where `started_at` does not tell it."""
    started_at: datetime | None = None
    """When the Workflow was started, or last started again by `argo retry`: what was reported before that belongs to an
    earlier attempt."""


class Reporter:
    """Reports tasks by the outbox.

    Args:
        store: of the results; the ledger lies in its `ledger/`.
        queues: to send by.
        settings: with the completed and the dead-letter queue.
        origin: of the reports.
    """

    def __init__(self, store: Store, queues: Queues, settings: Settings, origin: Origin) -> None:
        self._ledger = Ledger(store.below("ledger"))
        self._outbox = Outbox(self._ledger, queues, settings)
        self._origin = origin
        self._attempts: dict[str, int] = {}

    def attempt(self, task_id: str) -> int:
        """The attempt of a task that is under way, from 1. Raises StorageError."""
        started_at = self._origin.started_at
        if started_at is None:
            return self._origin.attempt
        if task_id not in self._attempts:
            # Seen once: what this process reports itself must not look like an earlier attempt's.
            self._attempts[task_id] = self._attempt_after(self._ledger.find(task_id), started_at)
        return self._attempts[task_id]

    def _attempt_after(self, entries: list[Entry], started_at: datetime) -> int:
        """The attempt that began at a time.

        A Workflow that `argo retry` started again keeps its name and its time of creation. One that was made anew for
        the same message, since SQS or the bus delivered it again when the first was gone, goes on with the attempt that
        it finds.
        """
        attempt = 1
        for entry in entries:
            completed_at = datetime.fromisoformat(entry.completed.completed_at)
            if completed_at < self._origin.received_at:
                attempt = entry.attempt
            elif completed_at < started_at:
                attempt = entry.attempt + 1
        return attempt

    def resume(self, received: Received, *, wait: bool = True) -> Outcome | None:
        """See to it that what was reported of this attempt is sent; None if nothing was reported."""
        return self._outbox.resume(received.task_id, received.body, self.attempt(received.task_id), wait=wait)

    def report_summary(self, received: Received, summary: Summary, store: Store) -> Completed:
        """Report a task that a run answers.

        Args:
            received: The task.
            summary: Of its run.
            store: The run.

        Raises:
            OutsideError: S3 or SQS failed; call again.
        """
        completed = completed_from_summary(
            received,
            summary,
            store,
            received_at=self._origin.received_at,
            attempt=self.attempt(received.task_id),
            workflow=self._origin.workflow,
        )
        return self._outbox.report(completed, received.body, wait=True).completed

    def report_error(
        self, received: Received, error: StepError, plan: Plan | None = None, *, wait: bool = True
    ) -> Outcome:
        """Report a task as failed.

        Args:
            received: The task.
            error: Why.
            plan: Of its run, if it came that far.
            wait: Whether to wait for another who is reporting the same task.

        Raises:
            OutsideError: S3 or SQS failed; call again.
        """
        completed = completed_from_error(
            received,
            error,
            received_at=self._origin.received_at,
            attempt=self.attempt(received.task_id),
            workflow=self._origin.workflow,
            plan=plan,
        )
        return self._outbox.report(completed, received.body, wait=wait)

    def leave_reason(self, task_id: str, error: StepError) -> None:
        """Note why a step gave up, for `reason`. Raises StorageError."""
        self._ledger.store.put(self._reason_key(task_id), error.model_dump_json().encode())

    def reason(self, task_id: str) -> StepError | None:
        """What the last step that gave up noted. Raises StorageError."""
        try:
            return StepError.model_validate_json(self._ledger.store.get(self._reason_key(task_id)).data)
        except (NotFoundError, ValueError):
            return None

    def _reason_key(self, task_id: str) -> str:
        return self._ledger.key(task_id, self.attempt(task_id), _REASON_SUFFIX)

"""Reporting the tasks of a workflow. Every step can report one; what another has reported stays as it is.

Besides the entries of `steps.ledger`, for attempt N of a task::

    ledger/TASK_ID.N.reason.json    why a step gave up that may be tried again: `finish` reports that if nothing helps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from steps.completed import Completed, StepError, completed_from_error, completed_from_summary
from steps.errors import NotFoundError
from steps.ledger import Ledger, Outbox, Outcome

if TYPE_CHECKING:
    from steps.plan import Plan
    from steps.queues import Queues
    from steps.results.summary import Summary
    from steps.settings import Settings
    from steps.store import Store
    from steps.task import Received

_REASON_SUFFIX = ".reason.json"
_CREATION_PRECISION = timedelta(seconds=1)
"""Kubernetes tells times of creation in whole seconds, rounded down."""


@dataclass(frozen=True)
class Origin:
    """Where a report comes from."""

    received_at: datetime
    """When the task's message was received: of a Workflow, when it was made."""
    workflow: str | None = None
    """Name of the Workflow, if there is one."""
    attempt: int | None = None
    """Of the task; None: as the ledger tells."""
    since: datetime | None = None
    """For those who may come when the attempt under way has been closed, as who closes it may come again: a moment
    within it. None: whoever reports begins before that."""


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

    def begin(self, tasks: Sequence[Received]) -> None:
        """Find out which attempts are under way: of a process that outlives its workflow, those at its beginning.

        Raises StorageError.
        """
        for received in tasks:
            self.attempt(received.task_id)

    def attempt(self, task_id: str) -> int:
        """The attempt of a task that is under way, from 1. Raises StorageError."""
        if self._origin.attempt is not None:
            return self._origin.attempt
        if task_id not in self._attempts:
            # Looked up once: this process belongs to one attempt, whoever closes that meanwhile.
            self._attempts[task_id] = self._attempt_under_way(task_id)
        return self._attempts[task_id]

    def _attempt_under_way(self, task_id: str) -> int:
        """The attempt after the last one that was closed.

        Only `argo retry` begins another, of a Workflow that has failed, and thus been closed by its exit handler or the
        reconciler. It keeps the Workflow's name and its time of creation. A Workflow that was made anew for the same
        message, since SQS or the bus delivered it again when the first was gone, goes on with the attempt it finds.
        """
        entries = self._ledger.find(task_id)
        if not entries:
            return 1
        attempt = entries[-1].attempt
        closure = self._ledger.closure(task_id, attempt)
        if closure is None or closure.closed_at < self._origin.received_at + _CREATION_PRECISION:
            return attempt
        since = self._origin.since
        # The same one closed it, whatever the clocks say.
        if since is not None and (since == closure.since or since <= closure.closed_at):
            return attempt
        return attempt + 1

    def close(self, task_id: str) -> None:
        """Note that the attempt under way has failed and ended. Raises StorageError."""
        self._ledger.close(task_id, self.attempt(task_id), self._origin.since)

    def error_before(self, task_id: str) -> StepError | None:
        """Why the attempt before this one failed; None if there was none. Raises StorageError."""
        entry = self._ledger.entry(task_id, self.attempt(task_id) - 1)
        return None if entry is None else entry.completed.error

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

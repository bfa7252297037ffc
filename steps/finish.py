"""Reports a message's tasks that failed: what is run when a step gave up, and when a message never held a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steps.completed import StepError
from steps.errors import ERROR_CODES, ReelscanError, StoppedError
from steps.ledger import Outcome
from steps.plan import PLAN_KEY, Plan
from steps.reporting import Reporter
from steps.task import Received, parse_message

if TYPE_CHECKING:
    from steps.settings import Settings
    from steps.store import Store


_ORDERED = (StoppedError.code, "deleted")
"""Codes of a run that somebody ended, whatever troubled it before."""


@dataclass(frozen=True)
class TaskError:
    """Why a step gave up."""

    error: StepError
    task_id: str | None = None
    """The task that it is about; None: any task of the message."""


@dataclass(frozen=True)
class Finished:
    """A task of the message, and what became of reporting it."""

    received: Received
    outcome: Outcome
    is_new: bool
    """Whether it was reported by this call, and by nobody before or at the same time."""


def finish(
    body: bytes,
    message_id: str,
    errors: Sequence[TaskError],
    settings: Settings,
    reporter: Reporter,
    *,
    run: Store | None = None,
    wait: bool = False,
    close: bool = True,
) -> list[Finished]:
    """Report every task of a message as `failed`, unless the ledger has an entry of it, which is then seen to be sent.

    What failed is closed then: a report of it after that is the next attempt's. What has a result stays open, since
    `argo retry` tries again only what failed.

    A record of several that the attempt before found wrong, and this one did not look at again, is reported as then.

    The video is not looked at, so nothing about it can keep this from reporting. Calling again is harmless.

    Args:
        body: The message as it came, whatever it holds.
        message_id: Its id, from which the tasks' ids are made.
        errors: Of the steps, in any order, besides what they noted themselves. Without any that fits, the code is
            `internal`.
        settings: The deployment's.
        reporter: To report by.
        run: Store of the tasks' RUN, if it came that far: the message then has what its plan tells.
        wait: Whether to wait for another who is reporting the same task.
        close: Whether the workflow has failed and does nothing more, unless by `argo retry`.

    Raises:
        OutsideError: S3 or SQS failed; call again.
    """
    plan = None if run is None else _plan_of(run)
    finished = []
    tasks = parse_message(body, message_id, settings)
    for received in tasks:
        outcome = reporter.resume(received, wait=wait)
        is_new = False
        if outcome is None:
            error = _error_of(received, errors, reporter, is_one_of_several=len(tasks) > 1)
            outcome = reporter.report_error(received, error, plan if received.task is not None else None, wait=wait)
            is_new = outcome.state == "sent"
        if close and outcome.state != "young" and outcome.completed.status == "failed":
            reporter.close(received.task_id)
        finished.append(Finished(received, outcome, is_new))
    return finished


def _error_of(
    received: Received, errors: Sequence[TaskError], reporter: Reporter, *, is_one_of_several: bool
) -> StepError:
    """The most telling error: what was ordered, else codes in the contract's order, the unspecific ones last."""
    if received.error is not None:
        return StepError.of(received.error, "plan")
    noted = reporter.reason(received.task_id)
    fitting = [about.error for about in errors if about.task_id in (None, received.task_id)]
    is_ordered = bool(fitting) and all(error.code in _ORDERED for error in fitting)
    if noted is not None and not is_ordered:
        fitting.insert(0, noted)
    if is_one_of_several and all(error.code == ReelscanError.code for error in fitting):
        before = reporter.error_before(received.task_id)
        if before is not None:
            return before
    if not fitting:
        return StepError.make(ReelscanError.code, "the task ended without a result, and no step said why", "finish")
    return min(fitting, key=lambda error: ERROR_CODES.index(error.code))


def _plan_of(run: Store) -> Plan | None:
    """The plan, as far as it can be had: a report must not fail for the lack of it."""
    try:
        return Plan.model_validate_json(run.get(PLAN_KEY).data)
    except (ReelscanError, ValueError):
        return None

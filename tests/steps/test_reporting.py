"""Reports of a workflow's steps: one for each attempt of a task, whichever step makes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from steps.aggregate import aggregate
from steps.completed import StepError
from steps.finish import TaskError, finish
from steps.options import OUTPUTS
from steps.queues import Queues
from steps.reporting import Origin, Reporter
from steps.settings import Settings
from steps.store import FolderStore
from steps.task import Received, parse_message
from tests.conftest import Aws
from tests.steps.runs import make_run, write_shards

BODY = json.dumps({"bucket": "videos", "object": "clip.mp4"}).encode()
ERROR = StepError.make("timeout", "took too long", "detect")


class Workflow:
    """The ledger and queues that the steps of a workflow see."""

    def __init__(self, aws: Aws, folder: Path) -> None:
        self.aws = aws
        self.settings = Settings(completed_queue=aws.make_queue(), dead_letter_queue=aws.make_queue())
        self.store = FolderStore(folder)
        self.created_at = datetime.now(UTC) - timedelta(hours=1)
        (self.received,) = parse_message(BODY, "message-1", self.settings)

    def step(self, *, since: datetime | None = None, attempt: int | None = None) -> Reporter:
        """The reporter of a pod of its own."""
        origin = Origin(self.created_at, "task-x", attempt, since)
        return Reporter(self.store, Queues(self.settings), self.settings, origin)

    def finish(self, failed_at: datetime | None = None) -> Reporter:
        """Report what failed, as the exit handler does, by a pod of its own."""
        reporter = self.step(since=failed_at or datetime.now(UTC))
        finish(BODY, "message-1", [], self.settings, reporter)
        return reporter

    def attempts(self) -> list[object]:
        return [message["attempt"] for message in self.messages()]

    def messages(self) -> list[dict[str, object]]:
        assert self.settings.completed_queue is not None
        return [json.loads(message["Body"]) for message in self.aws.messages(self.settings.completed_queue)]


@pytest.fixture
def workflow(aws: Aws, tmp_path: Path) -> Workflow:
    return Workflow(aws, tmp_path)


def test_what_was_reported_stays_this_attempt_s_until_it_has_ended(workflow: Workflow) -> None:
    workflow.step().report_error(workflow.received, ERROR)

    later = workflow.step()

    assert later.attempt("message-1") == 1
    assert later.resume(workflow.received) is not None
    workflow.finish()
    assert workflow.attempts() == [1]


def test_a_retried_workflow_reports_the_next_attempt(workflow: Workflow) -> None:
    workflow.step().report_error(workflow.received, ERROR)
    workflow.finish()

    retried = workflow.step()
    assert retried.resume(workflow.received) is None
    retried.report_error(workflow.received, ERROR)
    workflow.finish()
    workflow.step().report_error(workflow.received, ERROR)

    assert workflow.attempts() == [1, 2, 3]


def test_the_exit_handler_tells_an_attempt_in_which_no_step_came_to_report(workflow: Workflow) -> None:
    workflow.finish()
    workflow.finish(failed_at=datetime.now(UTC))
    assert workflow.attempts() == [1, 2]


def test_the_exit_handler_that_runs_again_reports_nothing_again(workflow: Workflow) -> None:
    failed_at = datetime.now(UTC)
    workflow.step().report_error(workflow.received, ERROR)
    workflow.finish(failed_at)
    workflow.finish(failed_at)
    # Argo knew of no node that had failed.
    workflow.finish(workflow.created_at)
    assert workflow.attempts() == [1]


def test_the_exit_handler_that_runs_again_knows_the_attempt_whatever_its_clock_says(workflow: Workflow) -> None:
    failed_at = datetime.now(UTC) + timedelta(minutes=1)
    workflow.finish(failed_at)
    workflow.finish(failed_at)
    assert workflow.attempts() == [1]


def test_one_that_dies_before_the_attempt_is_closed_is_followed_by_one_that_closes_it(workflow: Workflow) -> None:
    workflow.finish()
    workflow.store.below("ledger").delete("message-1.1.closed")
    workflow.finish()
    assert workflow.attempts() == [1]
    assert workflow.step().attempt("message-1") == 2


def test_a_task_that_has_a_result_is_not_answered_again(workflow: Workflow) -> None:
    """Another record of its message failed, and made the workflow fail."""
    run = workflow.store.below("run")
    plan = make_run(run, [[0, 1]])
    write_shards(run, plan)
    workflow.step().report_summary(workflow.received, aggregate(run, plan, OUTPUTS), run)
    workflow.finish()
    workflow.finish()
    assert workflow.attempts() == [1]


def test_a_workflow_that_is_made_anew_for_the_same_message_reports_nothing_again(workflow: Workflow) -> None:
    for _ in range(2):
        workflow.step().report_error(workflow.received, ERROR)
        workflow.finish()
    # The time is rounded down.
    workflow.created_at = datetime.now(UTC).replace(microsecond=0)

    remade = workflow.step()

    assert remade.attempt("message-1") == 2
    assert remade.resume(workflow.received) is not None
    remade.report_error(workflow.received, ERROR)
    assert workflow.attempts() == [1, 2]


def test_a_pod_that_outlives_its_workflow_stays_within_its_attempt(workflow: Workflow) -> None:
    late = workflow.step()
    late.begin([workflow.received])
    workflow.finish()

    late.report_error(workflow.received, ERROR)
    assert workflow.attempts() == [1]


def test_a_record_that_is_not_looked_at_again_is_reported_as_before(workflow: Workflow) -> None:
    """Planning refused it, and is not done again when another record is retried."""
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "videos"}, "object": {"key": "clip.mp4"}}}
    body = json.dumps({"Records": [record, record]}).encode()
    first, second = parse_message(body, "message-1", workflow.settings)
    workflow.step().report_error(first, StepError.make("not_found", "no video", "plan"))
    internal = [TaskError(StepError.make("internal", "a pod failed", "finish"))]
    finish(body, "message-1", internal, workflow.settings, workflow.step(since=datetime.now(UTC)))

    workflow.step().leave_reason(second.task_id, ERROR)
    finish(body, "message-1", internal, workflow.settings, workflow.step(since=datetime.now(UTC)))

    errors = [(message["task_id"], message["attempt"], message["error"]["code"]) for message in workflow.messages()]
    assert errors == [
        ("message-1-0", 1, "not_found"), ("message-1-1", 1, "internal"),
        ("message-1-0", 2, "not_found"), ("message-1-1", 2, "timeout"),
    ]  # fmt: skip


def test_an_attempt_that_is_given_is_taken(workflow: Workflow) -> None:
    workflow.step(attempt=4).report_error(workflow.received, ERROR)
    (message,) = workflow.messages()
    assert message["attempt"] == 4


def test_finish_reports_the_reason_that_a_step_left(workflow: Workflow) -> None:
    workflow.step().leave_reason("message-1", StepError.make("model_unavailable", "no server at :8500", "detect"))

    finish(BODY, "message-1", [], workflow.settings, workflow.step())

    (message,) = workflow.messages()
    assert message["error"] == {"code": "model_unavailable", "message": "no server at :8500", "step": "detect"}


def test_a_reason_of_an_earlier_attempt_is_not_taken_for_this_one_s(workflow: Workflow) -> None:
    workflow.step().leave_reason("message-1", ERROR)
    workflow.finish()
    assert workflow.step().reason("message-1") is None


def test_a_record_of_a_message_has_an_attempt_of_its_own(workflow: Workflow) -> None:
    other = Received("message-1-1", "{}", place=("videos", "other.mp4"))
    workflow.finish()

    retried = workflow.step()

    assert retried.attempt("message-1") == 2
    assert retried.attempt(other.task_id) == 1

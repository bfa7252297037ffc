"""Reports of a workflow's steps: one for each attempt of a task, whichever step makes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from steps.completed import StepError
from steps.finish import finish
from steps.queues import Queues
from steps.reporting import Origin, Reporter
from steps.settings import Settings
from steps.store import FolderStore
from steps.task import Received, parse_message
from tests.conftest import Aws

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

    def step(self, started_at: datetime | None = None, attempt: int = 1) -> Reporter:
        """The reporter of a pod of its own."""
        origin = Origin(self.created_at, "task-x", attempt, started_at)
        return Reporter(self.store, Queues(self.settings), self.settings, origin)

    def messages(self) -> list[dict[str, object]]:
        assert self.settings.completed_queue is not None
        return [json.loads(message["Body"]) for message in self.aws.messages(self.settings.completed_queue)]


@pytest.fixture
def workflow(aws: Aws, tmp_path: Path) -> Workflow:
    return Workflow(aws, tmp_path)


def test_what_was_reported_since_the_workflow_started_is_this_attempt_s(workflow: Workflow) -> None:
    started = datetime.now(UTC) - timedelta(seconds=5)
    workflow.step(started).report_error(workflow.received, ERROR)

    later = workflow.step(started)

    assert later.attempt("message-1") == 1
    assert later.resume(workflow.received) is not None
    assert len(workflow.messages()) == 1


def test_a_retried_workflow_reports_the_next_attempt(workflow: Workflow) -> None:
    workflow.step(datetime.now(UTC) - timedelta(seconds=5)).report_error(workflow.received, ERROR)

    retried = workflow.step(datetime.now(UTC) + timedelta(seconds=1))
    assert retried.resume(workflow.received) is None
    retried.report_error(workflow.received, ERROR)
    again = workflow.step(datetime.now(UTC) + timedelta(seconds=600))
    again.report_error(workflow.received, ERROR)

    assert [message["attempt"] for message in workflow.messages()] == [1, 2, 3]


def test_a_workflow_that_is_made_anew_for_the_same_message_reports_nothing_again(workflow: Workflow) -> None:
    started = workflow.created_at + timedelta(seconds=1)
    workflow.step(started).report_error(workflow.received, ERROR)
    workflow.step(datetime.now(UTC) + timedelta(seconds=1)).report_error(workflow.received, ERROR)
    workflow.created_at = datetime.now(UTC) + timedelta(hours=1)

    remade = workflow.step(workflow.created_at + timedelta(seconds=1))

    assert remade.attempt("message-1") == 2
    assert remade.resume(workflow.received) is not None
    remade.report_error(workflow.received, ERROR)
    assert [message["attempt"] for message in workflow.messages()] == [1, 2]


def test_an_attempt_stays_the_same_within_a_process_after_its_own_report(workflow: Workflow) -> None:
    """A clock that is ahead of the workflow's must not make the process's own report an earlier attempt's."""
    reporter = workflow.step(datetime.now(UTC) + timedelta(seconds=30))
    reporter.report_error(workflow.received, ERROR)

    assert reporter.attempt("message-1") == 1
    reporter.report_error(workflow.received, ERROR)
    assert len(workflow.messages()) == 1


def test_without_a_start_the_attempt_is_the_one_given(workflow: Workflow) -> None:
    workflow.step(attempt=4).report_error(workflow.received, ERROR)
    (message,) = workflow.messages()
    assert message["attempt"] == 4


def test_finish_reports_the_reason_that_a_step_left(workflow: Workflow) -> None:
    workflow.step().leave_reason("message-1", StepError.make("model_unavailable", "no server at :8500", "detect"))

    finish(BODY, "message-1", [], workflow.settings, workflow.step())

    (message,) = workflow.messages()
    assert message["error"] == {"code": "model_unavailable", "message": "no server at :8500", "step": "detect"}


def test_a_reason_of_an_earlier_attempt_is_not_taken_for_this_one_s(workflow: Workflow) -> None:
    first = workflow.step(datetime.now(UTC) - timedelta(seconds=5))
    first.leave_reason("message-1", ERROR)
    first.report_error(workflow.received, ERROR)
    assert workflow.step(datetime.now(UTC) + timedelta(seconds=1)).reason("message-1") is None


def test_a_record_of_a_message_has_an_attempt_of_its_own(workflow: Workflow) -> None:
    started = datetime.now(UTC) - timedelta(seconds=5)
    other = Received("message-1-1", "{}", place=("videos", "other.mp4"))
    workflow.step(started).report_error(workflow.received, ERROR)

    retried = workflow.step(datetime.now(UTC) + timedelta(seconds=1))

    assert retried.attempt("message-1") == 2
    assert retried.attempt(other.task_id) == 1

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from steps.completed import Completed, StepError, completed_from_error
from steps.errors import QueueError
from steps.finish import Finished, TaskError, finish
from steps.ledger import Ledger, Outbox
from steps.queues import Queues
from steps.reporting import Origin, Reporter
from steps.settings import Settings
from steps.store import FolderStore, Store
from steps.task import Received, parse_message
from tests.conftest import Aws
from tests.faults import FaultProxy
from tests.steps.runs import make_run

RECEIVED_AT = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
TASK = {"bucket": "videos", "object": "some/video.mp4", "id": "mine"}


def error(code: str, message: str = "it broke", step: str = "detect", task_id: str | None = None) -> TaskError:
    return TaskError(StepError.make(code, message, step), task_id)


class Deployment:
    def __init__(self, aws: Aws, folder: Path) -> None:
        self.aws = aws
        self.settings = Settings(
            completed_queue=aws.make_queue(), dead_letter_queue=aws.make_queue(), queue_timeout_seconds=3
        )
        self.results = FolderStore(folder)
        self.ledger = Ledger(self.results.below("ledger"))

    def finish(self, body: bytes, *errors: TaskError, run: Store | None = None) -> list[Finished]:
        return finish(body, "message-1", errors, self.settings, self.reporter(), run=run)

    def reporter(self) -> Reporter:
        # As the command does that is told of no node that failed.
        origin = Origin(received_at=RECEIVED_AT, workflow="task-x", since=RECEIVED_AT)
        return Reporter(self.results, Queues(self.settings), self.settings, origin)

    def completed(self) -> list[dict[str, Any]]:
        assert self.settings.completed_queue is not None
        return [json.loads(message["Body"]) for message in self.aws.messages(self.settings.completed_queue)]

    def dead_letters(self) -> list[dict[str, Any]]:
        assert self.settings.dead_letter_queue is not None
        return self.aws.messages(self.settings.dead_letter_queue)


@pytest.fixture
def deployment(aws: Aws, tmp_path: Path) -> Deployment:
    return Deployment(aws, tmp_path)


def records(*keys: Any) -> bytes:
    return json.dumps(
        {
            "Records": [
                {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "videos"}, "object": {"key": key}}}
                for key in keys
            ]
        }
    ).encode()


def test_a_task_whose_step_failed_is_reported_with_its_error(deployment: Deployment) -> None:
    (finished,) = deployment.finish(json.dumps(TASK).encode(), error("not_found", "no such key", "plan"))

    (message,) = deployment.completed()
    assert finished.outcome.state == "sent"
    assert message["status"] == "failed"
    assert message["error"] == {"code": "not_found", "message": "no such key", "step": "plan"}
    assert (message["task_id"], message["id"], message["workflow"]) == ("message-1", "mine", "task-x")
    assert message["received_at"] == "2026-05-01T09:30:00.000000Z"
    (letter,) = deployment.dead_letters()
    assert json.loads(letter["Body"]) == TASK
    assert letter["MessageAttributes"]["task_id"]["StringValue"] == "message-1"


def test_with_the_plan_the_message_tells_of_the_video(deployment: Deployment, tmp_path: Path) -> None:
    run = FolderStore(tmp_path / "run")
    plan = make_run(run, [[0, 1], [2]])
    deployment.finish(json.dumps(TASK).encode(), error("timeout"), run=run)

    (message,) = deployment.completed()
    assert message["run"] == plan.run
    assert message["video"]["codec"] == "h264"
    assert message["frames"]["missing"] == [{"start_frame": 0, "end_frame": 2, "code": "timeout"}]


@pytest.mark.parametrize("data", [None, b"damaged", b"{}"])
def test_without_a_plan_that_can_be_read_it_is_reported_all_the_same(
    deployment: Deployment, tmp_path: Path, data: bytes | None
) -> None:
    run = FolderStore(tmp_path / "run")
    if data is not None:
        run.put("plan.json", data)
    deployment.finish(json.dumps(TASK).encode(), error("timeout"), run=run)

    (message,) = deployment.completed()
    assert (message["run"], message["video"], message["frames"]) == (None, None, None)
    assert message["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("codes", "reported"),
    [
        ([], "internal"),
        (["internal", "stopped", "model_unavailable"], "model_unavailable"),
        (["stopped", "internal"], "stopped"),
        (["timeout", "too_large"], "too_large"),
        (["no code of the contract"], "internal"),
    ],
)
def test_of_several_errors_the_most_telling_one_is_reported(
    deployment: Deployment, codes: list[str], reported: str
) -> None:
    deployment.finish(json.dumps(TASK).encode(), *(error(code) for code in codes))

    assert [message["error"]["code"] for message in deployment.completed()] == [reported]


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"null", b"{}", b"\xff\xfe", b'{"bucket": "videos"}', b"[" * 50_000, b"x" * 70_000,
     b'{"Records": []}', b'{"Records": [{}]}', b'{"bucket": "videos", "object": "x", "fpss": 1}',
     json.dumps({**TASK, "object": "\x00\x1b[31m\uffff"}).encode(), base64.b64encode(b"{}")],
)  # fmt: skip
def test_a_message_that_holds_no_task_is_reported_and_sent_to_the_dead_letters(
    deployment: Deployment, body: bytes
) -> None:
    deployment.finish(body)

    (message,) = deployment.completed()
    assert message["status"] == "failed"
    # A key of control characters is a valid one.
    assert message["error"]["code"] == ("internal" if b"u001b" in body else "invalid_task")
    assert len(deployment.dead_letters()) == 1


@pytest.mark.parametrize("body", [json.dumps(TASK).encode(), records("a", "b"), records("a"), b"not json"])
def test_a_dead_letter_is_the_same_task_when_it_is_sent_again(deployment: Deployment, body: bytes) -> None:
    received = parse_message(body, "message-1", deployment.settings)
    deployment.finish(body)

    letters = {letter["MessageAttributes"]["task_id"]["StringValue"]: letter for letter in deployment.dead_letters()}
    assert set(letters) == {one.task_id for one in received}
    for one in received:
        (again,) = parse_message(letters[one.task_id]["Body"].encode(), "message-2", deployment.settings)
        assert again.task == one.task


@pytest.mark.parametrize("code", ["stopped", "deleted"])
def test_a_run_that_somebody_ended_is_reported_so_whatever_troubled_it_before(
    deployment: Deployment, code: str
) -> None:
    deployment.reporter().leave_reason("message-1", StepError.make("model_unavailable", "no server", "detect"))
    deployment.finish(json.dumps(TASK).encode(), error(code))
    assert [message["error"]["code"] for message in deployment.completed()] == [code]


def test_each_record_of_a_notification_is_reported_with_its_own_error(deployment: Deployment) -> None:
    body = records("good.mp4", {}, "other.mp4")
    deployment.finish(body, error("not_a_video", task_id="message-1-0"), error("timeout", task_id="message-1-2"))

    messages = {message["task_id"]: message for message in deployment.completed()}
    assert {task_id: message["error"]["code"] for task_id, message in messages.items()} == {
        "message-1-0": "not_a_video",
        "message-1-1": "invalid_task",
        "message-1-2": "timeout",
    }
    assert messages["message-1-0"]["task"] == {"bucket": "videos", "object": "good.mp4"}
    assert len(deployment.dead_letters()) == 3


def test_s3_s_test_event_is_nothing_to_report(deployment: Deployment) -> None:
    assert deployment.finish(b'{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "videos"}') == []
    assert deployment.completed() == []


def test_a_task_that_was_reported_before_is_left_as_it_was(deployment: Deployment) -> None:
    body = records("done.mp4", "lost.mp4")
    done = Received("message-1-0", "{}", place=("videos", "done.mp4"))
    succeeded = completed_from_error(done, StepError.make("internal", "x", "plan"), received_at=RECEIVED_AT).model_copy(
        update={"status": "succeeded", "error": None}
    )
    Outbox(deployment.ledger, Queues(deployment.settings), deployment.settings).report(succeeded, "{}")
    deployment.completed()

    first, second = deployment.finish(body, error("timeout"))

    assert (first.outcome.state, first.outcome.completed.status) == ("already_sent", "succeeded")
    assert (second.outcome.state, second.outcome.completed.status) == ("sent", "failed")
    assert [message["task_id"] for message in deployment.completed()] == ["message-1-1"]


def test_an_entry_that_is_being_sent_by_another_is_left_to_that_one(deployment: Deployment) -> None:
    entry = completed_from_error(
        Received("message-1", "{}"), StepError.make("timeout", "x", "plan"), received_at=RECEIVED_AT
    )
    deployment.ledger.store.create("message-1.1.completed.json", entry.to_bytes())

    (finished,) = deployment.finish(json.dumps(TASK).encode(), error("stopped"))

    assert finished.outcome.state == "young"
    assert finished.outcome.completed == entry
    assert deployment.completed() == []


def test_finishing_again_reports_nothing_again(deployment: Deployment) -> None:
    for _ in range(3):
        deployment.finish(json.dumps(TASK).encode(), error("timeout"))

    assert len(deployment.completed()) == 1
    assert len(deployment.dead_letters()) == 1


def test_when_sqs_fails_it_says_so_and_the_next_call_reports(
    deployment: Deployment, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults.inject("throttle", "SendMessage", times=3)
    with pytest.raises(QueueError):
        deployment.finish(json.dumps(TASK).encode(), error("timeout"))
    entry = deployment.ledger.entry("message-1")
    assert entry is not None
    assert not entry.sent
    deployment.settings = deployment.settings.model_copy(update={"resend_after_seconds": 0})

    (finished,) = deployment.finish(json.dumps(TASK).encode(), error("stopped"))

    assert finished.outcome.state == "sent"
    assert deployment.completed() == [json.loads(Completed.from_bytes(entry.data).to_bytes())]


def test_the_video_and_its_bucket_are_not_asked_for(deployment: Deployment, faults: FaultProxy) -> None:
    deployment.finish(json.dumps({**TASK, "bucket": "no-such-bucket"}).encode(), error("not_found"))

    assert faults.count("^(GET|HEAD|PUT) ") == 0
    assert len(deployment.completed()) == 1

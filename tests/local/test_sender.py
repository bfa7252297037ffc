"""Putting tasks on the queue, and following the ledger."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from local.outcomes import error_for, raise_for_outcomes
from local.sender import check_embedded, make_tasks, message_options, send_tasks, upload, wait_for_tasks
from steps.completed import Completed
from steps.errors import (
    ERROR_CODES,
    AccessDeniedError,
    BadInputError,
    InvalidTaskError,
    NotAVideoError,
    NotFoundError,
    OutsideError,
    PartialResultError,
    QueueError,
    ReelscanError,
    TimeLimitError,
    UsageError,
)
from steps.task import parse_message
from tests.local.conftest import Deployment, Desk
from tests.media.library import ClipLibrary

EMPTY: dict[str, Any] = {}


def completed(task_id: str = "t", **changes: Any) -> Completed:
    fields = {
        "task_id": task_id,
        "attempt": 1,
        "id": None,
        "status": "succeeded",
        "task": {"bucket": "b", "object": "o"},
        "options": None,
        "model": None,
        "workflow": None,
        "run": None,
        "received_at": "2026-01-01T00:00:00Z",
        "completed_at": "2026-01-01T00:00:01Z",
        "video": None,
        "frames": {"planned": 10, "analysed": 10, "missing": []},
        "detections_by_label": {},
        "results": "s3://results/run/",
        "files": {},
        "frame_records": None,
        "seconds": None,
        "wall_seconds": 1.0,
        "error": None,
    }
    return Completed.model_validate({**fields, **changes})


def failed(code: str, task_id: str = "t") -> Completed:
    return completed(task_id, status="failed", error={"code": code, "message": "because", "step": "plan"})


PARTIAL = completed("p", status="partial", frames={"planned": 10, "analysed": 7, "missing": []})


def test_flags_become_the_fields_of_a_message_and_absent_ones_are_left_to_the_service() -> None:
    texts = {"fps": "2.5", "labels": "person, dog", "force": "true", "chunk_seconds": "auto", "min_score": None}
    assert message_options(texts) == {
        "fps": 2.5, "labels": ["person", "dog"], "force": True, "chunk_seconds": "auto",
    }  # fmt: skip


def test_the_senders_own_defaults_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELSCAN_FPS", "1")
    assert message_options({"fps": None}) == {}


@pytest.mark.parametrize("texts", [{"fps": "fast"}, {"outputs": "film"}, {"min_score": "2"}, {"force": "perhaps"}])
def test_a_flag_that_is_not_allowed_is_refused_before_anything_is_sent(texts: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        message_options(texts)


def test_a_task_arrives_as_it_was_meant(deployment: Deployment) -> None:
    url = "s3://videos/a folder/Straße {{x}}.mp4"
    tasks = make_tasks([url], {"fps": 2.0}, "token", deployment.settings, None)
    (task_id,) = send_tasks(tasks, deployment.settings)
    (message,) = deployment.aws.messages(str(deployment.settings.task_queue))
    assert message["MessageId"] == task_id
    (received,) = parse_message(message["Body"].encode(), task_id, deployment.settings)
    assert received.task is not None
    assert (received.task.url, received.task.id, received.task.options.fps) == (url, "token", 2.0)
    assert json.loads(message["Body"]) == {
        "bucket": "videos", "object": "a folder/Straße {{x}}.mp4", "fps": 2.0, "id": "token",
    }  # fmt: skip


def test_a_local_file_is_uploaded_first_once(deployment: Deployment, clips: ClipLibrary) -> None:
    path = clips["h264_one_frame.mp4"].path
    tasks = [
        make_tasks([str(path)], EMPTY, None, deployment.settings, deployment.aws.bucket)[0] for _ in range(2)
    ]  # fmt: skip
    assert tasks[0] == tasks[1]
    assert tasks[0].object.startswith("sent/")
    assert tasks[0].object.endswith("/h264_one_frame.mp4")
    stored = deployment.aws.s3.get_object(Bucket=deployment.aws.bucket, Key=tasks[0].object)
    assert stored["Body"].read() == path.read_bytes()


def test_a_file_that_is_there_is_not_written_again(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"new")
    deployment.aws.s3.put_object(Bucket=deployment.aws.bucket, Key="k", Body=b"old")
    upload(tmp_path / "a.mp4", deployment.aws.bucket, "k", deployment.settings)
    assert deployment.aws.s3.get_object(Bucket=deployment.aws.bucket, Key="k")["Body"].read() == b"old"


@pytest.mark.parametrize(
    ("videos", "bucket", "error"),
    [
        (["s3://bucket"], None, UsageError),
        (["s3:///key"], None, UsageError),
        (["nowhere.mp4"], "b", NotFoundError),
        ([__file__], None, UsageError),  # no bucket for local files
        (["s3://bucket/" + "k" * 1025], None, InvalidTaskError),
        (["s3://elsewhere/key"], None, AccessDeniedError),
    ],
)
def test_what_the_service_would_refuse_is_refused_at_once(
    videos: list[str], bucket: str | None, error: type[Exception], deployment: Deployment
) -> None:
    settings = deployment.settings.model_copy(update={"allowed_sources": ("s3://bucket/*",)})
    with pytest.raises(error):
        make_tasks(videos, EMPTY, None, settings, bucket)


def test_nothing_is_uploaded_if_any_address_is_wrong(deployment: Deployment, clips: ClipLibrary) -> None:
    videos = [str(clips["h264_one_frame.mp4"].path), "s3://bucket"]
    with pytest.raises(UsageError):
        make_tasks(videos, EMPTY, None, deployment.settings, deployment.aws.bucket)
    assert "Contents" not in deployment.aws.s3.list_objects_v2(Bucket=deployment.aws.bucket)


def test_waiting_follows_the_ledger_and_takes_nothing_from_the_completed_queue(
    deployment: Deployment, desk: Desk, clips: ClipLibrary
) -> None:
    good = deployment.send_task(deployment.upload(clips["h264_one_frame.mp4"].path))
    bad = deployment.send_task("nowhere.mp4")
    desk.serve()
    told: list[str] = []
    reported = wait_for_tasks(
        [bad, good], deployment.settings, timeout_seconds=0, told=lambda one: told.append(one.task_id)
    )
    assert {task_id: one.status for task_id, one in reported.items()} == {good: "succeeded", bad: "failed"}
    assert sorted(told) == sorted([good, bad])
    assert len(deployment.completed()) == 2


def test_waiting_ends_at_its_time_limit(deployment: Deployment) -> None:
    with pytest.raises(TimeLimitError, match=r"1 of 1 tasks were not reported within 0\.3 s, among them unheard-of"):
        wait_for_tasks(["unheard-of"], deployment.settings, timeout_seconds=0.3, told=lambda one: None)


def test_waiting_needs_to_know_where_the_ledger_is(deployment: Deployment) -> None:
    settings = deployment.settings.model_copy(update={"results": None})
    with pytest.raises(UsageError, match="REELSCAN_RESULTS"):
        wait_for_tasks(["t"], settings, timeout_seconds=1, told=lambda one: None)


def test_without_a_service_the_error_says_how_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        check_embedded(port)
    with pytest.raises(QueueError, match=f"127.0.0.1:{port}: start `reelscan up`"):
        check_embedded(port)


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        ([failed("not_a_video")], NotAVideoError),
        ([failed("internal")], ReelscanError),
        ([failed("not_found"), failed("internal"), failed("timeout")], ReelscanError),
        ([failed("timeout")], OutsideError),
        ([PARTIAL], PartialResultError),
        ([completed(), PARTIAL], PartialResultError),
        ([PARTIAL, failed("timeout")], OutsideError),
        ([failed("timeout"), PARTIAL, failed("not_found")], NotFoundError),
    ],
)
def test_the_worst_outcome_decides_the_error(outcomes: list[Completed], error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        raise_for_outcomes(outcomes)
    assert type(raised.value) is error


def test_tasks_that_succeeded_raise_nothing() -> None:
    raise_for_outcomes([completed(), completed("other")])


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_code_is_a_defect_or_bad_input_or_something_outside(code: str) -> None:
    error = error_for(code, "message")
    if code == "internal":
        assert error.exit_status == 1
    else:
        assert isinstance(error, BadInputError | OutsideError)
        assert error.exit_status in (3, 4)

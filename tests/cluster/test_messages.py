"""What a task is, by hand or in a message, and what is answered: completed messages and dead letters."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from steps.completed import Completed
from steps.timestamps import utc_text
from tests.cluster import server
from tests.cluster.cluster import Cluster, Run
from tests.cluster.conftest import SAMPLE

pytestmark = pytest.mark.cluster

BAD_INPUT = "3"
"""The exit status of a step that was given what it can't do."""
WRONG: dict[str, tuple[str, str]] = {
    "fps": ("invalid_task", "fps"),
    "range": ("invalid_task", "end_seconds"),
    "nothing": ("invalid_task", "object"),
    "missing": ("not_found", "nowhere.mp4"),
    "text": ("not_a_video", "text.mp4"),
    "no-json": ("invalid_task", "JSON"),
}
"""By the name of the run: code of the error, and what its message names."""


def encoded(message: Any) -> str:
    """A message's body as the Sensor passes it."""
    text = message if isinstance(message, str) else json.dumps(message)
    return base64.b64encode(text.encode()).decode()


def record(bucket: str, key: str) -> dict[str, Any]:
    """A record of an S3 event notification."""
    return {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key}},
    }


@pytest.fixture(scope="module")
def submitted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """Runs by name, all submitted at once."""
    text = tmp_path_factory.mktemp("text") / "text.mp4"
    text.write_text("It was no video.\n" * 1000)
    cluster.upload(text)
    for key in ("camera 1/first.mp4", "camera 1/second.mp4"):
        cluster.upload(SAMPLE, key)
    sample = {"bucket": cluster.videos, "object": "sample.mp4"}
    options = {"fps": 2, "labels": ["person"], "max_frames": 8, "min_score": 0.6}
    notification = {
        "Records": [
            record(cluster.videos, "camera+1/first.mp4"),
            record(cluster.videos, "camera+1/none.mp4"),
            record(cluster.videos, "camera%201/second.mp4"),
        ]
    }
    test_event = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": cluster.videos}
    cluster.deploy("brief", limits={"max_frames": 4})
    submit = partial(server.submit, cluster)
    return {
        "absent": submit(bucket=cluster.videos, object="not-there-yet.mp4", fps=1, max_frames=3),
        "records": submit("brief", body=encoded(notification), message_id="notification-1"),
        "fps": submit(**sample, fps="banana", id="mine"),
        "range": submit(**sample, start_seconds=5, end_seconds=2),
        "nothing": submit(bucket=cluster.videos),
        "missing": submit(bucket=cluster.videos, object="nowhere.mp4"),
        "text": submit(entrypoint="single", bucket=cluster.videos, object="text.mp4"),
        "no-json": submit(body=encoded("{{workflow.name}} is no JSON"), message_id="no-json"),
        "test-event": submit(body=encoded(test_event), message_id="test-event"),
        "by-hand": submit(**sample, **{**options, "labels": "person"}, id="ticket 7", title="By hand"),
        "message": submit(
            body=encoded({**sample, **options, "min_score": 0.55, "id": "{{workflow.name}} {{=1+}}"}),
            message_id="0b1c-message",
        ),
    }


def ledger(cluster: Cluster, task_id: str) -> dict[str, bytes]:
    """What the ledger holds of a task, by the end of its key."""
    start = f"reelscan/ledger/{task_id}."
    listed = cluster.s3.list_objects_v2(Bucket=cluster.results, Prefix=start).get("Contents", [])
    return {
        entry["Key"].removeprefix(start): cluster.s3.get_object(Bucket=cluster.results, Key=entry["Key"])["Body"].read()
        for entry in listed
    }


def run_failed_at(run: Run) -> str:
    """When the last node failed before the exit handler."""
    nodes = run.workflow()["status"]["nodes"].values()
    ended = [node["finishedAt"] for node in nodes if node["phase"] == "Failed" and ".onExit" not in node["name"]]
    return utc_text(datetime.fromisoformat(max(ended)))


def dead_letters(cluster: Cluster, task_id: str) -> list[dict[str, Any]]:
    """Those of a task that came so far."""
    cluster.receive()
    return [m for m in cluster.dead_letters if m["MessageAttributes"]["task_id"]["StringValue"] == task_id]


def only_message(run: Run, task_id: str | None = None) -> Completed:
    """The one completed message of a task, which is there when the workflow has ended."""
    assert run.ended()
    (completed,) = run.cluster.all_completed(task_id or run.uid)
    assert completed.workflow == run.name
    return completed


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_task_is_reported_once_and_not_tried_again(submitted: Mapping[str, Run], name: str) -> None:
    run = submitted[name]
    task_id = name if name == "no-json" else run.uid
    assert run.wait() == "Failed", run.tree()
    completed = only_message(run, task_id)
    code, named = WRONG[name]
    assert (completed.status, completed.attempt, completed.frames) == ("failed", 1, None)
    assert completed.error is not None
    assert completed.error.code == code
    assert named in completed.error.message
    assert "\n" not in completed.error.message
    (pod,) = run.nodes("whole-job" if name == "text" else "plan")
    assert pod["outputs"]["exitCode"] == BAD_INPUT
    held = ledger(run.cluster, task_id)
    assert set(held) == {"1.completed.json", "1.sent", "1.closed"}
    # By which the exit handler knows the attempt again.
    assert json.loads(held["1.closed"])["since"] == run_failed_at(run)
    (letter,) = dead_letters(run.cluster, task_id)
    assert letter["MessageAttributes"]["code"]["StringValue"] == code
    assert letter["MessageAttributes"]["reason"]["StringValue"] == completed.error.message


def test_a_dead_letter_says_what_was_given(submitted: Mapping[str, Run]) -> None:
    run = submitted["fps"]
    run.wait()
    assert only_message(run).id == "mine"
    (letter,) = dead_letters(run.cluster, run.uid)
    given = {"bucket": run.cluster.videos, "object": "sample.mp4", "fps": "banana", "id": "mine"}
    assert json.loads(letter["Body"]) == given
    no_json = submitted["no-json"]
    no_json.wait()
    (letter,) = dead_letters(run.cluster, "no-json")
    assert letter["Body"] == "{{workflow.name}} is no JSON"


def test_the_test_event_of_s3_is_no_task(submitted: Mapping[str, Run]) -> None:
    run = submitted["test-event"]
    assert run.wait() == "Succeeded", run.tree()
    assert [node["templateName"] for node in run.nodes()] == ["plan"]
    assert run.cluster.all_completed("test-event") == run.cluster.all_completed(run.uid) == []
    assert ledger(run.cluster, "test-event") == {}


def test_a_run_by_hand_is_answered_with_what_it_was_given(submitted: Mapping[str, Run]) -> None:
    run = submitted["by-hand"]
    assert run.wait() == "Succeeded", run.tree()
    completed = only_message(run)
    assert (completed.task_id, completed.attempt, completed.id) == (run.uid, 1, "ticket 7")
    assert completed.task is not None
    assert completed.task.model_dump() == {"bucket": run.cluster.videos, "object": "sample.mp4"}
    check_options(completed, min_score=0.6)


def test_a_message_is_taken_as_it_is(submitted: Mapping[str, Run]) -> None:
    run = submitted["message"]
    assert run.wait() == "Succeeded", run.tree()
    completed = only_message(run, "0b1c-message")
    # What Argo would evaluate comes back untouched.
    assert completed.id == "{{workflow.name}} {{=1+}}"
    check_options(completed, min_score=0.55)
    assert run.cluster.all_completed(run.uid) == []


def test_a_run_that_was_given_no_title_has_one(submitted: Mapping[str, Run]) -> None:
    titles = {
        "by-hand": "By hand",
        "missing": f"{submitted['missing'].cluster.videos}/nowhere.mp4",
        "message": "message 0b1c-message",
    }
    for name, title in titles.items():
        submitted[name].wait()
        assert submitted[name].workflow()["metadata"]["annotations"]["workflows.argoproj.io/title"] == title


def check_options(completed: Completed, min_score: float) -> None:
    """That the options given were used."""
    assert completed.options is not None
    given = {"fps": 2, "labels": ["person"], "max_frames": 8, "min_score": min_score}
    assert {name: completed.options[name] for name in given} == given
    assert completed.frames is not None
    assert (completed.frames.planned, completed.frames.analysed) == (8, 8)
    assert completed.frame_records is not None
    assert [line["time_seconds"] for line in completed.frame_records] == [number / 2 for number in range(8)]
    found = [detection for line in completed.frame_records for detection in line["detections"]]
    assert found
    assert {detection["label"] for detection in found} == {"person"}
    assert min(detection["score"] for detection in found) >= min_score


def test_each_record_of_a_notification_is_a_task(submitted: Mapping[str, Run]) -> None:
    run = submitted["records"]
    cluster = run.cluster
    # One that cannot be done does not take the others along, and is answered for itself.
    assert run.wait() == "Succeeded", run.tree()
    first, bad, second = (only_message(run, f"notification-1-{number}") for number in range(3))
    for completed, key in ((first, "camera 1/first.mp4"), (second, "camera 1/second.mp4")):
        assert completed.status == "succeeded"
        assert completed.task is not None
        assert completed.task.object == key
        assert completed.frames is not None
        assert completed.frames.analysed == 4
    assert first.run != second.run
    assert bad.error is not None
    assert bad.error.code == "not_found"
    (letter,) = dead_letters(cluster, "notification-1-1")
    assert json.loads(letter["Body"]) == {"bucket": cluster.videos, "object": "camera 1/none.mp4"}
    assert not dead_letters(cluster, "notification-1-0")


def test_a_retried_run_sends_the_next_attempt_and_leaves_the_first_as_it_is(submitted: Mapping[str, Run]) -> None:
    run = submitted["absent"]
    cluster = run.cluster
    assert run.wait() == "Failed", run.tree()
    assert only_message(run).status == "failed"
    before = ledger(cluster, run.uid)
    (letter,) = dead_letters(cluster, run.uid)
    cluster.upload(SAMPLE, "not-there-yet.mp4")
    cluster.argo("retry", run.name)
    again = server.submit(cluster, body=encoded(letter["Body"]), message_id=f"again-{run.uid}")

    assert run.wait() == "Succeeded", run.tree()
    first, second = cluster.all_completed(run.uid)
    assert (first.attempt, first.status) == (1, "failed")
    assert (second.attempt, second.status, second.error) == (2, "succeeded", None)
    assert second.workflow == run.name
    after = ledger(cluster, run.uid)
    assert set(after) == {"1.completed.json", "1.sent", "1.closed", "2.completed.json", "2.sent"}
    assert {end: after[end] for end in before} == before

    # The dead letter, sent again, is the same task: the same run answers it.
    assert again.wait() == "Succeeded", again.tree()
    answer = only_message(again, f"again-{run.uid}")
    assert (answer.status, answer.attempt, answer.run) == ("succeeded", 1, second.run)

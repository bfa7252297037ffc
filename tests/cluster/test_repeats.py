"""What becomes of messages that come again: equal ones, delivered again, retried, put back, moved by SQS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.cluster.asked import (
    Asked,
    assert_all_are_accounted_for,
    entries,
    make_workflow,
    open_slow_events,
    parameter,
    reelscan,
    settle,
)
from tests.cluster.cluster import wait_for
from tests.cluster.events import EventsCluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsCluster]:
    with open_slow_events(tmp_path_factory.mktemp("clip")) as opened:
        yield opened


@pytest.fixture(scope="module")
def asked(cluster: EventsCluster) -> Asked:
    return Asked(cluster)


def test_equal_tasks_are_computed_once_and_answered_each(asked: Asked) -> None:
    first, second = asked.send("first", max_frames=4), asked.send("second", max_frames=4)
    answers = [asked.completed(name) for name in ("first", "second")]
    assert [answer.status for answer in answers] == ["succeeded", "succeeded"]
    assert answers[0].run == answers[1].run
    assert [answer.id for answer in answers] == ["first", "second"]
    assert {first.wait(), second.wait()} == {"Succeeded"}
    # Taken from the results, with the seconds that whoever computed them took.
    assert answers[0].seconds == answers[1].seconds


def test_a_message_that_is_delivered_again_changes_nothing(cluster: EventsCluster, asked: Asked) -> None:
    run = asked.send("again", max_frames=2)
    completed = asked.completed("again")
    settle(cluster, run)
    document = run.workflow()
    body = {"body": parameter(document, "body")}

    # While the Workflow is there: the same patch.
    make_workflow(cluster, asked, "again", parameters=body, message_id=asked.ids["again"])
    assert run.name in cluster.unaccounted()
    settle(cluster, run)
    assert run.phase() == "Succeeded"

    # When it has been cleaned up: a Workflow of the same name, which finds that its task is answered.
    cluster.kubectl("delete", "workflow", run.name, "--timeout=60s")
    make_workflow(cluster, asked, "again", parameters=body, message_id=asked.ids["again"])
    assert run.wait() == "Succeeded"
    settle(cluster, run)
    assert cluster.all_completed(asked.ids["again"]) == [completed]


def test_a_retried_run_is_held_until_its_next_attempt_is_accounted_for(cluster: EventsCluster, asked: Asked) -> None:
    run = asked.send("retried", object="comes-later.mp4", max_frames=2)
    assert asked.completed("retried").status == "failed"
    run.wait()
    settle(cluster, run)
    cluster.s3.copy_object(
        Bucket=cluster.videos, Key="comes-later.mp4", CopySource={"Bucket": cluster.videos, "Key": "clip.mp4"}
    )
    cluster.argo("retry", run.name)
    assert cluster.completed(asked.ids["retried"], attempt=2).status == "succeeded"
    assert len(cluster.all_completed(asked.ids["retried"])) == 2


def test_a_dead_letter_that_is_put_back_is_a_task_again(cluster: EventsCluster, asked: Asked) -> None:
    asked.send("dead", object="comes-too-late.mp4", max_frames=2)
    assert asked.completed("dead").status == "failed"
    cluster.s3.copy_object(
        Bucket=cluster.videos, Key="comes-too-late.mp4", CopySource={"Bucket": cluster.videos, "Key": "clip.mp4"}
    )
    # The tests read the dead-letter queue too.
    letter = asked.dead_letter("dead")
    cluster.sqs.send_message(
        QueueUrl=cluster.queue_url("dead"),
        MessageBody=letter["Body"],
        MessageAttributes={
            name: {"DataType": "String", "StringValue": value["StringValue"]}
            for name, value in letter["MessageAttributes"].items()
        },
    )
    said = reelscan(cluster, "redrive", "--task-id", asked.ids["dead"])
    new = next(
        found
        for found in re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)
        if found != asked.ids["dead"]
    )
    completed = cluster.completed(new)
    assert (completed.status, completed.id) == ("succeeded", "dead")


def test_what_sqs_moved_to_the_dead_letter_queue_is_reported(cluster: EventsCluster, asked: Asked) -> None:
    task = {"bucket": cluster.videos, "object": "clip.mp4", "id": "stray"}
    asked.ids["stray"] = move_to_dead_letters(cluster, json.dumps(task))
    # By itself it looks there every five minutes. No test receives from the queue before it is reported.

    def reported() -> list[str] | None:
        reelscan(cluster, "reconcile", "--namespace", cluster.namespace)
        return entries(cluster, asked.ids["stray"]) or None

    wait_for("the ledger's entry", reported)
    completed = asked.completed("stray")
    assert completed.error is not None
    assert completed.error.code == "internal"
    letter = asked.dead_letter("stray")
    assert json.loads(letter["Body"]) == task


def move_to_dead_letters(cluster: EventsCluster, body: str) -> str:
    """Let SQS itself move a message there, since nothing takes it from a queue; gives its id."""
    dead = cluster.sqs.get_queue_attributes(QueueUrl=cluster.queue_url("dead"), AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": dead["Attributes"]["QueueArn"], "maxReceiveCount": 1}
    made = cluster.sqs.create_queue(
        QueueName=f"unwanted-{cluster.namespace}", Attributes={"RedrivePolicy": json.dumps(policy)}
    )
    url = made["QueueUrl"]
    try:
        message_id = str(cluster.sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"])

        def received() -> bool:
            # One that waits asks all of SQS' servers.
            answer = cluster.sqs.receive_message(QueueUrl=url, VisibilityTimeout=0, WaitTimeSeconds=1)
            return bool(answer.get("Messages"))

        wait_for("SQS to hand the message out", received)
        # The next one who asks for it gets nothing.
        wait_for("SQS to move the message", lambda: not received())
        return message_id
    finally:
        cluster.sqs.delete_queue(QueueUrl=url)


def test_no_workflow_is_left_unaccounted(cluster: EventsCluster, asked: Asked) -> None:
    assert_all_are_accounted_for(cluster)

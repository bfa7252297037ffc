"""Messages that never became a run: what the Sensor kept, and what SQS moved to the dead-letter queue."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

import pytest

from events import reconcile as module
from events.dead_letters import is_stray
from steps.queues import Message, Queues
from steps.timestamps import utc_text
from tests.events.kubernetes_api import TASK, KubernetesApi, add_run
from tests.events.passes import (
    CREATED_AT,
    OWN,
    UNDELIVERED,
    bury,
    codes,
    failure,
    letters,
    reconcile,
)
from tests.faults import FaultProxy
from tests.local.conftest import Deployment

# Messages of which no workflow could be made


def keep(api: KubernetesApi, message_id: str = "m", body: str | None = None, **fields: Any) -> str:
    """What the Sensor makes of a message when it gives up; gives the name."""
    encoded = base64.b64encode(TASK.encode()).decode() if body is None else body
    name = f"undelivered-{message_id}"
    api.add("configmaps", name, metadata={"labels": UNDELIVERED}, **{
        "data": {"message_id": message_id, "body": encoded}, **fields
    })  # fmt: skip
    return name


def test_an_undelivered_message_is_reported_and_removed(api: KubernetesApi, deployment: Deployment) -> None:
    keep(api)
    api.add("configmaps", "of-others", data={"message_id": "x"})
    found = reconcile(deployment)
    assert [(f.task_id, f.code, f.workflow) for f in found.findings] == [("m", "internal", None)]
    assert api.names("configmaps") == ["of-others"]
    (completed,) = deployment.completed()
    assert (completed.task_id, completed.id, completed.received_at) == ("m", "of the sender", utc_text(CREATED_AT))
    assert letters(deployment) == ["m"]


def test_an_undelivered_message_stays_while_s3_refuses(
    api: KubernetesApi, deployment: Deployment, faults: FaultProxy
) -> None:
    name = keep(api)
    faults.inject("deny", "PUT .*completed")
    found = reconcile(deployment)
    assert (found.findings, len(found.failures), api.names("configmaps")) == ([], 1, [name])
    assert [f.task_id for f in reconcile(deployment).findings] == ["m"]
    assert api.names("configmaps") == []


def test_an_undelivered_message_stays_while_another_reports_it(api: KubernetesApi, deployment: Deployment) -> None:
    name = keep(api)
    completed, _ = failure(deployment.settings)
    deployment.ledger().store.create("m.1.completed.json", completed.to_bytes())
    found = reconcile(deployment, resend_after_seconds=3600)
    assert (found.findings, found.failures, api.names("configmaps")) == ([], [], [name])


def test_a_message_that_did_become_a_workflow_is_that_ones_to_report(
    api: KubernetesApi, deployment: Deployment
) -> None:
    keep(api)
    add_run(api, "m", phase="Running")
    assert reconcile(deployment).findings == []
    assert api.names("configmaps") == []


@pytest.mark.parametrize("body", ["", "no base64!", "e30", base64.b64encode(b"\xff\xfe").decode(), "{{=1+}}"])
def test_an_undelivered_message_is_reported_whatever_it_holds(
    api: KubernetesApi, deployment: Deployment, body: str
) -> None:
    keep(api, body=body)
    assert reconcile(deployment).failures == []
    assert codes(deployment) == {"m": "invalid_task"}
    assert api.names("configmaps") == []


@pytest.mark.parametrize("data", [{}, {"body": ""}])
def test_a_kept_message_without_data_keeps_no_other_from_being_reported(
    api: KubernetesApi, deployment: Deployment, data: Any
) -> None:
    keep(api, "broken", data=data)
    keep(api)
    found = reconcile(deployment)
    assert found.failures == []
    assert api.names("configmaps") == []
    assert "m" in codes(deployment)


# What SQS moved


@pytest.mark.parametrize(
    ("moved", "attributes", "stray"),
    [
        (False, {}, True),
        (False, {"code": "timeout"}, True),
        (False, {"task_id": "t"}, False),
        (True, {}, True),
        # A sender can name one too.
        (True, {"task_id": "t"}, True),
    ],
)
def test_a_letter_is_a_stray_if_sqs_put_it_there(moved: bool, attributes: dict[str, str], stray: bool) -> None:
    assert is_stray(Message("id", "{}", "receipt", 1, attributes, moved_by_sqs=moved)) is stray


def move(deployment: Deployment, body: str = TASK) -> str:
    """Let SQS move a message to the dead-letter queue, since nothing takes it; gives its id."""
    aws = deployment.aws
    attributes = aws.sqs.get_queue_attributes(
        QueueUrl=deployment.queue_url(deployment.settings.dead_letter_queue), AttributeNames=["QueueArn"]
    )["Attributes"]
    policy = json.dumps({"deadLetterTargetArn": attributes["QueueArn"], "maxReceiveCount": 1})
    url = deployment.queue_url(aws.make_queue(RedrivePolicy=policy))
    message_id = aws.sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"]
    for _ in range(2):
        aws.sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)
    return message_id


@pytest.mark.parametrize("own_created_at", [None, OWN])
def test_what_sqs_moved_is_reported_and_has_a_letter_of_ours_instead(
    api: KubernetesApi, deployment: Deployment, own_created_at: datetime | None
) -> None:
    bury(deployment)
    message_id = move(deployment)
    found = reconcile(deployment, own_created_at, strays=own_created_at is not None)
    assert [(f.task_id, f.code, f.workflow) for f in found.findings] == [(message_id, "internal", None)]
    assert found.dead_letters == 2
    assert codes(deployment) == {message_id: "internal"}
    assert letters(deployment) == sorted(["own", message_id])


def test_the_dead_letters_are_looked_through_every_five_minutes(
    api: KubernetesApi, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = move(deployment)
    assert [f.task_id for f in reconcile(deployment, strays=True).findings] == [first]
    second = move(deployment)
    assert reconcile(deployment).findings == []
    monkeypatch.setattr(module, "STRAYS_SECONDS", 0.0)
    assert [f.task_id for f in reconcile(deployment).findings] == [second]


def test_what_sqs_moved_stays_and_is_visible_while_s3_refuses(
    api: KubernetesApi, deployment: Deployment, faults: FaultProxy
) -> None:
    message_id = move(deployment)
    faults.inject("deny", "PUT .*completed")
    found = reconcile(deployment, strays=True)
    assert (found.findings, len(found.failures)) == ([], 1)
    assert Queues(deployment.settings).count(str(deployment.settings.dead_letter_queue)).visible == 1
    assert [f.task_id for f in reconcile(deployment, strays=True).findings] == [message_id]
    assert letters(deployment) == [message_id]


def test_what_sqs_moved_and_has_a_workflow_is_that_ones_to_report(api: KubernetesApi, deployment: Deployment) -> None:
    add_run(api, move(deployment), phase="Running")
    assert reconcile(deployment, strays=True).findings == []
    assert (codes(deployment), deployment.dead_letters()) == ({}, [])


def test_no_dead_letter_queue_is_looked_through_while_nothing_is_due(
    api: KubernetesApi, deployment: Deployment
) -> None:
    found = reconcile(deployment, strays=True, dead_letter_queue=None, task_queue=None)
    assert (found.failures, found.dead_letters, found.queued) == ([], 0, 0)

"""Bringing together what the accounts are made of: queues, the ledger, and the Workflows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from events.runs import FINALIZER, NAME_START
from tests.cluster.accounts import Collected, DeadLetter, LedgerObject, Received, Workflow, workflow_name
from tests.cluster.traffic import Sent

if TYPE_CHECKING:
    from tests.cluster.events import EventsCluster
    from tests.cluster.upsets import Upset

LEDGER_PREFIX = "reelscan/ledger/"
POLL_SECONDS = 4.0
"""Seldom: the answers are long, and the runs want the CPU."""
HELD_SECONDS = 330.0
"""Longer than the reconciler, which looks through the dead letters, may hide them when it dies over that."""
_SHOWN = 20
_NAMES_AT_ONCE = 200


def wait_seldom(what: Callable[[], str], done: Callable[[], bool], seconds: float) -> None:
    """As `wait_for`, asking less often."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what()}")
        time.sleep(POLL_SECONDS)


def unreported(cluster: EventsCluster, sent: Sequence[Sent]) -> list[str]:
    """Tasks that the ledger does not say to be on the completed queue."""
    keys = ledger_keys(cluster)
    return [task_id for message in sent for task_id in message.expected if f"{task_id}.1.sent" not in keys]


def wait_until_reported(cluster: EventsCluster, sent: Sequence[Sent], seconds: float) -> None:
    """Wait for all tasks; fails with those that are missing, and with the Workflows."""
    left: list[str] = []

    def done() -> bool:
        left[:] = unreported(cluster, sent)
        return not left

    def what() -> str:
        kinds = {task_id: message.kind for message in sent for task_id in message.expected}
        named = [f"{task_id} ({kinds[task_id]})" for task_id in left[:_SHOWN]]
        return f"{len(left)} tasks to be reported:\n" + "\n".join(named) + "\n" + cluster.argo("list", check=False)

    wait_seldom(what, done, seconds)


def wait_until_accounted(cluster: EventsCluster, sent: Sequence[Sent], seconds: float) -> None:
    """Wait until each message's Workflow has ended and has no finalizer of ours."""
    left = {workflow_name(message): "not looked at" for message in sent}

    def done() -> bool:
        columns = "NAME:.metadata.name,FINISHED:.status.finishedAt,FINALIZERS:.metadata.finalizers"
        words = ["get", "workflows", *list(left)[:_NAMES_AT_ONCE], "--ignore-not-found", "--no-headers", "-o"]
        for line in cluster.kubectl(*words, f"custom-columns={columns}").splitlines():
            name, finished, finalizers = line.split(maxsplit=2)
            if finished == "<none>" or FINALIZER in finalizers:
                left[name] = f"finished at {finished}, finalizers {finalizers}"
            else:
                del left[name]
        return not left

    def what() -> str:
        named = [f"{name}: {state}" for name, state in list(left.items())[:_SHOWN]]
        return f"{len(left)} workflows to be accounted for:\n" + "\n".join(named) + "\n" + cluster.argo("list")

    wait_seldom(what, done, seconds)


def collect(
    cluster: EventsCluster, sent: Sequence[Sent], upsets: Sequence[Upset] = (), *, fifo: bool = False
) -> Collected:
    """All that there is. What was on the queues is gone from them."""
    return Collected(
        sent=sent,
        received=[
            Received(message["Body"].encode(), _sent_at(message))
            for message in drained(cluster, cluster.settings["completed_queue"])
        ],
        dead_letters=[
            DeadLetter(_attribute(message, "task_id"), _attribute(message, "code"), message["Body"], _sent_at(message))
            for message in drained(cluster, cluster.settings["dead_letter_queue"])
        ],
        ledger=ledger_objects(cluster),
        workflows=workflows(cluster),
        upsets=upsets,
        fifo=fifo,
    )


def drained(cluster: EventsCluster, queue: str) -> list[dict[str, Any]]:
    """All messages of a queue, which is empty then, those included that somebody looks at just now."""
    sqs = cluster.sqs
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    taken: list[dict[str, Any]] = []

    def left() -> dict[str, str]:
        found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"]
        return found

    def done() -> bool:
        while messages := sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"]
        ).get("Messages"):
            for message in messages:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            taken.extend(messages)
        return all(int(count) == 0 for count in left().values())

    wait_seldom(lambda: f"the queue {queue} to be empty: {left()}", done, HELD_SECONDS)
    return taken


def ledger_keys(cluster: EventsCluster) -> dict[str, float]:
    """When each object of the ledger was written, by its key there."""
    pages = cluster.s3.get_paginator("list_objects_v2").paginate(Bucket=cluster.results, Prefix=LEDGER_PREFIX)
    found = [entry for page in pages for entry in page.get("Contents", [])]
    return {entry["Key"].removeprefix(LEDGER_PREFIX): entry["LastModified"].timestamp() for entry in found}


def ledger_objects(cluster: EventsCluster) -> dict[str, LedgerObject]:
    """The ledger, with what the entries hold."""
    s3 = cluster.s3

    def data(key: str) -> bytes:
        if not key.endswith(".completed.json"):
            return b""
        content: bytes = s3.get_object(Bucket=cluster.results, Key=LEDGER_PREFIX + key)["Body"].read()
        return content

    return {key: LedgerObject(at, data(key)) for key, at in ledger_keys(cluster).items()}


def workflows(cluster: EventsCluster) -> list[Workflow]:
    """Those that were made from messages."""
    items = json.loads(cluster.kubectl("get", "workflows", "-o", "json"))["items"]
    return [_workflow(item) for item in items if item["metadata"]["name"].startswith(NAME_START)]


def _workflow(item: dict[str, Any]) -> Workflow:
    metadata, status = item["metadata"], item.get("status") or {}
    return Workflow(
        name=metadata["name"],
        phase=status.get("phase") or "",
        finalizers=tuple(metadata.get("finalizers", ())),
        priority=item["spec"].get("priority") or 0,
        created_at=_seconds(metadata["creationTimestamp"]),
        started_at=_seconds(status.get("startedAt")),
        finished_at=_seconds(status.get("finishedAt")),
    )


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _sent_at(message: dict[str, Any]) -> float:
    return int(message["Attributes"]["SentTimestamp"]) / 1000


def _attribute(message: dict[str, Any], name: str) -> str:
    """Those that SQS itself moved to the dead-letter queue have none."""
    return str(message.get("MessageAttributes", {}).get(name, {}).get("StringValue", f"no {name}"))

"""Passes of the reconciler, and what tests ask of what they leave."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from events.kubernetes import Namespace
from events.reconcile import PHASELESS_SECONDS, Reconciler, Report
from steps.completed import Completed, StepError, completed_from_error
from steps.ledger import Outbox
from steps.queues import Queues
from steps.settings import Settings
from steps.store import open_store
from steps.task import parse_message
from tests.events.kubernetes_api import CREATED, TASK, KubernetesApi, add_run
from tests.local.conftest import Deployment

CREATED_AT = datetime.fromisoformat(CREATED)
OWN = CREATED_AT + timedelta(seconds=PHASELESS_SECONDS + 1)
YOUNG_OWN = CREATED_AT + timedelta(seconds=PHASELESS_SECONDS)
SHUT_DOWN = [{"manager": "argo", "fieldsV1": {"f:spec": {"f:shutdown": {}}}}]
UNDELIVERED = {"reelscan.dev/undelivered": "true"}
RECORD = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "videos"}, "object": {"key": "clip.mp4"}}}


def reconcile(
    deployment: Deployment, own_created_at: datetime | None = OWN, *, strays: bool = False, **settings: Any
) -> Report:
    """A pass. Without `strays` the dead-letter queue has just been looked through, which takes a second."""
    changed = deployment.settings.model_copy(update=settings)
    with Namespace() as namespace:
        results = open_store(changed.results or "", changed)
        store = deployment.ledger().store
        if strays:
            store.delete("strays-looked-for")
        else:
            store.put("strays-looked-for", b"")
        return Reconciler(namespace, changed, Queues(changed), results, own_created_at).reconcile()


def codes(deployment: Deployment) -> dict[str, str | None]:
    """Of the completed messages by task id; each came once, and is off the queue."""
    completed = deployment.completed()
    found = {message.task_id: message.error.code if message.error else None for message in completed}
    assert len(found) == len(completed)
    return found


def letters(deployment: Deployment) -> list[str]:
    """Task ids of the dead letters, which are off the queue."""
    return sorted(letter["MessageAttributes"]["task_id"]["StringValue"] for letter in deployment.dead_letters())


def finalizers(api: KubernetesApi, name: str) -> list[str]:
    return list(api.get("workflows", name)["metadata"].get("finalizers", []))


def failure(settings: Settings, task_id: str = "m", body: str = TASK) -> tuple[Completed, str]:
    """What a step reports of a task, and the task."""
    message_id = task_id.partition("-")[0]
    received = next(one for one in parse_message(body.encode(), message_id, settings) if one.task_id == task_id)
    error = StepError.make("not_found", "no video", "plan")
    return completed_from_error(received, error, received_at=CREATED_AT), received.body


def report(deployment: Deployment, completed: Completed, body: str) -> None:
    """As a step does."""
    settings = deployment.settings
    Outbox(deployment.ledger(), Queues(settings), settings).report(completed, body)
    deployment.completed()
    deployment.dead_letters()


def add_several(api: KubernetesApi, count: int = 5) -> list[str]:
    """Runs that are due; gives the names."""
    return [add_run(api, f"m{number}", phase="Failed", shutdown="Terminate") for number in range(count)]


def bury(deployment: Deployment) -> None:
    """A letter of our own."""
    Queues(deployment.settings).send(str(deployment.settings.dead_letter_queue), TASK, {"task_id": "own"})

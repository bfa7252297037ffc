"""The last resort: each task that nothing else has reported is reported once, and its Workflow let go."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

from events import kubernetes
from events.dead_letters import is_stray
from events.kubernetes import Namespace
from events.reconcile import MOST_FAILURES, PHASELESS_SECONDS, Reconciler, Report
from events.runs import FINALIZER
from steps.completed import Completed, StepError, completed_from_error
from steps.errors import AccessDeniedError, KubernetesError
from steps.ledger import Outbox
from steps.queues import Message, Queues
from steps.settings import Settings
from steps.store import open_store
from steps.task import parse_message
from steps.timestamps import utc_now, utc_text
from tests.events.kubernetes_api import CREATED, TASK, KubernetesApi, add_run, set_phase
from tests.faults import FaultProxy
from tests.local.command import finish, reelscan, started, wait_until
from tests.local.conftest import Deployment

CREATED_AT = datetime.fromisoformat(CREATED)
OWN = CREATED_AT + timedelta(seconds=PHASELESS_SECONDS + 1)
"""Of a minute in which the dead-letter queue is not looked through, which takes a second."""
STRAYS_OWN = CREATED_AT + timedelta(minutes=5)
YOUNG_OWN = CREATED_AT + timedelta(seconds=PHASELESS_SECONDS)
SHUT_DOWN = [{"manager": "argo", "fieldsV1": {"f:spec": {"f:shutdown": {}}}}]
UNDELIVERED = {"reelscan.dev/undelivered": "true"}
MALFORMED = [
    pytest.param({"arguments": {"parameters": [None, "text", 7]}}),
    pytest.param({"arguments": {"parameters": {"name": "body"}}}),
    pytest.param({"arguments": "text"}),
]
RECORD = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "videos"}, "object": {"key": "clip.mp4"}}}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two requests to Kubernetes."""
    monkeypatch.setattr(kubernetes, "wait_exponential_jitter", lambda **_: wait_none())


def reconcile(deployment: Deployment, own_created_at: datetime | None = OWN, **settings: Any) -> Report:
    """A pass."""
    changed = deployment.settings.model_copy(update=settings)
    with Namespace() as namespace:
        results = open_store(changed.results or "", changed)
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


# What could not report itself


@pytest.mark.parametrize(
    ("run", "code"),
    [
        ({"phase": "Failed", "shutdown": "Terminate"}, "stopped"),
        ({"phase": "Failed", "shutdown": "Stop"}, "stopped"),
        ({"phase": "Succeeded", "shutdown": "Terminate"}, "stopped"),
        ({"phase": "Failed", "message": "Step exceeded its deadline"}, "timeout"),
        ({"phase": "Error", "message": "pod deleted"}, "internal"),
        ({"phase": "Succeeded"}, "internal"),
        ({"phase": "Running", "deletionTimestamp": CREATED}, "deleted"),
        ({"phase": "Pending", "deletionTimestamp": CREATED}, "deleted"),
        ({"deletionTimestamp": CREATED}, "deleted"),
    ],
)
def test_each_end_has_its_code_and_the_workflow_is_let_go(
    api: KubernetesApi, deployment: Deployment, run: dict[str, Any], code: str
) -> None:
    name = add_run(api, "m", finalizers=("other/one", FINALIZER), **run)
    found = reconcile(deployment)
    assert [(f.task_id, f.code, f.workflow) for f in found.findings] == [("m", code, name)]
    assert (found.released, found.waiting, found.failures) == ([name], 0, [])
    assert finalizers(api, name) == ["other/one"]

    (completed,) = deployment.completed()
    assert completed.error is not None
    assert (completed.status, completed.error.code, completed.error.step) == ("failed", code, "workflow")
    assert (completed.task_id, completed.attempt, completed.id) == ("m", 1, "of the sender")
    assert (completed.workflow, completed.received_at) == (name, utc_text(CREATED_AT))
    (letter,) = deployment.dead_letters()
    assert letter["Body"] == TASK
    assert letter["MessageAttributes"]["code"]["StringValue"] == code
    (entry,) = deployment.ledger().find("m")
    assert (entry.completed, entry.sent) == (completed, True)


def test_what_is_deleted_vanishes_once_it_is_reported(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Running")
    with Namespace() as namespace:
        namespace.delete("workflows", name)
    assert api.names("workflows") == [name]
    reconcile(deployment)
    assert api.names("workflows") == []
    assert codes(deployment) == {"m": "deleted"}


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_what_goes_on_is_left_alone(api: KubernetesApi, deployment: Deployment, phase: str) -> None:
    name = add_run(api, "m", phase=phase)
    before = api.get("workflows", name)
    found = reconcile(deployment)
    assert (found.findings, found.released, found.waiting) == ([], [], 0)
    assert api.get("workflows", name) == before


def test_what_is_stopped_while_it_waits_is_told_to_end_and_reported_by_the_next_pass(
    api: KubernetesApi, deployment: Deployment
) -> None:
    name = add_run(api, "m", phase="Pending", shutdown="Stop", managedFields=SHUT_DOWN)
    found = reconcile(deployment)
    assert (found.findings, found.released, found.waiting, found.failures) == ([], [], 1, [])
    assert api.get("workflows", name)["spec"]["shutdown"] == "Terminate"
    assert finalizers(api, name) == [FINALIZER]
    assert codes(deployment) == {}

    # Argo calls it a success.
    set_phase(api, name, "Succeeded")
    assert reconcile(deployment).released == [name]
    assert codes(deployment) == {"m": "stopped"}
    assert api.count("PATCH .*shutdown") == 1


def test_what_waits_and_was_never_told_to_end_is_left_alone(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Pending", managedFields=SHUT_DOWN)
    assert reconcile(deployment).findings == []
    assert finalizers(api, name) == [FINALIZER]
    assert api.count("^PATCH") == 0


# What Argo never began


def test_what_never_began_is_told_to_end_reported_and_closed(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m")
    found = reconcile(deployment)
    assert ([f.code for f in found.findings], found.released, found.waiting) == (["internal"], [name], 0)
    assert codes(deployment) == {"m": "internal"}
    document = api.get("workflows", name)
    assert document["spec"]["shutdown"] == "Terminate"
    assert document["status"]["phase"] == "Failed"
    assert document["status"]["startedAt"] == utc_text(CREATED_AT)
    assert "could not begin" in document["status"]["message"]
    labels = document["metadata"]["labels"]
    assert labels["workflows.argoproj.io/completed"] == "true"
    assert labels["workflows.argoproj.io/phase"] == "Failed"
    assert finalizers(api, name) == []


@pytest.mark.parametrize("own_created_at", [None, CREATED_AT, YOUNG_OWN])
def test_what_may_still_begin_is_left_alone(
    api: KubernetesApi, deployment: Deployment, own_created_at: datetime | None
) -> None:
    name = add_run(api, "m")
    assert reconcile(deployment, own_created_at).findings == []
    assert finalizers(api, name) == [FINALIZER]
    assert api.count("^PATCH") == 0


@pytest.mark.parametrize("line", ["GET .*/task-m$", "PATCH .*/task-m .*Terminate"])
def test_what_begins_just_before_it_is_told_to_end_is_left_alone(
    api: KubernetesApi, deployment: Deployment, line: str
) -> None:
    name = add_run(api, "m")
    api.before(line, lambda: set_phase(api, name, "Running"))
    found = reconcile(deployment)
    assert (found.findings, found.released, found.failures) == ([], [], [])
    document = api.get("workflows", name)
    assert "shutdown" not in document["spec"]
    assert document["status"]["phase"] == "Running"
    assert finalizers(api, name) == [FINALIZER]


def test_what_begins_before_it_is_closed_is_argos_to_end_and_reported_by_a_later_pass(
    api: KubernetesApi, deployment: Deployment
) -> None:
    name = add_run(api, "m")
    began = utc_text(utc_now())
    api.before("PATCH .*/task-m .*could not begin", lambda: set_phase(api, name, "Running", startedAt=began))
    found = reconcile(deployment)
    assert (found.findings, found.released, found.waiting, found.failures) == ([], [], 1, [])
    assert api.get("workflows", name)["status"]["phase"] == "Running"
    assert finalizers(api, name) == [FINALIZER]
    assert reconcile(deployment).released == []

    set_phase(api, name, "Failed", startedAt=began)
    found = reconcile(deployment)
    assert (len(found.findings), found.released) == (1, [name])
    assert codes(deployment) == {"m": "stopped"}


def test_a_close_that_failed_is_made_up_for_by_the_next_pass(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m")
    api.fail(500, "PATCH .*could not begin", times=kubernetes.ATTEMPTS)
    found = reconcile(deployment)
    assert (found.findings, found.released, found.waiting, len(found.failures)) == ([], [], 1, 1)
    found = reconcile(deployment)
    assert ([one.code for one in found.findings], found.released) == (["internal"], [name])
    assert api.get("workflows", name)["status"]["phase"] == "Failed"
    assert codes(deployment) == {"m": "internal"}


# What has an entry


def test_what_was_reported_is_not_reported_again_and_is_let_go(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Failed")
    report(deployment, *failure(deployment.settings))
    found = reconcile(deployment)
    assert (found.findings, found.released) == ([], [name])
    assert (codes(deployment), letters(deployment)) == ({}, [])


def test_a_young_entry_keeps_the_finalizer_and_an_old_one_is_sent(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Failed", shutdown="Terminate")
    completed, _ = failure(deployment.settings)
    deployment.ledger().store.create("m.1.completed.json", completed.to_bytes())
    found = reconcile(deployment, resend_after_seconds=3600)
    assert (found.findings, found.released, found.waiting, found.failures) == ([], [], 1, [])
    assert finalizers(api, name) == [FINALIZER]
    assert deployment.completed() == []

    assert reconcile(deployment, resend_after_seconds=0).released == [name]
    # What the step said counts.
    assert deployment.completed() == [completed]
    assert letters(deployment) == ["m"]


def test_each_record_is_reported_but_what_was_reported_stays(api: KubernetesApi, deployment: Deployment) -> None:
    body = json.dumps({"Records": [RECORD, RECORD, {"s3": 7}]})
    name = add_run(api, "m", phase="Failed", shutdown="Terminate", body=body)
    report(deployment, *failure(deployment.settings, "m-1", body))
    found = reconcile(deployment)
    assert sorted(f.task_id for f in found.findings) == ["m-0", "m-2"]
    assert found.released == [name]
    assert codes(deployment) == {"m-0": "stopped", "m-2": "invalid_task"}
    assert letters(deployment) == ["m-0", "m-2"]


def test_a_message_without_tasks_is_only_let_go(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Failed", body='{"Event": "s3:TestEvent"}')
    found = reconcile(deployment)
    assert (found.findings, found.released) == ([], [name])
    assert codes(deployment) == {}


def test_what_a_step_noted_goes_before_what_the_workflow_tells(api: KubernetesApi, deployment: Deployment) -> None:
    add_run(api, "m", phase="Failed")
    reason = StepError.make("model_mismatch", "another model", "detect")
    deployment.ledger().store.put("m.1.reason.json", reason.model_dump_json().encode())
    reconcile(deployment)
    assert codes(deployment) == {"m": "model_mismatch"}


# What was started again


def test_a_retried_run_is_held_again_and_its_next_attempt_reported(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Running", finalizers=("other/one",))
    report(deployment, *failure(deployment.settings))
    found = reconcile(deployment)
    assert (found.findings, found.failures) == ([], [])
    assert finalizers(api, name) == ["other/one", FINALIZER]

    set_phase(api, name, "Failed", startedAt=utc_text(utc_now() + timedelta(hours=1)))
    assert reconcile(deployment).released == [name]
    (completed,) = deployment.completed()
    assert (completed.attempt, completed.error and completed.error.code) == (2, "internal")


@pytest.mark.parametrize(
    "run",
    [
        {"phase": "Running", "labels": {}},
        {"phase": "Succeeded"},
        {"phase": "Running", "deletionTimestamp": CREATED, "finalizers": ("other/one",)},
    ],
)
def test_nothing_else_is_held(api: KubernetesApi, deployment: Deployment, run: dict[str, Any]) -> None:
    add_run(api, "m", **{"finalizers": (), **run})
    found = reconcile(deployment)
    assert (found.findings, found.released, found.failures) == ([], [], [])
    assert api.count("^PATCH") == 0


def test_another_workflow_of_the_name_is_not_held_for_the_first(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Running", finalizers=())
    api.before("^PATCH", lambda: api.add("workflows", name, metadata={"uid": "another"}, spec={}, status={}))
    assert reconcile(deployment).failures == []
    assert finalizers(api, name) == []


# What is broken


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        {"arguments": None},
        {"arguments": {"parameters": None}},
        {"arguments": {"parameters": [{}]}},
        {"arguments": {"parameters": [{"name": "body"}, {"value": "x"}]}},
        {"arguments": {"parameters": [{"name": "body", "value": "{{=1+}}"}]}},
        {"arguments": {"parameters": [{"name": "body", "value": ["x"]}, {"name": 7, "value": {}}]}},
        *MALFORMED,
    ],
)
@pytest.mark.parametrize("phase", ["", "Error"])
def test_of_any_spec_a_task_is_reported_and_the_workflow_let_go(
    api: KubernetesApi, deployment: Deployment, spec: Any, phase: str
) -> None:
    name = add_run(api, "m", phase=phase, spec={"spec": spec})
    uid = api.get("workflows", name)["metadata"]["uid"]
    found = reconcile(deployment)
    assert (found.failures, found.released) == ([], [name])
    assert codes(deployment) == {uid: "invalid_task"}


def add_several(api: KubernetesApi, count: int = 5) -> list[str]:
    """Runs that are due; gives the names."""
    return [add_run(api, f"m{number}", phase="Failed", shutdown="Terminate") for number in range(count)]


def test_a_corrupt_entry_keeps_no_other_from_being_accounted_for(api: KubernetesApi, deployment: Deployment) -> None:
    names = add_several(api)
    deployment.ledger().store.create("m2.1.completed.json", b"{")
    found = reconcile(deployment)
    assert sorted(found.released) == [name for name in names if name != "task-m2"]
    assert (found.waiting, [error.exit_status for error in found.failures]) == (1, [4])
    assert finalizers(api, "task-m2") == [FINALIZER]
    assert set(codes(deployment)) == {"m0", "m1", "m3", "m4"}


@pytest.mark.parametrize("status", [409, 422])
@pytest.mark.parametrize("line", ["PATCH .*/task-m2 .*finalizers", "PATCH .*/task-m2 .*Terminate"])
def test_what_somebody_changed_meanwhile_is_looked_at_again_by_the_next_pass(
    api: KubernetesApi, deployment: Deployment, status: int, line: str
) -> None:
    names = add_several(api, 2)
    names.append(add_run(api, "m2"))
    api.fail(status, line)
    found = reconcile(deployment)
    assert sorted(found.released) == names[:2]
    assert found.failures == []
    found = reconcile(deployment)
    assert (found.released, found.failures) == (names[2:], [])
    assert codes(deployment) == {"m0": "stopped", "m1": "stopped", "m2": "internal"}


def test_what_vanishes_meanwhile_is_no_failure(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Running", deletionTimestamp=CREATED)
    api.before("PATCH", lambda: api.change("workflows", name, {"metadata": {"finalizers": None}}))
    found = reconcile(deployment)
    assert (found.waiting, found.failures) == (0, [])
    assert codes(deployment) == {"m": "deleted"}


def test_what_vanishes_before_it_is_looked_at_is_somebody_elses(api: KubernetesApi, deployment: Deployment) -> None:
    name = add_run(api, "m", phase="Running", deletionTimestamp=CREATED)
    api.before("GET .*/task-m$", lambda: api.change("workflows", name, {"metadata": {"finalizers": None}}))
    found = reconcile(deployment)
    assert (found.findings, found.waiting, found.failures) == ([], 0, [])


@pytest.mark.parametrize("line", ["GET .*/task-m2$", "PATCH .*/task-m2 "])
def test_one_that_always_fails_keeps_no_other_from_being_accounted_for(
    api: KubernetesApi, deployment: Deployment, line: str
) -> None:
    names = add_several(api)
    api.fail(500, line, times=1000)
    for _ in range(2):
        found = reconcile(deployment)
        assert found.waiting == 1
        (error,) = found.failures
        assert isinstance(error, KubernetesError)
    assert [name for name in names if finalizers(api, name)] == ["task-m2"]
    assert set(codes(deployment)) >= {"m0", "m1", "m3", "m4"}


def test_a_server_that_fails_once_is_no_failure(api: KubernetesApi, deployment: Deployment) -> None:
    names = add_several(api, 2)
    for line in ("GET .*/workflows\\?", "GET .*/task-m0$", "PATCH .*/task-m1 "):
        api.fail(500, line)
    found = reconcile(deployment)
    assert (sorted(found.released), found.failures) == (names, [])
    assert set(codes(deployment)) == {"m0", "m1"}


def test_a_list_of_several_pages_is_looked_at_whole(
    api: KubernetesApi, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 2)
    names = add_several(api)
    assert sorted(reconcile(deployment).released) == names
    assert api.count("GET .*/workflows\\?") == 3


def test_half_a_list_is_none(api: KubernetesApi, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 2)
    names = add_several(api)
    api.fail(410, "continue=task")
    with pytest.raises(KubernetesError, match="410"):
        reconcile(deployment)
    assert [name for name in names if finalizers(api, name)] == names
    assert sorted(reconcile(deployment).released) == names


# S3 and SQS that are away


def test_s3_that_refuses_in_mid_pass_ends_it_and_the_next_one_does_the_rest(
    api: KubernetesApi, deployment: Deployment, faults: FaultProxy
) -> None:
    names = add_several(api, 8)
    api.before("GET .*/workflows/", lambda: None, times=2)
    api.before("GET .*/workflows/", lambda: faults.inject("deny", "PUT .*completed", times=MOST_FAILURES))
    found = reconcile(deployment)
    assert (len(found.released), found.waiting, len(found.failures)) == (2, 6, MOST_FAILURES)
    assert all(isinstance(error, AccessDeniedError) for error in found.failures)
    assert sorted(name for name in names if not finalizers(api, name)) == sorted(found.released)
    again = reconcile(deployment)
    assert (sorted(found.released + again.released), again.failures) == (names, [])
    assert set(codes(deployment)) == {f"m{number}" for number in range(8)}


def test_sqs_that_refuses_between_message_and_dead_letter_gets_what_lacks_from_the_next_pass(
    api: KubernetesApi, deployment: Deployment, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = add_run(api, "m", phase="Failed", shutdown="Terminate")
    send = Queues.send

    def refuse_letters(queues: Queues, queue: str, *given: Any, **more: Any) -> str:
        if queue == deployment.settings.dead_letter_queue:
            faults.inject("deny", "SendMessage")
        return send(queues, queue, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Queues, "send", refuse_letters)
        found = reconcile(deployment)
    assert (found.released, found.waiting, len(found.failures)) == ([], 1, 1)
    (first,) = deployment.completed()
    assert (finalizers(api, name), letters(deployment)) == ([FINALIZER], [])

    found = reconcile(deployment, resend_after_seconds=0)
    assert (found.released, found.failures) == ([name], [])
    assert letters(deployment) == ["m"]
    # Who sends again does not know how far the first came.
    assert deployment.completed() == [first]
    assert reconcile(deployment, resend_after_seconds=0).findings == []
    assert deployment.completed() == []


def test_a_pass_that_is_killed_while_it_reports_is_made_up_for_by_the_next(
    api: KubernetesApi, deployment: Deployment, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = add_run(api, "m", phase="Failed", shutdown="Terminate")
    faults.inject("hang", r"PUT .*m\.1\.sent")
    command = ("reconcile", "--own-created-at", OWN.isoformat())
    with started(*command) as process:
        wait_until(lambda: faults.count(r"PUT .*m\.1\.sent") == 1, "the mark is about to be made")
        process.kill()
        assert finish(process)[0] < 0
    assert finalizers(api, name) == [FINALIZER]
    assert not deployment.ledger().find("m")[0].sent

    monkeypatch.setenv("REELSCAN_RESEND_AFTER_SECONDS", "0")
    done = reelscan(*command)
    assert done.returncode == 0, done.stderr
    assert finalizers(api, name) == []
    (entry,) = deployment.ledger().find("m")
    assert entry.sent
    assert deployment.completed() == [entry.completed] * 2
    assert letters(deployment) == ["m"] * 2


# Two passes at once


@pytest.mark.parametrize("line", ["GET .*/task-m$", "PATCH .*/task-m .*finalizers"])
def test_a_pass_within_another_reports_once(api: KubernetesApi, deployment: Deployment, line: str) -> None:
    name = add_run(api, "m", phase="Failed")
    inner: list[Report] = []
    api.before(line, lambda: inner.append(reconcile(deployment)))
    outer = reconcile(deployment)
    assert len(inner[0].findings) + len(outer.findings) == 1
    assert (inner[0].released, outer.failures, finalizers(api, name)) == ([name], [], [])
    assert codes(deployment) == {"m": "internal"}


def test_two_passes_at_once_report_once(api: KubernetesApi, deployment: Deployment) -> None:
    names = add_several(api, 4)
    both = threading.Barrier(2)
    api.before("GET .*/workflows\\?", lambda: both.wait(60), times=2)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: reconcile(deployment, resend_after_seconds=3600), range(2))
    assert len(first.findings) + len(second.findings) == 4
    assert first.failures + second.failures == []
    reconcile(deployment)
    assert [name for name in names if finalizers(api, name)] == []
    assert codes(deployment) == {f"m{number}": "stopped" for number in range(4)}
    assert letters(deployment) == [f"m{number}" for number in range(4)]


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


def bury(deployment: Deployment) -> None:
    """A letter of our own."""
    Queues(deployment.settings).send(str(deployment.settings.dead_letter_queue), TASK, {"task_id": "own"})


@pytest.mark.parametrize("own_created_at", [None, STRAYS_OWN])
def test_what_sqs_moved_is_reported_and_has_a_letter_of_ours_instead(
    api: KubernetesApi, deployment: Deployment, own_created_at: datetime | None
) -> None:
    bury(deployment)
    message_id = move(deployment)
    found = reconcile(deployment, own_created_at)
    assert [(f.task_id, f.code, f.workflow) for f in found.findings] == [(message_id, "internal", None)]
    assert found.dead_letters == 2
    assert codes(deployment) == {message_id: "internal"}
    assert letters(deployment) == sorted(["own", message_id])


def test_the_dead_letters_are_looked_through_every_five_minutes(api: KubernetesApi, deployment: Deployment) -> None:
    move(deployment)
    found = [reconcile(deployment, CREATED_AT + timedelta(minutes=minute)) for minute in range(1, 6)]
    assert [len(one.findings) for one in found] == [0, 0, 0, 0, 1]


def test_what_sqs_moved_stays_and_is_visible_while_s3_refuses(
    api: KubernetesApi, deployment: Deployment, faults: FaultProxy
) -> None:
    message_id = move(deployment)
    faults.inject("deny", "PUT .*completed")
    found = reconcile(deployment, STRAYS_OWN)
    assert (found.findings, len(found.failures)) == ([], 1)
    assert Queues(deployment.settings).count(str(deployment.settings.dead_letter_queue)).visible == 1
    assert [f.task_id for f in reconcile(deployment, STRAYS_OWN).findings] == [message_id]
    assert letters(deployment) == [message_id]


def test_what_sqs_moved_and_has_a_workflow_is_that_ones_to_report(api: KubernetesApi, deployment: Deployment) -> None:
    add_run(api, move(deployment), phase="Running")
    assert reconcile(deployment, STRAYS_OWN).findings == []
    assert (codes(deployment), deployment.dead_letters()) == ({}, [])


def test_no_dead_letter_queue_is_looked_through_while_nothing_is_due(
    api: KubernetesApi, deployment: Deployment
) -> None:
    found = reconcile(deployment, STRAYS_OWN, dead_letter_queue=None, task_queue=None)
    assert (found.failures, found.dead_letters, found.queued) == ([], 0, 0)


class TestCommand:
    COMMAND = ("reconcile", "--own-created-at", OWN.isoformat())

    def test_each_finding_is_a_line_and_the_figures_are_files(
        self, api: KubernetesApi, deployment: Deployment, tmp_path: Path
    ) -> None:
        names = add_several(api, 2)
        report(deployment, *failure(deployment.settings, "m1"))
        add_run(api, "m2", phase="Pending", shutdown="Stop", managedFields=SHUT_DOWN)
        bury(deployment)
        deployment.send(TASK)
        done = reelscan(*self.COMMAND, "--figures", str(tmp_path / "new" / "figures"))
        assert done.returncode == 0, done.stderr
        finding, figures = (json.loads(line) for line in done.stdout.splitlines())
        assert (finding["task_id"], finding["code"], finding["workflow"]) == ("m0", "stopped", names[0])
        due = {"reported": 1, "released": 2, "waiting": 1, "failures": 0, "dead_letters": 2, "queued": 1}
        assert figures == due
        files = {path.name: int(path.read_text()) for path in (tmp_path / "new" / "figures").iterdir()}
        assert files == due

    @pytest.mark.parametrize(("broken", "status"), [("entry", 4), ("object", 1)])
    def test_what_fails_is_a_line_and_a_status_after_all_others_are_done(
        self, api: KubernetesApi, deployment: Deployment, tmp_path: Path, broken: str, status: int
    ) -> None:
        names = add_several(api)
        if broken == "entry":
            deployment.ledger().store.create("m2.1.completed.json", b"{")
        else:
            # No API server would give that: any defect must not keep the others from being done.
            api.change("workflows", "task-m2", {"metadata": {"creationTimestamp": None}})
        done = reelscan(*self.COMMAND, "--figures", str(tmp_path))
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == 1
        assert [name for name in names if finalizers(api, name)] == ["task-m2"]
        assert (tmp_path / "failures").read_text() == "1"
        assert len(done.stdout.splitlines()) == 5

    def test_without_a_list_there_is_one_line_and_a_status(self, api: KubernetesApi, deployment: Deployment) -> None:
        api.fail(410, times=1000)
        done = reelscan(*self.COMMAND)
        assert done.returncode == 4
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        ("arguments", "variables", "said"),
        [
            ((), {"REELSCAN_RESULTS": ""}, "REELSCAN_RESULTS"),
            (("--own-created-at", "yesterday"), {}, "--own-created-at"),
            (("--own-created-at", "2026-01-31T12:00:00"), {}, "time zone"),
            ((), {"KUBECONFIG": "/nowhere"}, "KUBECONFIG"),
            (("extra",), {}, "extra"),
        ],
    )
    def test_wrong_usage_is_status_2(
        self,
        api: KubernetesApi,
        deployment: Deployment,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        variables: dict[str, str],
        said: str,
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = reelscan("reconcile", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1

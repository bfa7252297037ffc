"""The last resort: each task that nothing else has reported is reported once, and its Workflow let go."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from events import kubernetes
from events.kubernetes import Namespace
from events.runs import COMPLETED_LABEL, FINALIZER
from steps.completed import StepError
from steps.queues import Queues
from steps.reporting import Origin, Reporter
from steps.store import open_store
from steps.task import parse_message
from steps.timestamps import utc_now, utc_text
from tests.events.kubernetes_api import CREATED, TASK, KubernetesApi, add_run, set_phase
from tests.events.passes import (
    CREATED_AT,
    RECORD,
    SHUT_DOWN,
    YOUNG_OWN,
    codes,
    failure,
    finalizers,
    letters,
    reconcile,
    report,
)
from tests.local.conftest import Deployment

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


def test_what_is_deleted_and_goes_on_meanwhile_reports_nothing_again(
    api: KubernetesApi, deployment: Deployment
) -> None:
    """Argo goes on with a Workflow that is being deleted, until the finalizer is gone."""
    name = add_run(api, "m", phase="Running", deletionTimestamp=CREATED)
    api.fail(500, "^PATCH", times=100)
    reconcile(deployment)
    assert finalizers(api, name) == [FINALIZER]
    results = open_store(deployment.settings.results or "", deployment.settings)
    for since in (None, utc_now()):
        origin = Origin(CREATED_AT, name, since=since)
        step = Reporter(results, Queues(deployment.settings), deployment.settings, origin)
        (received,) = parse_message(TASK.encode(), "m", deployment.settings)
        step.report_error(received, StepError.make("internal", "it broke", "detect"))
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
    deployment.ledger().close("m", 1)
    found = reconcile(deployment)
    assert (found.findings, found.failures) == ([], [])
    assert finalizers(api, name) == ["other/one", FINALIZER]

    set_phase(api, name, "Failed", startedAt=utc_text(utc_now() + timedelta(hours=1)))
    assert reconcile(deployment).released == [name]
    (completed,) = deployment.completed()
    assert (completed.attempt, completed.error and completed.error.code) == (2, "internal")


def test_a_run_that_succeeded_when_it_was_retried_has_no_record_reported_again(
    api: KubernetesApi, deployment: Deployment
) -> None:
    """A record that planning refused is not looked at again when another one is retried."""
    body = json.dumps({"Records": [RECORD, RECORD]})
    name = add_run(api, "m", phase="Failed", body=body)
    report(deployment, *failure(deployment.settings, "m-0", body))
    reconcile(deployment)
    assert codes(deployment) == {"m-1": "internal"}

    set_phase(api, name, "Running")
    api.change("workflows", name, {"metadata": {"finalizers": [FINALIZER], "labels": {COMPLETED_LABEL: None}}})
    set_phase(api, name, "Succeeded", startedAt=utc_text(utc_now() + timedelta(hours=1)))
    assert reconcile(deployment).findings == []


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

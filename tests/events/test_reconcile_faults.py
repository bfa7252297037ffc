"""What is broken, away or at work at the same time keeps no task from being reported, and none is contradicted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from events import kubernetes
from events.reconcile import MOST_FAILURES, Report
from events.runs import FINALIZER
from steps.errors import AccessDeniedError, KubernetesError
from steps.queues import Queues
from tests.events.kubernetes_api import CREATED, KubernetesApi, add_run
from tests.events.passes import (
    OWN,
    add_several,
    codes,
    finalizers,
    letters,
    reconcile,
)
from tests.faults import FaultProxy
from tests.local.command import finish, reelscan, started, wait_until
from tests.local.conftest import Deployment

MALFORMED = [
    pytest.param({"arguments": {"parameters": [None, "text", 7]}}),
    pytest.param({"arguments": {"parameters": {"name": "body"}}}),
    pytest.param({"arguments": "text"}),
]


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

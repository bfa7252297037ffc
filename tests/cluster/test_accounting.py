"""What becomes of messages when their runs are stopped, deleted, repeated, never valid or never made."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from events.runs import FINALIZER, NAME_START
from steps.completed import Completed
from tests.cluster.cluster import Run, wait_for
from tests.cluster.coded_runs import CODED, LIMITS
from tests.cluster.events import EventsCluster, open_events
from tests.cluster.faults import faulty_serving, log
from tests.cluster.traffic import upload, write_clip

pytestmark = pytest.mark.cluster

REELSCAN = str(Path(sys.executable).with_name("reelscan"))
REQUEST_SECONDS = 3.0
LONG_FRAMES = 100
"""Twenty requests: a minute."""
END_SECONDS = 60.0
"""Within which a run that is told to end has ended."""
REPORT_SECONDS = 180.0
"""Within which it is reported."""
DELAY_SECONDS = 5.0
"""The most by which one message may hold up the next."""
HOSTILE = {
    "tags": '{"bucket": "{{workflow.uid}}", "object": "{{=1+}}", "id": "{{"}',
    "open-brace": "{{",
    "expression": "{{=1+}}",
    "shell": '{"bucket": "$(touch /tmp/x)", "object": "; rm -rf / #`id`"}',
    "yaml": "&a [*a, *a]\n- !!python/object/apply:os.system ['id']",
    "deep": "[" * 20_000 + "]" * 20_000,
    "list": "[1, 2, 3]",
    "number": "1e999",
    "types": '{"bucket": 7, "object": ["a"], "priority": {"a": 1}}',
    "priority": '{"bucket": "some-bucket", "object": "x", "priority": 1e300}',
    "records": '{"Records": [{"s3": 7}, [], null, "{{workflow.name}}"]}',
    "no-records": '{"Records": {}}',
    "escapes": '{"bucket": "\\u001b[31m\\u202e", "object": "\\u0000"}',
    "large": json.dumps({"bucket": "some-bucket", "object": "x", "id": "y" * 65_000}),
}


@dataclass
class Asked:
    """Messages that were sent, by what they are about."""

    cluster: EventsCluster
    ids: dict[str, str] = field(default_factory=dict)
    sent_at: dict[str, float] = field(default_factory=dict)

    def send(self, name: str, body: str | None = None, **fields: Any) -> Run:
        """Send a message, by default a task on the clip, and give its run."""
        task = {"bucket": self.cluster.videos, "object": "clip.mp4", "id": name, **fields}
        self.ids[name] = self.cluster.send(json.dumps(task) if body is None else body)
        return self.run(name)

    def run(self, name: str) -> Run:
        """The run of a message."""
        return self.cluster.run_of(self.ids[name])

    def completed(self, name: str, seconds: float = REPORT_SECONDS + 60) -> Completed:
        """The one completed message of a message's task."""
        message = self.cluster.completed(self.ids[name], seconds=seconds)
        assert self.cluster.all_completed(self.ids[name]) == [message]
        return message

    def dead_letter(self, name: str) -> dict[str, Any]:
        """The one of a message; waits for it, since it is sent after the completed message."""

        def found() -> list[dict[str, Any]]:
            self.cluster.receive()
            return [
                letter
                for letter in self.cluster.dead_letters
                if letter["MessageAttributes"]["task_id"]["StringValue"] == self.ids[name]
            ]

        (letter,) = wait_for(f"the dead letter of {name}", lambda: found() or None, REPORT_SECONDS)
        return letter


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsCluster]:
    namespace = f"reelscan-events-{uuid.uuid4().hex[:6]}"
    settings: dict[str, Any] = {
        **CODED,
        "max_runs": 6,
        "serving": faulty_serving(DELAY_SECONDS=REQUEST_SECONDS),
        "allowed_sources": [f"s3://videos-{namespace}/*"],
        "limits": {**LIMITS, "max_frames": 3},
    }
    with open_events(namespace, **settings) as opened:
        upload(opened.s3, opened.videos, write_clip(tmp_path_factory.mktemp("clip") / "coded.mp4"))
        yield opened


@pytest.fixture(scope="module")
def asked(cluster: EventsCluster) -> Asked:
    """Runs of which each was disturbed in another way."""
    asked = Asked(cluster)
    make_workflow(cluster, asked, "invalid", parameters={"body": "{{=1+}}"})
    invalid_text = base64.b64encode(b'{"bucket": "\xff\xfe", "object": "x"}').decode()
    make_workflow(cluster, asked, "no-text", parameters={"body": invalid_text})
    for name in ("stopped", "terminated", "cancelled", "deleted"):
        asked.send(name, max_frames=LONG_FRAMES, min_score={"stopped": 0.1, "terminated": 0.2}.get(name, 0.3))
    for name in ("stopped", "terminated", "cancelled", "deleted"):
        wait_for(f"{name} to run", partial(is_running, asked.run(name)))
    cluster.argo("stop", asked.run("stopped").name)
    cluster.argo("terminate", asked.run("terminated").name)
    cluster.kubectl("delete", "workflow", asked.run("deleted").name, "--wait=false")
    said = reelscan(cluster, "cancel", "--namespace", cluster.namespace, asked.ids["cancelled"])
    assert "has ended" in said
    return asked


def phase(run: Run) -> str:
    """Of a run that may not be there yet."""
    return run.cluster.kubectl(
        "get", "workflow", run.name, "--ignore-not-found", "-o", "jsonpath={.status.phase}", check=False
    )


def make_workflow(
    cluster: EventsCluster, asked: Asked, name: str, *, parameters: dict[str, str], message_id: str | None = None
) -> None:
    """What the Sensor makes of a message, made by hand."""
    asked.ids[name] = message_id or str(uuid.uuid4())
    given = {"message_id": asked.ids[name], **parameters}
    cluster.apply(
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {
                "name": NAME_START + asked.ids[name],
                "finalizers": [FINALIZER],
                "labels": {"reelscan.dev/origin": "message"},
                "annotations": {"reelscan.dev/title": name},
            },
            "spec": {
                "workflowTemplateRef": {"name": "reelscan"},
                "arguments": {"parameters": [{"name": key, "value": value} for key, value in given.items()]},
            },
        }
    )


def environment(cluster: EventsCluster) -> dict[str, str]:
    """Variables of an operator's shell."""
    return {
        **os.environ,
        "REELSCAN_RESULTS": str(cluster.settings["results"]),
        "REELSCAN_TASK_QUEUE": cluster.queue_name("task"),
        "REELSCAN_COMPLETED_QUEUE": cluster.queue_name("completed"),
        "REELSCAN_DEAD_LETTER_QUEUE": cluster.queue_name("dead"),
    }


def reelscan(cluster: EventsCluster, *arguments: str, status: int = 0) -> str:
    """Output of a command."""
    done = subprocess.run(
        [REELSCAN, *arguments], env=environment(cluster), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["stopped", "terminated", "cancelled"])
def test_a_run_that_is_told_to_end_ends_within_a_minute_and_is_reported_within_three(asked: Asked, name: str) -> None:
    run = asked.run(name)
    run.wait(END_SECONDS)
    completed = asked.completed(name, REPORT_SECONDS)
    assert (completed.status, completed.attempt, completed.id) == ("failed", 1, name)
    assert completed.error is not None
    assert completed.error.code == "stopped"
    assert asked.dead_letter(name)["MessageAttributes"]["code"]["StringValue"] == "stopped"


def test_a_run_that_is_deleted_is_reported_before_it_vanishes(asked: Asked) -> None:
    completed = asked.completed("deleted", REPORT_SECONDS)
    assert completed.error is not None
    assert completed.error.code == "deleted"
    assert completed.workflow == asked.run("deleted").name
    wait_for("the workflow to vanish", lambda: not exists(asked.run("deleted")) or None, END_SECONDS)
    wait_for(
        "its pods to end",
        lambda: (not [pod for pod in asked.run("deleted").pods("detect-and-aggregate") if not ended(pod)]) or None,
        END_SECONDS,
    )


def exists(run: Run) -> bool:
    return bool(run.cluster.kubectl("get", "workflow", run.name, "--ignore-not-found", "-o", "name"))


def ended(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def test_a_body_that_is_no_text_is_reported(asked: Asked) -> None:
    completed = asked.completed("no-text")
    assert completed.error is not None
    assert completed.error.code == "invalid_task"
    assert "not UTF-8" in completed.error.message


def test_a_waiting_run_that_is_stopped_ends_at_once(cluster: EventsCluster, asked: Asked) -> None:
    """It would notice only when its turn comes; the reconciler makes it end."""
    limit_runs(cluster, 1)
    try:
        asked.send("holder", max_frames=LONG_FRAMES, min_score=0.8)
        wait_for("one to hold the only place", partial(is_running, asked.run("holder")))
        for name in ("waiting-stopped", "waiting-cancelled"):
            asked.send(name, max_frames=3)
            wait_for(f"{name} to wait", partial(is_waiting, asked.run(name)))
        cluster.argo("stop", asked.run("waiting-stopped").name)
        reelscan(cluster, "cancel", "--namespace", cluster.namespace, asked.ids["waiting-cancelled"])
        for name in ("waiting-stopped", "waiting-cancelled"):
            completed = asked.completed(name, REPORT_SECONDS)
            assert completed.error is not None
            assert completed.error.code == "stopped"
            assert [node for node in asked.run(name).nodes() if node.get("hostNodeName")] == []
        cluster.argo("terminate", asked.run("holder").name)
    finally:
        limit_runs(cluster, 6)


def limit_runs(cluster: EventsCluster, runs: int) -> None:
    """How many may go on at a time from now on."""
    patch = json.dumps({"data": {"runs": str(runs)}})
    cluster.kubectl("patch", "configmap", "reelscan-limits", "--type=merge", "-p", patch)


def is_running(run: Run) -> bool | None:
    return phase(run) == "Running" or None


def is_waiting(run: Run) -> bool | None:
    return phase(run) == "Pending" or None


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


def settle(cluster: EventsCluster, run: Run) -> None:
    """Have the run accounted for, without waiting for the reconciler's next minute."""

    def settled() -> bool | None:
        if run.name in cluster.unaccounted():
            reelscan(cluster, "reconcile", "--namespace", cluster.namespace)
        return run.name not in cluster.unaccounted() or None

    wait_for(f"{run.name} to be accounted for", settled)


def parameter(document: dict[str, Any], name: str) -> str:
    return next(p["value"] for p in document["spec"]["arguments"]["parameters"] if p["name"] == name)


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
    moved = cluster.sqs.send_message(QueueUrl=cluster.queue_url("dead"), MessageBody=json.dumps(task))
    asked.ids["stray"] = moved["MessageId"]
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


def entries(cluster: EventsCluster, task_id: str) -> list[str]:
    """Keys of the ledger."""
    listed = cluster.s3.list_objects_v2(Bucket=cluster.results, Prefix=f"reelscan/ledger/{task_id}.")
    return [entry["Key"] for entry in listed.get("Contents", [])]


@pytest.fixture(scope="module")
def hostile(cluster: EventsCluster, asked: Asked) -> Asked:
    """Hostile messages, each followed by a good one."""
    for name, body in HOSTILE.items():
        asked.send(f"hostile-{name}", body)
        asked.send(f"after-{name}", max_frames=1)
    return asked


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_answered_runs_nothing_and_holds_up_no_other(hostile: Asked, name: str) -> None:
    for task_id in task_ids(hostile, f"hostile-{name}"):
        completed = hostile.cluster.completed(task_id)
        assert completed.status == "failed"
        assert completed.error is not None
        assert completed.error.code in ("invalid_task", "access_denied")
        assert re.fullmatch(r"[^\x00-\x1f\x7f]+", completed.error.message)
    after = hostile.completed(f"after-{name}")
    assert after.status == "succeeded"
    made = [created(hostile.run(f"{which}-{name}")) for which in ("hostile", "after")]
    log(hostile=name, seconds_to_the_next=made[1] - made[0])
    assert abs(made[1] - made[0]) <= DELAY_SECONDS


def task_ids(asked: Asked, name: str) -> list[str]:
    """Of the tasks of a message."""
    message_id = asked.ids[name]
    try:
        records = json.loads(HOSTILE[name.removeprefix("hostile-")])["Records"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return [message_id]
    return [f"{message_id}-{number}" for number in range(len(records))] or [message_id]


def created(run: Run) -> float:
    """When its Workflow was made, in Unix seconds."""
    return datetime.fromisoformat(run.workflow()["metadata"]["creationTimestamp"]).timestamp()


def test_nothing_of_a_message_stands_in_a_spec_but_its_encoded_body(hostile: Asked) -> None:
    body = json.dumps(
        {"bucket": hostile.cluster.videos, "object": "{{workflow.uid}} {{=1+}}.mp4", "id": "spec", "priority": 99}
    )
    run = hostile.send("spec", body)
    hostile.completed("spec")
    document = run.workflow()
    spec = yaml.safe_dump(document["spec"])
    assert "workflow.uid" not in spec
    assert document["spec"]["priority"] == 9
    assert base64.b64decode(parameter(document, "body")).decode() == body
    assert document["metadata"]["annotations"]["workflows.argoproj.io/title"] == (
        f"{hostile.cluster.videos}/((workflow.uid)) ((=1+)).mp4"
    )


def test_a_workflow_that_argo_could_never_begin_is_reported_and_let_go(cluster: EventsCluster, asked: Asked) -> None:
    completed = asked.completed("invalid", 420)
    assert completed.error is not None
    assert completed.error.code in ("internal", "invalid_task")
    wait_for("the finalizer to go", lambda: asked.run("invalid").name not in cluster.unaccounted() or None)
    document = asked.run("invalid").workflow()
    assert document["spec"]["shutdown"] == "Terminate"
    # Without a phase it would make Argo's controller fail its health check.
    assert document["status"]["phase"] == "Failed"
    assert "could not begin" in document["status"]["message"]


def test_two_passes_at_once_report_once(cluster: EventsCluster, asked: Asked) -> None:
    suspend(cluster, "true")
    try:
        run = asked.send("two-passes", max_frames=LONG_FRAMES, min_score=0.7)
        wait_for("it to run", partial(is_running, run))
        cluster.argo("terminate", run.name)
        run.wait(END_SECONDS)
        assert entries(cluster, asked.ids["two-passes"]) == []
        command = [REELSCAN, "reconcile", "--namespace", cluster.namespace]
        passes = [
            subprocess.Popen(
                command, env=environment(cluster), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for _ in range(2)
        ]
        said = [process.communicate(timeout=240)[0] for process in passes]
        assert [process.returncode for process in passes] == [0, 0], said
        assert sum(text.count(asked.ids["two-passes"]) and '"code": "stopped"' in text for text in said) == 1, said
        assert asked.completed("two-passes").error is not None
        assert asked.dead_letter("two-passes")
    finally:
        suspend(cluster, "false")


def suspend(cluster: EventsCluster, value: str) -> None:
    """Whether the reconciler runs by itself."""
    patch = f'{{"spec":{{"suspend":{value}}}}}'
    cluster.kubectl("patch", "cronworkflow", "reelscan-reconcile", "--type=merge", "-p", patch)


def test_the_reconciler_may_do_nothing_that_it_need_not(cluster: EventsCluster) -> None:
    account = f"system:serviceaccount:{cluster.namespace}:reelscan-reconciler"

    def may(verb: str, kind: str) -> bool:
        said = cluster.kubectl("auth", "can-i", verb, kind, f"--as={account}", check=False)
        return said.strip().startswith("yes")

    allowed = [("get", "workflows"), ("list", "workflows"), ("patch", "workflows"), ("delete", "configmaps")]
    refused = [
        ("create", "workflows"),
        ("delete", "workflows"),
        ("get", "secrets"),
        ("list", "pods"),
        ("create", "configmaps"),
    ]
    assert [pair for pair in allowed if not may(*pair)] == []
    assert [pair for pair in refused if may(*pair)] == []


def test_a_message_of_which_no_workflow_can_be_made_is_kept_and_reported(cluster: EventsCluster, asked: Asked) -> None:
    """The Sensor may not make Workflows for a while; its hour of retries is shortened."""
    retry = [{"op": "replace", "path": "/spec/triggers/0/retryStrategy", "value": {"steps": 2, "duration": "1s"}}]
    cluster.kubectl("patch", "sensor", "reelscan", "--type=json", "-p", json.dumps(retry))
    role = cluster.get("role", "reelscan-sensor")
    rules = [{"op": "replace", "path": "/rules/0/verbs", "value": ["get"]}]
    cluster.kubectl("patch", "role", "reelscan-sensor", "--type=json", "-p", json.dumps(rules))
    try:
        asked.send("undelivered", max_frames=2)
        completed = asked.completed("undelivered")
    finally:
        mend = [{"op": "replace", "path": "/rules", "value": role["rules"]}]
        cluster.kubectl("patch", "role", "reelscan-sensor", "--type=json", "-p", json.dumps(mend))
    assert completed.error is not None
    assert completed.error.code == "internal"
    assert not exists(asked.run("undelivered"))
    left = cluster.kubectl("get", "configmaps", "-l", "reelscan.dev/undelivered=true", "-o", "name")
    wait_for("the kept message to be removed", lambda: not left or None)
    # The next one comes through.
    asked.send("delivered", max_frames=2)
    assert asked.completed("delivered").status == "succeeded"


def test_no_workflow_is_left_unaccounted(cluster: EventsCluster, asked: Asked) -> None:
    wait_for(lambda: f"finalizers to go: {cluster.unaccounted()}", lambda: not cluster.unaccounted() or None)

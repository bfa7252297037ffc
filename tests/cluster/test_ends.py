"""What becomes of messages whose runs are stopped, terminated, deleted, never begun or never made."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from events.deploy import PARALLELISM_LABEL, Deployment
from tests.cluster.asked import (
    END_SECONDS,
    LONG_FRAMES,
    MAX_RUNS,
    REELSCAN,
    REPORT_SECONDS,
    Asked,
    assert_all_are_accounted_for,
    entries,
    environment,
    exists,
    is_running,
    is_waiting,
    make_workflow,
    open_slow_events,
    phase,
    reelscan,
)
from tests.cluster.cluster import Run, wait_for
from tests.cluster.events import EventsCluster
from tests.kubernetes.validation import validate
from workflows import WorkflowSettings

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsCluster]:
    with open_slow_events(tmp_path_factory.mktemp("clip"), apart=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def asked(cluster: EventsCluster) -> Asked:
    """Runs of which each was disturbed in another way."""
    asked = Asked(cluster)
    make_workflow(cluster, asked, "invalid", parameters={"body": "{{=1+}}"})
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


def ended(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


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


@pytest.mark.parametrize("by", ["lock", "label"])
def test_a_waiting_run_that_is_stopped_ends_at_once(cluster: EventsCluster, asked: Asked, by: str) -> None:
    """It would notice only when its turn comes; the reconciler makes it end. With the label Argo looks at none."""
    holder, names = Run(cluster, f"holder-{by}"), [f"stopped-by-{by}", f"cancelled-by-{by}"]
    limit_runs(cluster, by, 1)
    try:
        hold_the_only_place(cluster, holder.name)
        for name in names:
            asked.send(name, max_frames=3)
            wait_for(f"{name} to wait", partial(is_waiting, asked.run(name)))
        cluster.argo("stop", asked.run(names[0]).name)
        reelscan(cluster, "cancel", "--namespace", cluster.namespace, asked.ids[names[1]])
        for name in names:
            completed = asked.completed(name, REPORT_SECONDS)
            assert completed.error is not None
            assert completed.error.code == "stopped"
            assert [node for node in asked.run(name).nodes() if node.get("hostNodeName")] == []
            assert_says_what_it_is(asked.run(name), f"{cluster.videos}/clip.mp4")
        assert phase(holder) == "Running"
    finally:
        cluster.argo("terminate", holder.name, check=False)
        limit_runs(cluster, by, MAX_RUNS)


def assert_says_what_it_is(run: Run, title: str) -> None:
    """Argo gives a run that waits by the label neither, since it does not look at it."""
    metadata = run.workflow()["metadata"]
    assert metadata["annotations"]["workflows.argoproj.io/title"] == title
    assert metadata["labels"]["reelscan.dev/workflow"] == "reelscan"


def hold_the_only_place(cluster: EventsCluster, name: str) -> None:
    """Take it with a Workflow that goes on until it is terminated: a run of the model could end too soon."""
    cluster.apply(
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"name": name},
            "spec": {
                "entrypoint": "hold",
                "templates": [{"name": "hold", "suspend": {}}],
                "synchronization": {"semaphores": [{"configMapKeyRef": {"name": "reelscan-limits", "key": "runs"}}]},
            },
        }
    )
    wait_for("it to hold the only place", partial(is_running, Run(cluster, name)))


def limit_runs(cluster: EventsCluster, by: str, runs: int) -> None:
    """How many may go on at a time from now on: by the workflow's lock, or by the namespace's label."""
    if by == "lock":
        patch = json.dumps({"data": {"runs": str(runs)}})
        cluster.kubectl("patch", "configmap", "reelscan-limits", "--type=merge", "-p", patch)
    else:
        cluster.command(
            "kubectl", "label", "namespace", cluster.namespace, f"{PARALLELISM_LABEL}={runs}", "--overwrite"
        )


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
    cluster.reconciler("patch", "cronworkflow", "reelscan-reconcile", "--type=merge", "-p", patch)


def test_the_reconciler_may_do_nothing_that_it_need_not(cluster: EventsCluster) -> None:
    account = f"system:serviceaccount:{cluster.reconciler_namespace}:reelscan-reconciler"

    def may(verb: str, kind: str, *, beside: bool = False) -> bool:
        ask = cluster.reconciler if beside else cluster.kubectl
        return ask("auth", "can-i", verb, kind, f"--as={account}", check=False).strip().startswith("yes")

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
    # Where it is itself it may nothing.
    assert [pair for pair in [*allowed, *refused] if may(*pair, beside=True)] == []


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
    wait_for("the kept message to be removed", lambda: not kept_messages(cluster) or None)
    # The next one comes through.
    asked.send("delivered", max_frames=2)
    assert asked.completed("delivered").status == "succeeded"


def kept_messages(cluster: EventsCluster) -> list[str]:
    """ConfigMaps by which the Sensor hands on what it could not deliver."""
    return cluster.kubectl("get", "configmaps", "-l", "reelscan.dev/undelivered=true", "-o", "name").split()


@pytest.mark.parametrize("overlay", ["aws", "test"])
def test_all_that_is_deployed_is_strictly_valid_and_there_once(overlay: str, tmp_path: Path) -> None:
    """As kustomize renders it, which is all of a cluster that this needs."""
    settings = WorkflowSettings(
        namespace="video",
        results="s3://results/video",
        task_queue="tasks",
        completed_queue="completed",
        dead_letter_queue="dead",
        aws_region="eu-central-1",
        aws_endpoint_url="http://aws.example:5000",
        aws_secret="aws",
    )
    documents = Deployment(settings, overlay, tmp_path / "deploy", Console(quiet=True)).documents
    named = [(document["kind"], document["metadata"]["name"]) for document in documents]
    problems = {name: validate(document) for name, document in zip(named, documents, strict=True)}
    assert {name: found for name, found in problems.items() if found} == {}
    assert [name for name, count in Counter(named).items() if count > 1] == []
    assert {"EventBus", "EventSource", "Sensor", "WorkflowTemplate", "CronWorkflow"} <= {kind for kind, _ in named}


def test_no_workflow_is_left_unaccounted(cluster: EventsCluster, asked: Asked) -> None:
    assert_all_are_accounted_for(cluster)

"""What Argo's UI shows of a run: asked through the server's API, as the UI does."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from steps.completed import Completed
from tests.cluster import server
from tests.cluster.cluster import Cluster, Run, wait_for
from tests.cluster.slow import deploy_slow

pytestmark = pytest.mark.cluster

FRAMES = 100
"""Analysed frames of the sample: 20 s at five a second."""
TEMPLATE = "watched"
TITLE = "Camera 7, the gate"


@pytest.fixture(scope="module")
def run(cluster: Cluster) -> Run:
    """A run of two chunks that takes a while."""
    deploy_slow(cluster, TEMPLATE)
    return cluster.submit(TEMPLATE, bucket=cluster.videos, object="sample.mp4", chunk_seconds=10, title=TITLE)


@pytest.fixture(scope="module")
def pods(run: Run) -> dict[str, dict[str, Any]]:
    """A pod of each kind as it was while it existed: with a model server beside it, and without."""
    planning = run.working_pod("plan")
    return {"plan": planning, "detect": run.working_pod("detect")}


@pytest.fixture(scope="module")
def seen(run: Run, pods: dict[str, dict[str, Any]]) -> dict[str, set[str]]:
    """The states of progress of each node, by its name, that were seen until the run ended."""
    assert pods
    progress: dict[str, set[str]] = {}

    def ended() -> bool:
        status = server.workflow(run.cluster.namespace, run.name)["status"]
        for node in status["nodes"].values():
            progress.setdefault(node["displayName"], set()).add(node.get("progress", ""))
        progress.setdefault("", set()).add(status["progress"])
        return bool(status.get("finishedAt"))

    wait_for(f"workflow {run.name} to end", ended)
    return progress


@pytest.fixture(scope="module")
def completed(run: Run, seen: dict[str, set[str]]) -> Completed:
    """Its message."""
    assert seen
    assert run.phase() == "Succeeded", run.tree()
    return run.completed()


def display_names(run: Run) -> list[str]:
    """Names that the UI shows in the graph."""
    return [node["displayName"] for node in run.workflow()["status"]["nodes"].values()]


def test_a_pod_runs_with_no_rights_that_it_does_not_need(pods: dict[str, dict[str, Any]]) -> None:
    for pod in pods.values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        ours = [c for c in spec["containers"] + spec["initContainers"] if c["name"] in ("main", "serving")]
        for container in ours:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["runAsUser"] != 0
            assert security["capabilities"] == {"drop": ["ALL"]}
            # Neither the pod's own token, nor Argo's.
            assert not [m for m in container["volumeMounts"] if "serviceaccount" in m["mountPath"]]
    serving = [c["name"] for c in pods["detect"]["spec"]["initContainers"]]
    assert "serving" in serving
    assert "serving" not in [c["name"] for c in pods["plan"]["spec"]["initContainers"]]


@pytest.fixture(scope="module")
def refusal(run: Run) -> str:
    """What Kubernetes says when a pod that analyses is to be evicted."""
    name = run.working_pod("detect")["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{run.cluster.namespace}/pods/{name}/eviction"
    done = subprocess.run(
        ["kubectl", "create", "--raw", path, "-f", "-"],
        input=json.dumps(eviction), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


def test_a_pod_is_kept_from_voluntary_disruption(run: Run, pods: dict[str, dict[str, Any]], refusal: str) -> None:
    for pod in pods.values():
        assert pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    spec = run.workflow()["status"]["storedWorkflowTemplateSpec"]
    assert "disruption budget" in refusal
    assert spec["podGC"]["strategy"] == "OnPodSuccess"
    assert spec["ttlStrategy"] == {"secondsAfterSuccess": 86400, "secondsAfterFailure": 604800}
    assert "artifactGC" not in spec


def test_progress_moves_while_a_chunk_is_analysed_and_ends_with_all(run: Run, seen: dict[str, set[str]]) -> None:
    chunks = run.nodes("detect")
    totals = []
    for chunk in chunks:
        done, total = counts(chunk["progress"])
        assert done == total
        totals.append(total)
        assert [text for text in seen[chunk["displayName"]] if 0 < counts(text)[0] < total == counts(text)[1]], seen
    assert totals == [FRAMES / 2, FRAMES / 2]
    done, total = counts(run.workflow()["status"]["progress"])
    assert done == total
    # Planning, which counts bytes, does not outweigh the frames of the chunks.
    assert total < 4 * FRAMES
    assert len({text for text in seen[""] if 0 < counts(text)[0] < counts(text)[1]}) > 3, seen[""]


def counts(progress: str) -> tuple[int, int]:
    """Done, and of how many."""
    done, _, total = progress.partition("/")
    return int(done or 0), int(total or 0)


def test_title_and_description_are_shown(run: Run, completed: Completed) -> None:
    annotations = server.workflow(run.cluster.namespace, run.name)["metadata"]["annotations"]
    assert annotations["workflows.argoproj.io/title"] == TITLE
    assert f"s3://{run.cluster.results}/reelscan/" in annotations["workflows.argoproj.io/description"]
    assert completed.results is not None
    assert completed.results.startswith(f"s3://{run.cluster.results}/reelscan/")


def test_chunks_are_named_by_number_and_time_range(run: Run, completed: Completed) -> None:
    assert completed.status == "succeeded"
    names = display_names(run)
    assert "chunk-1-of-2.0m00s-to-0m10s" in names
    assert "chunk-2-of-2.0m10s-to-0m20s" in names


def test_each_result_file_is_an_artifact_that_can_be_viewed(run: Run, completed: Completed) -> None:
    (aggregate,) = run.nodes("aggregate")
    shown = {artifact["name"] for artifact in aggregate["outputs"]["artifacts"]} - {"main-logs"}
    assert shown == {"summary", *(name for name in completed.files if name != "parquet"), "detections"}
    for artifact in aggregate["outputs"]["artifacts"]:
        content, headers = server.artifact_file(run.cluster.namespace, run.name, aggregate["id"], artifact["name"])
        file = artifact["s3"]["key"].rpartition("/")[2]
        assert content == run.cluster.result(completed, file), artifact["name"]
        if file.endswith(".json"):
            assert headers["content-type"] == "application/json"


def test_runs_are_found_by_labels(run: Run, completed: Completed) -> None:
    assert completed.status == "succeeded"
    selector = f"reelscan.dev/workflow={TEMPLATE}"
    assert server.names_of_workflows(run.cluster.namespace, selector) == {run.name}
    assert run.cluster.argo("list", "-l", selector, "-o", "name").split() == [run.name]
    assert run.name not in run.cluster.argo("list", "-l", "reelscan.dev/workflow=another", "-o", "name").split()

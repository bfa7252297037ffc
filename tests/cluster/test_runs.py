"""Runs that nothing disturbs: ways to submit one (`make submit` has tests of its own), and the frames that come out."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hera.workflows import DAG, Container, Task, Workflow, WorkflowsService
from hera.workflows.models import WorkflowTemplateRef
from pydantic import PydanticDeprecatedSince20

from steps.completed import Completed
from tests.cluster.cluster import STEPS_IMAGE, Cluster, Run, embedded_serving
from tests.cluster.conftest import SAMPLE
from tests.cluster.frames import lines_of, reelscan_run
from tests.cluster.server import ARGO_SERVER, TOKEN
from tests.coded import CODED_PROFILE, number_read
from tests.media.library import ClipLibrary
from workflows import WorkflowSettings, objects, workflow_template

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CODED_CLIP = "h264_open_gop.mp4"
WAYS = ("chunks", "chunk", "single", "python", "kubectl")
FRAMES = 100
"""Analysed frames of the sample, of 20 s, at five a second."""


@pytest.fixture(scope="module")
def submitted(cluster: Cluster, clips: ClipLibrary, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """Runs by the way in which they were submitted, all at once. Each analyses an object that no other does."""
    video = {way: cluster.upload(SAMPLE, f"{way}.mp4") for way in WAYS}
    coded = {"model_profile": str(CODED_PROFILE), "model_name": "coded"}
    cluster.deploy("coded", serving=embedded_serving("coded", "coded"), **coded)
    cluster.upload(clips[CODED_CLIP].path)
    return {
        "chunks": cluster.submit(bucket=cluster.videos, object=video["chunks"], chunk_seconds=8),
        "chunk": cluster.submit(bucket=cluster.videos, object=video["chunk"], chunk_seconds=60),
        "single": cluster.submit(entrypoint="single", bucket=cluster.videos, object=video["single"]),
        "coded": cluster.submit("coded", bucket=cluster.videos, object=CODED_CLIP, fps=0, chunk_seconds=4),
        "python": submit_from_python(cluster, video["python"]),
        "kubectl": submit_by_kubectl(cluster, video["kubectl"], tmp_path_factory.mktemp("rendered")),
    }


def submit_from_python(cluster: Cluster, key: str) -> Run:
    """A workflow with a setting changed and a step added."""
    settings = WorkflowSettings.model_validate({**cluster.settings, "name": "python", "limits": {"fps": 0.5}})
    cluster.apply(*objects(settings))
    template = workflow_template(settings)
    (main,) = (each for each in template.templates if isinstance(each, DAG) and each.name == "main")
    with template:
        announce = Container(
            name="announce",
            image=STEPS_IMAGE,
            image_pull_policy="IfNotPresent",
            command=["python", "-c", "import sys; print(sys.argv[1])"],
            args=["{{workflow.parameters.object}} is done"],
        )
        with main:
            Task(name="announce", template=announce, depends="analyse.Succeeded")
    template.workflows_service = WorkflowsService(host=ARGO_SERVER, verify_ssl=False, token=TOKEN or None)
    run = Workflow(
        generate_name="python-",
        namespace=cluster.namespace,
        workflow_template_ref=WorkflowTemplateRef(name=template.name),
        arguments={"bucket": cluster.videos, "object": key},
        workflows_service=template.workflows_service,
    )
    with warnings.catch_warnings():
        # Hera 7.1's service calls a method that pydantic has renamed.
        warnings.simplefilter("ignore", PydanticDeprecatedSince20)
        template.update()
        created = run.create()
    return Run(cluster, created.metadata.name)


def submit_by_kubectl(cluster: Cluster, key: str, folder: Path) -> Run:
    """What `reelscan template` renders, applied; and a Workflow that names it."""
    settings, rendered = folder / "settings.yaml", folder / "rendered.yaml"
    settings.write_text(yaml.safe_dump({**cluster.settings, "name": "applied"}))
    command = [sys.executable, "-m", "steps", "template", "--all", "--settings", str(settings)]
    cluster.command(*command, "--output", str(rendered))
    cluster.kubectl("apply", "-f", str(rendered))
    given = {"bucket": cluster.videos, "object": key, "max_frames": "6"}
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "applied-"},
        "spec": {
            "workflowTemplateRef": {"name": "applied"},
            "arguments": {"parameters": [{"name": name, "value": value} for name, value in given.items()]},
        },
    }
    name = cluster.kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=json.dumps(workflow))
    return Run(cluster, name)


@pytest.fixture(scope="module")
def expected_lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the sample has to give."""
    return reelscan_run(SAMPLE, tmp_path_factory.mktemp("sample"))


def succeeded(run: Run) -> Completed:
    """The one completed message of a run that succeeds."""
    assert run.wait() == "Succeeded", run.tree()
    (completed,) = run.cluster.all_completed(run.uid)
    assert completed.status == "succeeded"
    assert (completed.workflow, completed.attempt, completed.error) == (run.name, 1, None)
    return completed


@pytest.mark.parametrize(
    ("way", "pods"),
    [
        ("chunks", {"plan": 1, "detect": 3, "aggregate": 1}),
        ("chunk", {"plan": 1, "detect-and-aggregate": 1}),
        ("single", {"whole-job": 1}),
    ],
)
def test_the_frames_are_those_of_reelscan_run_however_they_are_divided(
    submitted: Mapping[str, Run], expected_lines: list[str], way: str, pods: dict[str, int]
) -> None:
    run = submitted[way]
    completed = succeeded(run)
    assert lines_of(run.cluster, completed) == expected_lines
    assert len(expected_lines) == FRAMES
    assert any(json.loads(line)["detections"] for line in expected_lines)
    # No pod for what a run does not need, `finish` among it, and none was tried again.
    assert count_by_template(run) == pods, run.tree()


def count_by_template(run: Run) -> dict[str, int]:
    """How many pods a run had, by template."""
    templates = [node["templateName"] for node in run.nodes()]
    return {template: templates.count(template) for template in templates}


def test_every_frame_is_the_one_that_it_says_it_is(
    submitted: Mapping[str, Run], clips: ClipLibrary, tmp_path: Path
) -> None:
    run = submitted["coded"]
    completed = succeeded(run)
    lines = lines_of(run.cluster, completed)
    clip = clips[CODED_CLIP]
    assert len(run.nodes("detect")) == 3
    assert [number_read(json.loads(line)) for line in lines] == list(clip.numbers)
    assert [json.loads(line)["frame"] for line in lines] == list(range(len(clip.numbers)))
    assert lines == reelscan_run(clip.path, tmp_path, "--fps", "0", "--model-path", "coded")


def test_a_workflow_from_python_has_the_changed_setting_and_the_added_step(
    submitted: Mapping[str, Run], tmp_path: Path
) -> None:
    run = submitted["python"]
    completed = succeeded(run)
    assert completed.options is not None
    assert completed.options["fps"] == 0.5
    assert lines_of(run.cluster, completed) == reelscan_run(SAMPLE, tmp_path, "--fps", "0.5")
    assert count_by_template(run) == {"plan": 1, "detect-and-aggregate": 1, "announce": 1}, run.tree()
    (announced,) = run.nodes("announce")
    (analysed,) = run.nodes("detect-and-aggregate")
    assert announced["phase"] == "Succeeded"
    assert announced["startedAt"] >= analysed["finishedAt"]


def test_a_workflow_of_applied_yaml_is_created_by_kubectl(
    submitted: Mapping[str, Run], expected_lines: list[str]
) -> None:
    run = submitted["kubectl"]
    assert lines_of(run.cluster, succeeded(run)) == expected_lines[:6]


def test_a_run_that_succeeded_has_no_pod_of_the_exit_handler(submitted: Mapping[str, Run]) -> None:
    run = submitted["chunk"]
    assert run.wait() == "Succeeded"
    assert run.nodes("finish") == []
    (skipped,) = run.nodes("finish", kind="Skipped")
    assert skipped["phase"] == "Skipped"


def test_a_result_is_named_by_the_message(submitted: Mapping[str, Run]) -> None:
    run = submitted["chunks"]
    completed = succeeded(run)
    summary: dict[str, Any] = json.loads(run.cluster.result(completed, "summary.json"))
    assert summary["status"] == "succeeded"
    assert set(completed.files) >= {"frames", "parquet", "coco", "rekognition"}
    for file in completed.files.values():
        assert run.cluster.result(completed, file)


def test_rendered_manifests_pass_argo_lint(cluster: Cluster) -> None:
    manifests = ROOT / "workflows/manifests"
    assert list(manifests.glob("*.yaml"))
    output = cluster.command("argo", "lint", "--offline", "--strict", "--no-color", str(manifests))
    assert "no linting errors found" in output

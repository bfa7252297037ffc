"""Runs that are disturbed: what they give is as of a run that nothing disturbed, or says exactly what is missing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from tests.cluster.cluster import Cluster, Run, wait_for
from tests.cluster.coded_runs import (
    DELAY_SECONDS,
    Runs,
    assert_complete,
    assert_failed,
    attempts,
    attempts_of_target,
    exit_code,
    frames_of,
    in_order,
    missing_of,
    only_message,
)
from tests.cluster.faults import (
    GONE,
    container_of,
    delete,
    faulty_serving,
    hit,
    kill,
    log,
    nothing,
    replace_controller,
    seeded_seconds,
)
from tests.cluster.traffic import write_clip
from tests.coded import number_read
from workflows import WorkflowSettings, objects

pytestmark = pytest.mark.cluster

EXIT_STATUSES = (1, 2, 3, 4, 143, 137)
AWS_FAULT_SECONDS = 15.0
EXITS = f"import sys; sys.exit({EXIT_STATUSES}[int(sys.argv[1])])"
# The first attempt takes more of the disk than its volume allows, and does nothing until it is evicted for that.
FILLS_DISK = """
import os, sys, time
attempt, arguments = sys.argv[1], sys.argv[2:]
if attempt == "0":
    os.posix_fallocate(os.open("/work/fill", os.O_CREAT | os.O_WRONLY), 0, 600 << 20)
    time.sleep(600)
os.execvp("reelscan", ["reelscan", *arguments])
"""
HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
ATTEMPTS_BY_EXIT_STATUS = {1: 1, 2: 1, 3: 1, 4: 4, 143: 4, 137: 2}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each picture shows its number; a keyframe every two seconds."""
    return write_clip(tmp_path_factory.mktemp("clip") / "coded.mp4")


# Pods that die


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, clip: Path, ending_by_time: Runs) -> Runs:
    """Runs of which each was hit in another way while a chunk was analysed; all have ended."""
    runs = Runs(cluster, clip)
    runs.deploy("slow")
    # As many requests for a fifth of the clip.
    runs.deploy("in-five", {"batch_size": 2})
    runs.deploy("hog", serving=faulty_serving(DELAY_SECONDS=DELAY_SECONDS, MEMORY_HOG="/tmp/hogged"))
    runs.deploy("small", detect_resources={"cpu": "50m", "memory": "40Mi", "memory_after_failure": "300Mi"})
    runs.submit("struck", "in-five", chunk_seconds=4)
    runs.submit("replace-controller", "slow")
    runs.submit("single", "slow", entrypoint="single")
    runs.submit("server-without-memory", "hog", chunk_seconds=1000)
    runs.submit("step-without-memory", "small", chunk_seconds=1000)
    runs.submit("undisturbed", "slow")
    # Each hits another chunk.
    runs.fault("forced-delete", delete(cluster, force=True), run="struck")
    runs.fault("delete", delete(cluster, force=False), run="struck")
    runs.fault("kill", kill(cluster, "main", 9), run="struck")
    runs.fault("stop", kill(cluster, "main", 15), run="struck")
    runs.fault("kill-server", kill(cluster, "serving", 9), run="struck", container="serving")
    runs.fault(
        "kill-server-of-single",
        kill(cluster, "serving", 9),
        run="single",
        container="serving",
        template="whole-job",
    )
    runs.fault("replace-controller", replace_controller(cluster))
    runs.fault(
        "server-without-memory",
        nothing,
        container="serving",
        template="detect-and-aggregate",
        earliest_seconds=0,
        latest_seconds=0,
    )
    hit(cluster, list(runs.faults.values()))
    runs.wait()
    return runs


def test_what_the_disturbed_runs_are_compared_with(disturbed: Runs) -> None:
    run = disturbed["undisturbed"]

    assert_complete(run)
    assert [len(chunk) for chunk in attempts(run).values()] == [1, 1]


def test_a_run_whose_every_chunk_was_hit_gives_the_same(disturbed: Runs) -> None:
    assert_same_as_undisturbed(disturbed, "struck")
    assert len(attempts(disturbed["struck"])) == 5


@pytest.mark.parametrize("name", ["forced-delete", "delete"])
def test_a_deleted_pod_is_made_anew(disturbed: Runs, name: str) -> None:
    fault = disturbed.faults[name]
    *before, last = attempts_of_target(fault)

    # An object that is deleted with patience may still be there when its container has ended.
    assert fault.end == GONE or fault.end["exitCode"] == 143
    assert last["phase"] == "Succeeded"
    # A pod that Argo has not yet seen running is made again without counting as an attempt.
    assert [node["phase"] in ("Failed", "Error") for node in before] in ([], [True])


def test_a_killed_step_is_started_again(disturbed: Runs) -> None:
    fault = disturbed.faults["kill"]

    assert fault.end["exitCode"] == 137
    assert [exit_code(node) for node in attempts_of_target(fault)] == ["137", "0"]


def test_a_stopped_step_is_started_again(disturbed: Runs) -> None:
    fault = disturbed.faults["stop"]

    assert fault.end["exitCode"] == 143
    assert [exit_code(node) for node in attempts_of_target(fault)] == ["143", "0"]


def test_a_step_goes_on_when_its_model_server_was_killed(disturbed: Runs) -> None:
    fault = disturbed.faults["kill-server"]

    assert fault.end["exitCode"] == 137
    assert [exit_code(node) for node in attempts_of_target(fault)] == ["0"]


def test_a_whole_job_goes_on_when_its_model_server_was_killed(disturbed: Runs) -> None:
    fault = disturbed.faults["kill-server-of-single"]

    assert_same_as_undisturbed(disturbed, "single")
    assert fault.end["exitCode"] == 137
    assert [exit_code(node) for node in attempts_of_target(fault)] == ["0"]


def test_a_step_goes_on_when_its_model_server_ran_out_of_memory(disturbed: Runs) -> None:
    fault = disturbed.faults["server-without-memory"]

    assert_same_as_undisturbed(disturbed, "server-without-memory")
    assert fault.end["exitCode"] == 137
    assert [exit_code(node) for node in attempts_of_target(fault)] == ["0"]


def test_a_step_that_runs_out_of_memory_is_started_again_with_more(disturbed: Runs) -> None:
    run = disturbed["step-without-memory"]

    assert_same_as_undisturbed(disturbed, "step-without-memory")
    ((first, second),) = attempts(run, "detect-and-aggregate").values()
    assert (exit_code(first), exit_code(second)) == ("137", "0")
    assert "OOMKilled" in first["message"]


def test_a_run_goes_on_when_argos_controller_is_replaced(disturbed: Runs) -> None:
    assert_same_as_undisturbed(disturbed, "replace-controller")
    assert [len(chunk) for chunk in attempts(disturbed["replace-controller"]).values()] == [1, 1]


def assert_same_as_undisturbed(runs: Runs, name: str) -> None:
    """The same frames, to the letter."""
    expected = runs["undisturbed"]
    message = assert_complete(runs[name])
    assert frames_of(runs[name], message) == frames_of(expected, only_message(expected))


# Runs that fail


@pytest.fixture(scope="module")
def ending_by_time(cluster: Cluster, clip: Path) -> Runs:
    """Runs that wait for most of their time, meanwhile others go on. They have been started."""
    runs = Runs(cluster, clip)
    # The least that is allowed: a minute, of which the steps take half.
    runs.deploy("stuck", job_limit_seconds=60, pending_seconds=60, inference_nodes={"node_selector": {"no": "such"}})
    cluster.apply(instead_of_detect(runs.deploy("deaf", chunk_limit_seconds=60), HANGS))
    runs.deploy(
        "late", serving=faulty_serving(DELAY_SECONDS=5), job_limit_seconds=60, chunk_limit_seconds=60, retries=1
    )
    runs.deploy("hanging", {"rpc_timeout_seconds": 2}, serving=faulty_serving(DELAY_SECONDS=600), retries=0)
    runs.deploy("never-ready", serving=faulty_serving(start_seconds=10, NEVER_READY=1), retries=1)
    cluster.apply(before_detect(runs.deploy("evicted", serving=faulty_serving()), FILLS_DISK))
    runs.submit("stuck", "stuck")
    runs.submit("evicted", "evicted")
    runs.submit("deaf", "deaf", end_seconds=4, chunk_seconds=2)
    runs.submit("late", "late", chunk_seconds=1000)
    runs.submit("late-single", "late", chunk_seconds=4, entrypoint="single")
    runs.submit("hanging", "hanging")
    runs.submit("never-ready", "never-ready", chunk_seconds=1000)
    return runs


@pytest.fixture(scope="module")
def failing(cluster: Cluster, clip: Path, ending_by_time: Runs) -> Runs:
    """Runs of which each fails in another way; all have ended."""
    runs = Runs(cluster, clip, dict(ending_by_time.by_name))
    runs.deploy("broken", serving=faulty_serving(BROKEN="20-39", REFUSED="60-79"), retries=1)
    cluster.apply(instead_of_detect(runs.deploy("exits"), EXITS))
    runs.deploy("endless", {"lease_seconds": 3}, serving=faulty_serving(DELAY_SECONDS=30))
    runs.deploy("patient", {"lease_seconds": 3}, serving=faulty_serving())
    runs.submit("exits", "exits", end_seconds=2 * len(EXIT_STATUSES), chunk_seconds=2)
    runs.submit("broken", "broken", chunk_seconds=4)
    runs.submit("stopped", "endless")
    runs.submit("terminated", "endless")
    runs.fault("stopped", lambda _: cluster.argo("stop", runs["stopped"].name))
    runs.fault("terminated", lambda _: cluster.argo("terminate", runs["terminated"].name))
    hit(cluster, list(runs.faults.values()))
    runs.wait("terminated")
    # The same task again, which finds the lease of the terminated run.
    again = cluster.submit("patient", bucket=cluster.videos, object="terminated.mp4", chunk_seconds=10)
    runs.by_name["after-terminated"] = again
    runs.wait()
    return runs


def instead_of_detect(settings: WorkflowSettings, program: str) -> dict[str, Any]:
    """The WorkflowTemplate with another program, in Python, in detect's pods. Its argument is the chunk's index."""
    template: dict[str, Any] = objects(settings)[-1]
    detect = next(step for step in template["spec"]["templates"] if step["name"] == "detect")
    detect.pop("initContainers")
    detect["container"].update(command=["python", "-c", program], args=["{{inputs.parameters.index}}"])
    return template


def before_detect(settings: WorkflowSettings, program: str) -> dict[str, Any]:
    """The WorkflowTemplate with a program around detect, whose arguments are the attempt's number and detect's own."""
    template: dict[str, Any] = objects(settings)[-1]
    detect = next(step for step in template["spec"]["templates"] if step["name"] == "detect")
    container = detect["container"]
    container.update(command=["python", "-c", program], args=["{{retries}}", *container["args"]])
    return template


def test_chunks_that_fail_for_good_are_missing_and_nothing_else(failing: Runs) -> None:
    run = failing["broken"]

    assert run.phase() == "Succeeded", run.tree()
    message = only_message(run)
    assert message.status == "partial"
    assert missing_of(message) == [(20, 39, "model_unavailable"), (60, 79, "model_mismatch")]
    present = [*range(20), *range(40, 60), *range(80, 100)]
    assert [line["frame"] for line in frames_of(run, message)] == present
    assert [number_read(line) for line in frames_of(run, message)] == present
    # What may pass by is tried again, a refusal is not.
    assert [len(chunk) for chunk in in_order(attempts(run))] == [1, 2, 1, 1, 1]


def test_only_what_may_pass_by_is_tried_again(failing: Runs) -> None:
    run = failing["exits"]
    chunks = in_order(attempts(run))

    assert_failed(run, "internal", "detect")
    assert len(chunks) == len(EXIT_STATUSES)
    for status, chunk in zip(EXIT_STATUSES, chunks, strict=True):
        assert {exit_code(node) for node in chunk} == {str(status)}
        assert len(chunk) == ATTEMPTS_BY_EXIT_STATUS[status], f"exit status {status}"


def test_a_model_server_that_hangs_ends_the_run_in_its_time(failing: Runs) -> None:
    run = failing["hanging"]

    message = assert_failed(run, "model_unavailable", "detect")
    assert missing_of(message) == [(0, 99, "model_unavailable")]


def test_a_model_server_that_never_gets_ready_ends_the_run_in_its_time(failing: Runs) -> None:
    run = failing["never-ready"]

    assert_failed(run, "model_unavailable", "detect")
    assert [len(chunk) for chunk in attempts(run, "detect-and-aggregate").values()] == [2]


def test_a_chunk_over_its_time_limit_is_reported_as_that(failing: Runs) -> None:
    assert_failed(failing["late"], "timeout", "detect")


def test_a_whole_job_over_its_time_limit_gives_what_it_has(failing: Runs) -> None:
    run = failing["late-single"]
    message = only_message(run)

    assert {code for _, _, code in missing_of(message)} == {"timeout"}
    assert [len(job) for job in attempts(run, "whole-job").values()] == [1]


def test_a_step_that_does_not_end_is_ended_and_not_tried_again(failing: Runs) -> None:
    run = failing["deaf"]

    # It left no word of why.
    assert_failed(run, "internal", "detect")
    for chunk in in_order(attempts(run)):
        assert len(chunk) == 1
        assert "deadline" in chunk[0]["message"]


def test_pods_that_no_node_takes_end_with_the_run(failing: Runs) -> None:
    run = failing["stuck"]

    message = assert_failed(run, "timeout", "finish")
    assert "longer than it may" in message.error.message  # type: ignore[union-attr]


def test_evicted_pods_are_made_anew(failing: Runs) -> None:
    run = failing["evicted"]

    assert_complete(run)
    for first, second in in_order(attempts(run)):
        assert "Usage of EmptyDir volume" in first["message"]
        assert (first["phase"], second["phase"]) == ("Failed", "Succeeded")


def test_a_stopped_run_is_reported_by_its_exit_handler(failing: Runs) -> None:
    message = assert_failed(failing["stopped"], "stopped", "finish")

    assert failing.faults["stopped"].end is not None
    assert message.completed_at is not None


def test_a_terminated_run_ends_at_once_and_leaves_nothing_that_others_wait_for(failing: Runs) -> None:
    run = failing["terminated"]

    assert run.cluster.all_completed(run.uid) == []
    assert_complete(failing["after-terminated"])


# S3 and SQS, which all runs need


@pytest.mark.aws_faults
def test_runs_go_on_when_s3_and_sqs_refuse_and_when_they_hang(cluster: Cluster, clip: Path) -> None:
    runs = Runs(cluster, clip)
    # One chunk after the other, so that each meets a fault; and none is done before the fault is over.
    serving = faulty_serving(DELAY_SECONDS=AWS_FAULT_SECONDS / 12)
    runs.deploy("one-by-one", parallelism=1, serving=serving)
    run = runs.submit("aws", "one-by-one")
    runs.submit("aws-single", "one-by-one", entrypoint="single")

    first = run.working_pod("detect")
    wait_seeded("aws-refuse")
    with aws_fault(run, first, "refuse", "accept"):
        time.sleep(AWS_FAULT_SECONDS)
    second = wait_for("the second chunk", lambda: running_other(run, first))
    wait_seeded("aws-hang")
    with aws_fault(run, second, "hang", "resume"):
        time.sleep(AWS_FAULT_SECONDS)

    runs.wait()
    assert_complete(run)
    assert_complete(runs["aws-single"])


def running_other(run: Run, other: dict[str, Any]) -> dict[str, Any] | None:
    """A pod of detect that runs, and is not that one."""
    for pod in run.pods("detect"):
        running = "running" in container_of(pod, "main").get("state", {})
        if pod["metadata"]["uid"] != other["metadata"]["uid"] and running:
            return pod
    return None


def wait_seeded(name: str) -> None:
    """Let the target work for a while, which the seed chooses."""
    time.sleep(seeded_seconds(name, 1, 6))


@contextmanager
def aws_fault(run: Run, target: dict[str, Any], begin: str, end: str) -> Iterator[None]:
    """S3 and SQS refuse or hang within the block. Logs that they do, and the target before and after."""
    program = os.environ.get("CLUSTER_AWS")
    assert program, (
        "CLUSTER_AWS is not set: the program whose arguments refuse, accept, hang, resume do that to S3 and SQS"
    )
    name = target["metadata"]["name"]
    before = container_of(run.cluster.get("pod", name), "main")
    assert "running" in before["state"]
    run.cluster.command(program, begin)
    try:
        s3 = boto3.client("s3", config=Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1}))
        with pytest.raises((EndpointConnectionError, ConnectionClosedError, ReadTimeoutError)) as failed:
            s3.list_buckets()
        log(
            fault=f"aws {begin}",
            run=run.name,
            pod=name,
            pod_uid=target["metadata"]["uid"],
            container_id=before["containerID"],
            before=before["state"],
            s3=type(failed.value).__name__,
        )
        yield
    finally:
        run.cluster.command(program, end)
    after = json.loads(run.cluster.kubectl("get", "pod", name, "-o", "json", "--ignore-not-found") or "{}")
    log(fault=f"aws {end}", pod_uid=target["metadata"]["uid"], after=container_of(after, "main").get("state", GONE))

"""Equal tasks at the same time, by whichever entrypoint: each chunk is computed once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steps.completed import Completed
from tests.cluster.cluster import Cluster, Run, wait_for
from tests.cluster.slow import deploy_slow

pytestmark = pytest.mark.cluster

TEMPLATE = "equal"
CHUNKS = 2
FRAMES_OF_FPS = {"5": 100, "4": 80}


@dataclass(frozen=True)
class Logged:
    """A run whose pods' output is kept: the pods themselves go away."""

    run: Run
    output: Path

    def lines(self) -> list[str]:
        """What its pods said."""
        return self.output.read_text().splitlines()

    def chunks_computed(self) -> int:
        """Chunks that its pods analysed: each ends with its statistics."""
        return sum('"batch_halved"' in line and "detect-" in line for line in self.lines())

    def chunks_found(self) -> int:
        """Chunks that its pods found analysed by another."""
        return sum("the chunk had been analysed" in line for line in self.lines())


@contextmanager
def logged(run: Run, folder: Path) -> Iterator[Logged]:
    """Follows a run until it ends."""
    output = folder / f"{run.name}.log"
    with output.open("w") as file:
        command = ["argo", "-n", run.cluster.namespace, "logs", run.name, "--follow", "--no-color"]
        follower = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield Logged(run, output)
            follower.wait(timeout=60)
        finally:
            follower.kill()
            follower.wait()


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> str:
    """For results: it keeps every version of every object."""
    bucket = f"versions-{cluster.namespace}"
    cluster.s3.create_bucket(Bucket=bucket)
    cluster.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    deploy_slow(cluster, TEMPLATE, results=f"s3://{bucket}/reelscan")
    return bucket


def submit(cluster: Cluster, fps: str, entrypoint: str = "main") -> Run:
    return cluster.submit(
        TEMPLATE, entrypoint=entrypoint, bucket=cluster.videos, object="sample.mp4", fps=fps, chunk_seconds=10
    )


def waits_for_mutex(run: Run) -> bool:
    """Whether Argo holds it back."""
    mutexes = run.workflow().get("status", {}).get("synchronization", {}).get("mutex", {})
    return bool(mutexes.get("waiting"))


def pods_of(run: Run) -> list[dict[str, Any]]:
    """All pods of a run that exist now."""
    return run.cluster.list("pods", f"workflows.argoproj.io/workflow={run.name}")


@pytest.fixture(scope="module")
def runs(cluster: Cluster, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Logged]:
    """Two runs of `main` for one task, and `main` beside `single` for another, to their ends."""
    folder = tmp_path_factory.mktemp("logs")
    submitted = {
        "main-1": submit(cluster, "5"),
        "main-2": submit(cluster, "5"),
        "main": submit(cluster, "4"),
        "single": submit(cluster, "4", "single"),
    }
    with ExitStack() as stack:
        followed = {name: stack.enter_context(logged(run, folder)) for name, run in submitted.items()}
        waiting = wait_for(
            "one run to wait for the other",
            lambda: next((run for run in (submitted["main-1"], submitted["main-2"]) if waits_for_mutex(run)), None),
        )
        # What there is of it is a plan pod that has ended.
        phases = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in pods_of(waiting)}
        assert waits_for_mutex(waiting)
        assert set(phases.values()) <= {"Succeeded"}, phases
        assert len(phases) <= 1, phases
        for run in submitted.values():
            assert run.wait() == "Succeeded", run.tree()
    return followed


def only_message(run: Run) -> Completed:
    (completed,) = run.cluster.all_completed(run.uid)
    assert completed.status == "succeeded"
    return completed


def writes(cluster: Cluster, bucket: str, completed: Completed) -> dict[str, int]:
    """How often each shard of a run was written."""
    prefix = f"reelscan/{completed.run}/chunks/"
    listed: dict[str, Any] = cluster.s3.list_object_versions(Bucket=bucket, Prefix=prefix)
    assert not listed.get("DeleteMarkers")
    keys = [version["Key"].removeprefix(prefix) for version in listed["Versions"]]
    return {key: keys.count(key) for key in keys if re.fullmatch(r"[0-9a-f]+/[0-9]+-[0-9]+\.jsonl\.gz", key)}


@pytest.mark.parametrize(("one", "other", "fps"), [("main-1", "main-2", "5"), ("main", "single", "4")])
def test_each_chunk_is_computed_once_and_both_are_answered(
    cluster: Cluster, bucket: str, runs: Mapping[str, Logged], one: str, other: str, fps: str
) -> None:
    first, second = only_message(runs[one].run), only_message(runs[other].run)
    assert first.run == second.run
    assert first.frames == second.frames
    assert first.frames is not None
    assert first.frames.analysed == FRAMES_OF_FPS[fps]
    shards = writes(cluster, bucket, first)
    assert list(shards.values()) == [1] * CHUNKS, shards


def test_of_two_runs_of_main_one_computes_and_the_other_finds_it_done(runs: Mapping[str, Logged]) -> None:
    both = [runs["main-1"], runs["main-2"]]
    assert sorted(run.chunks_computed() for run in both) == [0, CHUNKS], [run.lines() for run in both]
    (waited,) = (run for run in both if not run.chunks_computed())
    assert waited.chunks_found() == CHUNKS


def test_main_beside_single_computes_all_or_nothing(runs: Mapping[str, Logged]) -> None:
    main = runs["main"]
    assert main.chunks_computed() in (0, CHUNKS), main.lines()


def test_a_later_run_is_answered_by_plan_alone(cluster: Cluster, runs: Mapping[str, Logged]) -> None:
    later = submit(cluster, "5")
    assert later.wait() == "Succeeded", later.tree()
    assert [node["templateName"] for node in later.nodes()] == ["plan"]
    before, now = only_message(runs["main-1"].run), only_message(later)
    assert now.run == before.run
    assert (now.frames, now.files, now.frame_records) == (before.frames, before.files, before.frame_records)

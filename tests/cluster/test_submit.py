"""`make submit` against Argo itself."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.conftest import SAMPLE
from tests.cluster.frames import lines_of, reelscan_run

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
ODD_KEY = 'it\'s "odd" $(false) {{workflow.name}} {{=1/0}}.mp4'


@pytest.fixture(scope="module")
def submitted(cluster: Cluster) -> dict[str, subprocess.CompletedProcess[str]]:
    """What `make submit` says of a video with an odd key, and of one that is not there; both at a time."""
    cluster.s3.copy_object(
        Bucket=cluster.videos, Key=ODD_KEY, CopySource={"Bucket": cluster.videos, "Key": "sample.mp4"}
    )
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda key: make_submit(cluster, key), (ODD_KEY, "missing.mp4"))
    return dict(zip(("odd", "missing"), done, strict=True))


def make_submit(cluster: Cluster, key: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VIDEO": f"s3://{cluster.videos}/{key}", "OPTIONS": "fps=1 id='any thing'"}
    # What is installed is taken as it is: nothing can be installed where only the cluster answers.
    command = ["make", "--no-print-directory", "-o", ".venv/.installed-local", "submit"]
    command += [f"NAMESPACE={cluster.namespace}", "ENTRYPOINT=single"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_video_of_any_key_is_submitted_followed_and_its_outcome_told(
    cluster: Cluster, submitted: dict[str, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = submitted["odd"]

    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:1].isalpha() and " " in line)
    assert told["status"] == "succeeded"
    assert told["frames"] == "20 of 20 analysed"
    completed = cluster.completed(told["task"])
    assert (completed.status, completed.id) == ("succeeded", "any thing")
    assert completed.task is not None
    assert completed.task.object == ODD_KEY
    assert told["results"] == completed.results
    assert lines_of(cluster, completed) == reelscan_run(SAMPLE, tmp_path, "--fps", "1")


def test_of_a_video_that_is_not_there_it_says_so(
    cluster: Cluster, submitted: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    done = submitted["missing"]

    assert done.returncode == 2
    assert "Error 3" in done.stderr
    assert f"not_found: s3://{cluster.videos}/missing.mp4 does not exist" in done.stdout

"""The analysed frames of a run, and of the same video on this machine."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

from steps.completed import Completed
from tests.cluster.cluster import Cluster


def reelscan_run(video: Path, out: Path, *arguments: str) -> list[str]:
    """The lines of frames.jsonl that `reelscan run` writes on this machine."""
    command = [sys.executable, "-m", "steps", "run", str(video), "--out", str(out), "--outputs", "frames", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return gzip.decompress((out / "frames.jsonl.gz").read_bytes()).decode().splitlines()


def lines_of(cluster: Cluster, completed: Completed) -> list[str]:
    """The lines of a run's frames.jsonl."""
    return gzip.decompress(cluster.result(completed, "frames.jsonl.gz")).decode().splitlines()

"""`python -m bench.cluster`: how long runs take on a cluster, how long their pods work, and how large they get."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.clips import repeated
from tests.cluster.cluster import Cluster, embedded_serving, open_cluster

SAMPLE = Path(__file__).parents[1] / "samples" / "one-by-one-person.mp4"
REPETITIONS = 3
LARGE_CHUNKS = 200
LARGE_SECONDS = 1800.0
LARGEST_BYTES = 1 << 20
"""Of a Workflow, above which Argo compresses its nodes, and then needs a database for them."""
PARALLELISM = 10


@dataclass(frozen=True)
class Timed:
    """Runs of one kind on the 60-second clip."""

    kind: str
    chunks: int
    seconds: list[float]
    """From before the submission to the completed message, each run."""
    work_seconds: list[float]
    """What plan, detect and aggregate say they took, the chunks added up."""
    pod_seconds: list[float]
    """From the start to the end of each pod's own containers, added up."""
    pods: int


@dataclass(frozen=True)
class Large:
    """A run of many chunks."""

    chunks: int
    seconds: float
    workflow_bytes: int
    """Of the object at its end, as JSON."""
    compressed: bool
    goal_bytes: int = LARGEST_BYTES

    @property
    def reached(self) -> bool:
        """Whether it ended small enough."""
        return self.workflow_bytes < self.goal_bytes and not self.compressed


@click.command()
@click.option("--large/--no-large", default=True, show_default=True, help="Also a run of 200 chunks, some minutes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench/cluster.json"), show_default=True)
def bench(*, large: bool, out: Path) -> None:
    """Measure runs on the cluster of the kubeconfig, in a namespace of its own."""
    console = Console()
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_cluster(f"reelscan-bench-{uuid.uuid4().hex[:6]}") as cluster:
        video = cluster.upload(repeated(SAMPLE, out.parent.absolute(), 3), "60-seconds.mp4")
        timed = [
            _measure(cluster, console, "single", "single", video, 1),
            _measure(cluster, console, "main, one chunk", "main", video, 1),
            _measure(cluster, console, "main, six chunks", "main", video, 6),
        ]
        _show(console, timed)
        many = _measure_large(cluster, console, out.parent.absolute()) if large else None
    out.write_text(json.dumps({"runs": [asdict(t) for t in timed], "large": asdict(many) if many else None}, indent=1))
    console.print(f"written to {out}")


def _measure(cluster: Cluster, console: Console, kind: str, entrypoint: str, video: str, chunks: int) -> Timed:
    measured: list[tuple[float, float, float]] = []
    pods = 0
    for _ in range(REPETITIONS):
        console.print(f"[dim]{kind}[/dim]")
        began = time.monotonic()
        run = cluster.submit(
            bucket=cluster.videos, object=video, entrypoint=entrypoint, force="true", chunk_seconds=60 / chunks
        )
        completed = run.completed()
        seconds = time.monotonic() - began
        if run.wait() != "Succeeded" or completed.seconds is None:
            raise click.ClickException(f"{run.name} did not succeed:\n{run.tree()}")
        if entrypoint == "main" and len(run.nodes("detect")) != (chunks if chunks > 1 else 0):
            raise click.ClickException(f"{run.name} has other chunks than {chunks}:\n{run.tree()}")
        nodes = run.nodes()
        pods = len(nodes)
        measured.append((seconds, sum(completed.seconds.values()), sum(_seconds(node) for node in nodes)))
    seconds_of, work, pod = (list(column) for column in zip(*measured, strict=True))
    return Timed(kind, chunks, seconds_of, work, pod, pods)


def _measure_large(cluster: Cluster, console: Console, folder: Path) -> Large:
    console.print(f"[dim]a run of {LARGE_CHUNKS} chunks[/dim]")
    video = cluster.upload(_many_keyframes(folder, LARGE_CHUNKS))
    cluster.deploy("large", serving=embedded_serving("null", "null"), model_name="null",
                   model_profile=str(Path(__file__).parents[1] / "local/serving/profiles/null.json"),
                   parallelism=PARALLELISM)  # fmt: skip
    began = time.monotonic()
    run = cluster.submit("large", bucket=cluster.videos, object=video, chunk_seconds=1, fps=1)
    completed = cluster.completed(run.uid, seconds=LARGE_SECONDS)
    seconds = time.monotonic() - began
    if run.wait() != "Succeeded" or completed.status != "succeeded":
        raise click.ClickException(f"{run.name} did not succeed:\n{run.tree()[-2000:]}")
    workflow: dict[str, Any] = run.workflow()
    made = Large(
        chunks=len(run.nodes("detect")),
        seconds=seconds,
        workflow_bytes=len(json.dumps(workflow, separators=(",", ":"))),
        compressed="compressedNodes" in workflow["status"],
    )
    console.print(
        f"{made.chunks} chunks: {made.seconds:.0f} s, the Workflow is {made.workflow_bytes / 1024:.0f} KiB at its end, "
        f"goal under {LARGEST_BYTES >> 10} KiB: {'reached' if made.reached else 'not reached'}"
    )
    return made


def _many_keyframes(folder: Path, seconds: int) -> Path:
    """A small clip of so many seconds with a keyframe each second."""
    import av

    path = folder / f"keyframes-{seconds}.mp4"
    if path.exists():
        return path
    temporary = path.with_suffix(".part.mp4")
    with av.open(str(temporary), "w") as target:
        stream = target.add_stream("libx264", rate=5, options={"g": "5", "sc_threshold": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(5 * seconds):
            picture = np.full((96, 160, 3), number % 256, np.uint8)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        target.mux(stream.encode(None))
    temporary.replace(path)
    return path


def _seconds(node: dict[str, Any]) -> float:
    start, end = (datetime.fromisoformat(node[name]) for name in ("startedAt", "finishedAt"))
    return (end - start).total_seconds()


def _show(console: Console, timed: list[Timed]) -> None:
    table = Table("60 s of video", "pods", "submit to message", "work in the steps", "pods' time, added up")
    for one in timed:
        table.add_row(one.kind, str(one.pods), *(_range(v) for v in (one.seconds, one.work_seconds, one.pod_seconds)))
    console.print(table)


def _range(seconds: list[float]) -> str:
    low, middle, high = min(seconds), sorted(seconds)[len(seconds) // 2], max(seconds)
    return f"{middle:.1f} s ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    bench()

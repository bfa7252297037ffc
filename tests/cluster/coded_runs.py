"""Runs on a clip whose pictures show their numbers, and what is to be true of them when they have ended."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps.completed import Completed
from tests.cluster.cluster import Cluster, Run, wait_for
from tests.cluster.faults import Fault, Strike, faulty_serving
from tests.coded import CODED_PROFILE, number_read
from workflows import WorkflowSettings

FRAMES = 100
FPS = 5
GROUP_FRAMES = 10
DELAY_SECONDS = 2.5
"""Of a request, ten of which analyse half of the clip."""
CODED = {
    "model_name": "coded",
    "model_profile": str(CODED_PROFILE),
    "plan_resources": {"cpu": "50m", "memory": "300Mi"},
    "detect_resources": {"cpu": "50m", "memory": "300Mi"},
    "aggregate_resources": {"cpu": "50m", "memory": "300Mi"},
    # Nobody looks at them here, and they cost seconds of each run.
    "artifacts": None,
}
LIMITS = {"batch_size": 5, "requests_in_flight": 1, "outputs": "frames"}


@dataclass
class Runs:
    """Runs that go on at the same time, each on an object of its own, since equal tasks compute once."""

    cluster: Cluster
    clip: Path
    by_name: dict[str, Run] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)

    def deploy(self, template: str, limits: dict[str, Any] | None = None, **settings: Any) -> WorkflowSettings:
        """A WorkflowTemplate with the coded model; a request takes its time."""
        given = {"serving": faulty_serving(DELAY_SECONDS=DELAY_SECONDS), **CODED, **settings}
        return self.cluster.deploy(template, limits={**LIMITS, **(limits or {})}, **given)

    def submit(self, name: str, template: str, *, chunk_seconds: float = 10, **more: Any) -> Run:
        """Start a run of the clip."""
        key = self.cluster.upload(self.clip, f"{name}.mp4")
        more = {"chunk_seconds": chunk_seconds, **more}
        self.by_name[name] = self.cluster.submit(template, bucket=self.cluster.videos, object=key, **more)
        return self.by_name[name]

    def fault(self, name: str, strike: Strike, *, run: str | None = None, **more: Any) -> None:
        """A fault of the run of that name, by default the fault's own."""
        self.faults[name] = Fault(name, self.by_name[run or name], strike, **more)

    def __getitem__(self, name: str) -> Run:
        return self.by_name[name]

    def wait(self, *names: str, seconds: float = 300.0) -> None:
        """Wait until the runs have ended, by default all."""
        wanted = {self.by_name[name].name for name in names or self.by_name}

        def those_left() -> str:
            left = wanted - self._ended()
            return "runs to end:\n" + "\n".join(run.tree() for run in self.by_name.values() if run.name in left)

        wait_for(those_left, lambda: wanted <= self._ended(), seconds)

    def _ended(self) -> set[str]:
        # As a table: whole workflows are large, and asked for often.
        table = self.cluster.kubectl("get", "workflows", "-l", "workflows.argoproj.io/completed=true", "--no-headers")
        return {line.split()[0] for line in table.splitlines() if line}


def only_message(run: Run, attempt: int = 1) -> Completed:
    """The completed message of a run that has ended; there must be one."""
    message = run.completed(attempt)
    assert run.cluster.all_completed(run.uid) == [message]
    return message


def frames_of(run: Run, message: Completed) -> list[dict[str, Any]]:
    """The lines of frames.jsonl."""
    text = gzip.decompress(run.cluster.result(message, "frames.jsonl.gz")).decode()
    return [json.loads(line) for line in text.splitlines()]


def assert_complete(run: Run) -> Completed:
    """The run succeeded, was reported once, and each frame is the one that it says it is."""
    assert run.phase() == "Succeeded", run.tree()
    message = only_message(run)
    assert message.status == "succeeded"
    assert message.frames is not None
    assert (message.frames.planned, message.frames.analysed, message.frames.missing) == (FRAMES, FRAMES, [])
    lines = frames_of(run, message)
    assert [line["frame"] for line in lines] == list(range(FRAMES))
    assert [number_read(line) for line in lines] == list(range(FRAMES))
    return message


def attempts(run: Run, template: str = "detect") -> dict[str, list[dict[str, Any]]]:
    """Pod nodes of each chunk, the first attempt first, by the chunk's display name."""
    pods = {node["id"]: node for node in run.nodes(template)}
    found = {}
    for node in run.nodes(template, "Retry"):
        found[node["displayName"]] = [pods[child] for child in node["children"] if child in pods]
    return found


def attempts_of_target(fault: Fault) -> list[dict[str, Any]]:
    """The attempts at what the fault hit, which was the first."""
    assert fault.pod is not None
    node_id = fault.pod["metadata"]["annotations"]["workflows.argoproj.io/node-id"]
    (found,) = [chunk for chunk in attempts(fault.run, fault.template).values() if chunk[0]["id"] == node_id]
    return found


def exit_code(node: dict[str, Any]) -> str | None:
    """Of main, as Argo saw it."""
    code: str | None = node.get("outputs", {}).get("exitCode")
    return code


def assert_failed(run: Run, code: str, step: str) -> Completed:
    """The run failed, and was reported once, with a dead letter."""
    assert run.phase() == "Failed", run.tree()
    message = only_message(run)
    assert message.status == "failed"
    assert message.error is not None
    assert (message.error.code, message.error.step) == (code, step)
    letters = [
        letter
        for letter in run.cluster.dead_letters
        if letter["MessageAttributes"]["task_id"]["StringValue"] == message.task_id
    ]
    assert len(letters) == 1
    return message


def missing_of(message: Completed) -> list[tuple[int, int, str]]:
    """The ranges that a message names."""
    assert message.frames is not None
    return [(missing.start_frame, missing.end_frame, missing.code) for missing in message.frames.missing]


def in_order(chunks: dict[str, list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """By the index in their names, `chunk-2-of-6...`."""
    return [nodes for _, nodes in sorted(chunks.items(), key=lambda item: int(item[0].split("-")[1]))]

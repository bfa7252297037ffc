"""Messages that are sent to a namespace of their own, and what tests do to the runs that they become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from events.runs import FINALIZER, NAME_START
from steps.completed import Completed
from tests.cluster.cluster import Run, wait_for
from tests.cluster.coded_runs import CODED, LIMITS
from tests.cluster.events import EventsCluster, open_events
from tests.cluster.faults import faulty_serving
from tests.cluster.traffic import upload, write_clip

REELSCAN = str(Path(sys.executable).with_name("reelscan"))
REQUEST_SECONDS = 3.0
LONG_FRAMES = 100
"""Twenty requests: a minute."""
END_SECONDS = 60.0
"""Within which a run that is told to end has ended."""
REPORT_SECONDS = 180.0
"""Within which it is reported."""
MAX_RUNS = 6


@contextmanager
def open_slow_events(folder: Path, *, apart: bool = False) -> Iterator[EventsCluster]:
    """A namespace in which each request to the model takes its time.

    Args:
        folder: for the clip, which is put into the bucket of the videos.
        apart: whether the reconciler has a namespace of its own, so that Argo itself holds runs back.
    """
    namespace = f"reelscan-events-{uuid.uuid4().hex[:6]}"
    settings: dict[str, Any] = {
        **CODED,
        "max_runs": MAX_RUNS,
        "serving": faulty_serving(DELAY_SECONDS=REQUEST_SECONDS),
        "allowed_sources": [f"s3://videos-{namespace}/*"],
        "limits": {**LIMITS, "max_frames": 3},
    }
    with open_events(namespace, apart=apart, **settings) as opened:
        upload(opened.s3, opened.videos, write_clip(folder / "coded.mp4"))
        yield opened


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


def settle(cluster: EventsCluster, run: Run) -> None:
    """Have the run accounted for, without waiting for the reconciler's next minute."""

    def settled() -> bool | None:
        if run.name in cluster.unaccounted():
            reelscan(cluster, "reconcile", "--namespace", cluster.namespace)
        return run.name not in cluster.unaccounted() or None

    wait_for(f"{run.name} to be accounted for", settled)


def phase(run: Run) -> str:
    """Of a run that may not be there yet."""
    return run.cluster.kubectl(
        "get", "workflow", run.name, "--ignore-not-found", "-o", "jsonpath={.status.phase}", check=False
    )


def is_running(run: Run) -> bool | None:
    """True once it does."""
    return phase(run) == "Running" or None


def is_waiting(run: Run) -> bool | None:
    """True once it waits for its turn."""
    return phase(run) == "Pending" or None


def exists(run: Run) -> bool:
    """Whether its Workflow is still there."""
    return bool(run.cluster.kubectl("get", "workflow", run.name, "--ignore-not-found", "-o", "name"))


def parameter(document: dict[str, Any], name: str) -> str:
    """Of a Workflow."""
    return next(p["value"] for p in document["spec"]["arguments"]["parameters"] if p["name"] == name)


def entries(cluster: EventsCluster, task_id: str) -> list[str]:
    """Keys of the ledger that are a task's."""
    listed = cluster.s3.list_objects_v2(Bucket=cluster.results, Prefix=f"reelscan/ledger/{task_id}.")
    return [entry["Key"] for entry in listed.get("Contents", [])]


def assert_all_are_accounted_for(cluster: EventsCluster) -> None:
    """No Workflow keeps its finalizer for long."""
    wait_for(lambda: f"finalizers to go: {cluster.unaccounted()}", lambda: not cluster.unaccounted() or None)

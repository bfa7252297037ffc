"""Hitting what runs, at seeded times, with a log that tells what was hit, how it was before, and how it ended.

`FAULT_SEED` chooses the times. The log goes to stdout and, a line of JSON for each hit, to the file `FAULT_LOG`.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import faulty_server
from tests.cluster.cluster import STEPS_IMAGE, Cluster, Run, wait_for

SEED = os.environ.get("FAULT_SEED", "1")
LOG = Path(os.environ.get("FAULT_LOG", "out/test-cluster/faults.jsonl"))
ARGO_NAMESPACE = os.environ.get("ARGO_NAMESPACE", "argo")
"""Where Argo's controller is."""
POLL_SECONDS = 0.7
GONE = "gone"

Strike = Callable[[dict[str, Any]], str]
"""Does something to a pod; gives what was said."""

# As the script of the serving image does it: the server is no process 1, which no signal from within could kill.
_SERVE = 'python -c "$SERVER" & server=$!; trap "kill $server; wait $server; exit 0" TERM; wait $server'

_KILL_CHILDREN_OF_PROCESS_1 = """
import os, sys
for entry in os.listdir("/proc"):
    if entry.isdigit() and int(entry) != os.getpid():
        with open(f"/proc/{entry}/stat") as file:
            parent = file.read().rsplit(")", 1)[1].split()[1]
        if parent == "1":
            os.kill(int(entry), int(sys.argv[1]))
            print("killed", entry)
"""


def faulty_serving(memory: str = "300Mi", start_seconds: int = 120, **environment: object) -> dict[str, Any]:
    """Settings of a model server with the faults that the variables name; see `faulty_server`."""
    return {
        "image": STEPS_IMAGE,
        "command": ["sh", "-c", _SERVE],
        "environment": {
            "SERVER": Path(faulty_server.__file__).read_text(),
            **{name: str(value) for name, value in environment.items()},
        },
        "resources": {"cpu": "50m", "memory": memory},
        "start_seconds": start_seconds,
    }


def seeded_seconds(name: str, low: float, high: float) -> float:
    """The same for the same name and seed."""
    return random.Random(f"{SEED}/{name}").uniform(low, high)


def log(**facts: object) -> None:
    """Note what was done."""
    line = json.dumps({"seed": SEED, "at": round(time.time(), 1), **facts})
    print(line)  # noqa: T201 - pytest shows it with a failure
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("a") as file:
        file.write(line + "\n")


def container_of(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """Status of a container; empty if it has none yet."""
    status = pod.get("status", {})
    found = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    return next((container for container in found if container["name"] == name), {})


@dataclass
class Fault:
    """Something that is done to a container's pod while it runs.

    Args:
        name: Says what it is, and seeds its time.
        run: Whose pod.
        strike: Does it, given the pod.
        template: Of the pod; the first of its pods that is seen to run, and is no other's target, is this one's.
        container: That must be running, and ends.
        earliest_seconds: After the container was first seen to run.
        latest_seconds: After that too.
    """

    name: str
    run: Run
    strike: Strike
    template: str = "detect"
    container: str = "main"
    earliest_seconds: float = 1.0
    latest_seconds: float = 6.0
    pod: dict[str, Any] | None = None
    """The target, as it was last seen before."""
    strike_answer: Future[str] | None = None
    """Of the hit, once it was made."""
    end: Any = None
    """How the container that was running ended: its `terminated` state, or GONE with its pod."""
    _seen: float = 0.0

    @property
    def uid(self) -> str:
        """Of the target."""
        return str(self.pod["metadata"]["uid"]) if self.pod else ""

    def look(self, pods: Sequence[dict[str, Any]], taken: Collection[str], threads: Executor) -> None:
        """Do what is due, given all pods of the namespace, and those that other faults have chosen."""
        if self.pod is None:
            self._choose([pod for pod in pods if pod["metadata"]["uid"] not in taken])
            return
        now = next((pod for pod in pods if pod["metadata"]["uid"] == self.uid), None)
        if self.strike_answer is None:
            assert now is not None, f"{self.name}: the target vanished before it was hit"
            self._strike_if_due(now, threads)
        elif self.end is None and self.strike_answer.done():
            self.strike_answer.result()
            self._look_for_end(now)

    def _choose(self, pods: Sequence[dict[str, Any]]) -> None:
        for pod in pods:
            labels = pod["metadata"]["labels"]
            of_run = labels.get("workflows.argoproj.io/workflow") == self.run.name
            if of_run and f"-{self.template}-" in pod["metadata"]["name"] and self._is_running(pod):
                self.pod, self._seen = pod, time.monotonic()
                return

    def _is_running(self, pod: dict[str, Any]) -> bool:
        """Main too: that is the work which is to be disturbed."""
        return all("running" in container_of(pod, name).get("state", {}) for name in ("main", self.container))

    def _strike_if_due(self, pod: dict[str, Any], threads: Executor) -> None:
        due = seeded_seconds(self.name, self.earliest_seconds, self.latest_seconds)
        if time.monotonic() < self._seen + due:
            return
        assert self._is_running(pod), (
            f"{self.name}: the target had ended before it was hit, {due:.1f} s after its start"
        )
        self.pod = pod
        before = container_of(pod, self.container)
        # Commands take a while on a busy machine, in which the other targets go on.
        self.strike_answer = threads.submit(self.strike, pod)
        log(
            fault=self.name,
            run=self.run.name,
            seconds_after_start=round(due, 2),
            pod=pod["metadata"]["name"],
            pod_uid=self.uid,
            container=self.container,
            container_id=before["containerID"],
            before=before["state"],
        )

    def _look_for_end(self, now: dict[str, Any] | None) -> None:
        assert self.pod is not None
        identity = container_of(self.pod, self.container)["containerID"]
        if now is None:
            self.end = GONE
        else:
            container = container_of(now, self.container)
            ended = [container.get(state, {}).get("terminated", {}) for state in ("state", "lastState")]
            self.end = next((state for state in ended if state.get("containerID") == identity), None)
        if self.end is not None:
            assert self.strike_answer is not None
            said = self.strike_answer.result().strip()
            log(fault=self.name, pod_uid=self.uid, container_id=identity, said=said, after=self.end)


def hit(cluster: Cluster, faults: Sequence[Fault], seconds: float = 180.0) -> None:
    """Wait for each target and hit it, until all have ended that were hit."""
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(max(1, len(faults))) as threads:
        while left := [fault.name for fault in faults if fault.end is None]:
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {', '.join(left)}"
            pods = cluster.list("pods", "workflows.argoproj.io/workflow")
            for fault in faults:
                fault.look(pods, {other.uid for other in faults}, threads)
            time.sleep(POLL_SECONDS)


def delete(cluster: Cluster, *, force: bool) -> Strike:
    """Delete the pod; by force it is gone from the API at once, whatever its containers do."""
    flags = ["--grace-period=0", "--force"] if force else []
    return lambda pod: cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false", *flags)


def kill(cluster: Cluster, container: str, signal: int) -> Strike:
    """Signal the program that a container runs, from within it."""
    program = ["--", "python", "-c", _KILL_CHILDREN_OF_PROCESS_1, str(signal)]
    return lambda pod: cluster.kubectl("exec", pod["metadata"]["name"], "-c", container, *program)


def replace_controller(cluster: Cluster) -> Strike:
    """Delete Argo's controller, and wait until another is ready."""

    def strike(_: dict[str, Any]) -> str:
        old = controllers(cluster)
        assert old, f"no controller runs in the namespace {ARGO_NAMESPACE} (ARGO_NAMESPACE)"
        words = ["-n", ARGO_NAMESPACE, "delete", "pod", *old, "--grace-period=0", "--force"]
        cluster.command("kubectl", *words)
        new = wait_for("another controller", lambda: controllers(cluster) - old)
        return f"{', '.join(old)} deleted, {', '.join(new)} took over"

    return strike


def controllers(cluster: Cluster) -> set[str]:
    """Names of the pods of Argo's controller that are ready."""
    words = ["-n", ARGO_NAMESPACE, "get", "pods", "-l", "app=workflow-controller", "-o", "json"]
    pods = json.loads(cluster.command("kubectl", *words))["items"]
    return {
        pod["metadata"]["name"]
        for pod in pods
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    }


def nothing(_: dict[str, Any]) -> str:
    """For a container that ends by its own fault."""
    return "left to itself"

"""Components that are hit while messages are sent, one after the other, at times that a seed chooses.

Each hit is logged with the proof that it hit something alive, with what came after it, and how long that took.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from events.runs import NAME_START
from tests.cluster.cluster import wait_for
from tests.cluster.faults import ARGO_NAMESPACE, container_of, log

if TYPE_CHECKING:
    from tests.cluster.events import EventsCluster

Pod = dict[str, Any]

COMPONENTS = ("eventsource", "sensor", "eventbus")
CONTROLLER = "controller"
STEP = "step"
AWS_REFUSES = "aws refuse"
AWS_HANGS = "aws hang"
ALL = (*COMPONENTS, CONTROLLER, STEP, STEP, STEP, AWS_REFUSES, AWS_HANGS)
AWS_SECONDS = 60.0
READY_SECONDS = 300.0
"""How long a component may take to be ready, before a hit and after it."""
GAP_SECONDS = 5.0
ANSWERS = "answers"
_STEP_TRIES = 10
_END_OF_AWS = {AWS_REFUSES: "accept", AWS_HANGS: "resume"}
_NODE_NAME = "workflows.argoproj.io/node-name"


@dataclass(frozen=True)
class Upset:
    """Something that was hit."""

    name: str
    at: float
    """In Unix seconds."""
    before: dict[str, Any]
    """What was hit, as it was then."""
    after: dict[str, Any]
    """What took its place."""
    seconds_until_ready: float

    @property
    def until(self) -> float:
        """When all was ready again."""
        return self.at + self.seconds_until_ready

    @property
    def loses_answers(self) -> bool:
        """Whether S3 and SQS may have done what they were asked, and could not say so."""
        return self.name in _END_OF_AWS


class Upsets:
    """Hits components beside the sending of messages.

    Args:
        cluster: whose.
        names: what is hit, each time that it is named.
        messages: how many are sent.
        seed: chooses the order, the moments and the pods.
    """

    def __init__(self, cluster: EventsCluster, names: Sequence[str], *, messages: int, seed: str) -> None:
        self.done: list[Upset] = []
        self.missed: list[Upset] = []
        """Deletions of step pods that had done their work: they count for nothing, but may have made doubles."""
        self.aws = threading.Lock()
        """Held by whoever asks S3 or SQS for something, and while these do not answer."""
        self._cluster = cluster
        self._seed = seed
        self._random = random.Random(f"{seed}/upsets")
        self._plan = self._spread(names, messages)
        self._sent = 0
        self._told = threading.Condition()
        self._stopped = threading.Event()
        self._thread: Future[None] | None = None
        assert "CLUSTER_AWS" in os.environ or not set(names) & set(_END_OF_AWS), (
            "CLUSTER_AWS is not set: the program whose arguments refuse, accept, hang, resume do that to S3 and SQS"
        )

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Hit while the block sends messages, which it tells by `sent`; ends when all is hit, and ready again."""
        with ThreadPoolExecutor(1) as threads:
            self._thread = threads.submit(self._hit_all)
            try:
                yield
                self._thread.result()
            finally:
                self._stopped.set()
                with self._told:
                    self._told.notify_all()
                self._thread.exception()
                for name in {name for _, name in self._plan} & set(_END_OF_AWS):
                    self._cluster.command(os.environ["CLUSTER_AWS"], _END_OF_AWS[name])

    def sent(self, count: int) -> None:
        """So many messages are sent by now. Raises what made a hit fail."""
        with self._told:
            self._sent = count
            self._told.notify_all()
        if self._thread is not None and self._thread.done():
            self._thread.result()

    def _spread(self, names: Sequence[str], messages: int) -> list[tuple[int, str]]:
        """After how many messages each is due: all while some are left to send."""
        order = self._random.sample(list(names), len(names))
        share = messages * 0.85 / max(1, len(order))
        return [(round((number + self._random.uniform(0.2, 1)) * share), name) for number, name in enumerate(order)]

    def _hit_all(self) -> None:
        for due, name in self._plan:
            with self._told:
                self._told.wait_for(lambda due=due: self._sent >= due or self._stopped.is_set())  # type: ignore[misc]
            if self._stopped.wait(self._random.uniform(0, GAP_SECONDS)):
                return
            upset = self._hit(name)
            self.done.append(upset)
            log(upset=upset.name, seed=self._seed, after_messages=due, **_without_name(upset))

    def _hit(self, name: str) -> Upset:
        if name in _END_OF_AWS:
            return self._without_aws(name)
        if name == STEP:
            return self._hit_step()
        return self._replace(name, lambda: self._pods_of(name))

    # Components

    def _pods_of(self, name: str) -> list[Pod]:
        if name != CONTROLLER:
            return self._cluster.component_pods(name)
        words = ["-n", ARGO_NAMESPACE, "get", "pods", "-l", "app=workflow-controller", "-o", "json"]
        pods: list[Pod] = json.loads(self._cluster.command("kubectl", *words))["items"]
        return pods

    def _replace(self, name: str, pods: Callable[[], list[Pod]]) -> Upset:
        """Delete a pod that is ready, and wait for another that is."""
        ready = wait_for(f"the {name} to be ready", lambda: [pod for pod in pods() if is_ready(pod)], READY_SECONDS)
        target = self._choose(ready)
        old = {uid(pod) for pod in pods()}
        at = time.time()
        self._delete(target)
        new = wait_for(
            f"another pod of the {name} to be ready",
            lambda: next((pod for pod in pods() if is_ready(pod) and uid(pod) not in old), None),
            READY_SECONDS,
        )
        return Upset(name, at, seen(target), seen(new), time.time() - at)

    # Steps

    def _hit_step(self) -> Upset:
        """Delete a pod whose step is at work, and wait for the one that does the same again."""
        for _ in range(_STEP_TRIES):
            target = self._choose(wait_for("a step to run", self._running_steps, READY_SECONDS))
            old = {uid(pod) for pod in self._steps()}
            at = time.time()
            self._delete(target)
            run = target["metadata"]["labels"]["workflows.argoproj.io/workflow"]
            new = wait_for(
                f"another pod of {target['metadata']['name']}, or its run's end",
                lambda target=target, old=old, run=run: self._successor(target, old) or self._ended(run),  # type: ignore[misc]
                READY_SECONDS,
            )
            if isinstance(new, dict):
                return Upset(STEP, at, seen(target), seen(new), time.time() - at)
            # It had done its work; another is chosen.
            self.missed.append(Upset(STEP, at, seen(target), {"ended": run}, time.time() - at))
            log(upset=STEP, seed=self._seed, before=seen(target), after={"ended": run})
        raise AssertionError(f"{_STEP_TRIES} step pods had done their work when they were hit")

    def _steps(self) -> list[Pod]:
        pods = self._cluster.list("pods", "workflows.argoproj.io/workflow")
        return [pod for pod in pods if pod["metadata"]["name"].startswith(NAME_START)]

    def _running_steps(self) -> list[Pod]:
        return [
            pod
            for pod in self._steps()
            if "running" in container_of(pod, "main").get("state", {}) and "deletionTimestamp" not in pod["metadata"]
        ]

    def _successor(self, target: Pod, old: set[str]) -> Pod | None:
        """A pod of the same node, or of its next attempt, whose step has begun."""
        for pod in self._steps():
            begun = {"running", "terminated"} & set(container_of(pod, "main").get("state", {}))
            if begun and uid(pod) not in old and node_without_attempt(pod) == node_without_attempt(target):
                return pod
        return None

    def _ended(self, run: str) -> str:
        selector = "workflows.argoproj.io/completed=true"
        names = self._cluster.kubectl("get", "workflows", "-l", selector, "--no-headers")
        return run if run in {line.split()[0] for line in names.splitlines() if line} else ""

    # S3 and SQS

    def _without_aws(self, name: str) -> Upset:
        """S3 and SQS refuse, or hang, for a minute."""
        program = os.environ["CLUSTER_AWS"]
        with self.aws:
            before = wait_for("S3 and SQS to answer", all_answer, READY_SECONDS)
            at = time.time()
            try:
                self._cluster.command(program, name.removeprefix("aws "))
                meanwhile = ask_aws()
                assert_away(name, meanwhile)
                self._stopped.wait(AWS_SECONDS)
                still = ask_aws()
                assert_away(name, still)
            finally:
                self._cluster.command(program, _END_OF_AWS[name])
            after = wait_for("S3 and SQS to answer again", all_answer, READY_SECONDS)
        return Upset(name, at, before, {**after, "meanwhile": meanwhile, "at_the_end": still}, time.time() - at)

    # All

    def _choose(self, pods: list[Pod]) -> Pod:
        return self._random.choice(sorted(pods, key=lambda pod: str(pod["metadata"]["name"])))

    def _delete(self, pod: Pod) -> None:
        place = ["-n", pod["metadata"]["namespace"]]
        words = ["delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false"]
        self._cluster.command("kubectl", *place, *words)


def ask_aws() -> dict[str, str]:
    """Of S3 and of SQS ANSWERS, or what kept it from that."""
    config = Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 1})
    # A session of its own: boto3's default one is not for several threads.
    session = boto3.Session()
    said = {}
    for service, question in (("s3", "list_buckets"), ("sqs", "list_queues")):
        try:
            getattr(session.client(service, config=config), question)()
        except BotoCoreError as error:
            said[service] = type(error).__name__
        else:
            said[service] = ANSWERS
    return said


def all_answer() -> dict[str, str] | None:
    """What they say once both answer."""
    said = ask_aws()
    return said if set(said.values()) == {ANSWERS} else None


def assert_away(name: str, said: dict[str, str]) -> None:
    """Neither may answer."""
    for service, answer in said.items():
        assert answer != ANSWERS, f"{service.upper()} answers although it was told to {name.removeprefix('aws ')}"


def is_ready(pod: Pod) -> bool:
    """And not about to go."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def uid(pod: Pod) -> str:
    """Which no other pod has, whatever its name."""
    return str(pod["metadata"]["uid"])


def seen(pod: Pod) -> dict[str, Any]:
    """What the log tells of a pod."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    states = {status["name"]: status.get("state", {}) for status in statuses}
    return {"pod": pod["metadata"]["name"], "uid": uid(pod), "containers": states}


def node_without_attempt(pod: Pod) -> str:
    """Argo's name of the pod's node, without the number that is another for each attempt."""
    return re.sub(r"\([0-9]+\)$", "", pod["metadata"].get("annotations", {}).get(_NODE_NAME, pod["metadata"]["name"]))


def _without_name(upset: Upset) -> dict[str, Any]:
    facts = asdict(upset)
    del facts["name"]
    return facts

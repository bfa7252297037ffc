"""More messages at once than may run at a time: they wait without pods, the urgent ones go first, and each is answered.

`LOAD_MESSAGES` says how many, by default 1000.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from events.runs import NAME_START
from tests.cluster.accounts import Workflow, balance, workflow_name
from tests.cluster.cluster import embedded_serving
from tests.cluster.coded_runs import CODED, LIMITS
from tests.cluster.collecting import collect, unreported, wait_until_accounted
from tests.cluster.events import EventsCluster, open_events
from tests.cluster.faults import LOG
from tests.cluster.traffic import CLIP_KEY, Message, Sent, succeeded, write_clip
from tests.cluster.turns import most_at_a_time, overtaken

pytestmark = [pytest.mark.load, pytest.mark.timeout(7200)]

MESSAGES = int(os.environ.get("LOAD_MESSAGES", "1000"))
URGENT = max(1, MESSAGES // 50)
"""So many of them, which are sent last."""
PRIORITY = 9
MAX_RUNS = 8
LIMIT_SECONDS = max(600.0, MESSAGES * 5.0)
ACCOUNTED_SECONDS = 300.0
LOOK_SECONDS = 2.0
"""Between two looks at the Workflows, each of which costs the runs CPU."""
ASK_LEDGER_LOOKS = 5
PATIENCE_SECONDS = 10.0
"""In which Argo must know of one that was seen to wait."""
PHASE = "workflows.argoproj.io/phase"
OF_WORKFLOW = "workflows.argoproj.io/workflow"


@dataclass
class Watch:
    """What was seen of the Workflows, by their labels: they themselves are long."""

    cluster: EventsCluster
    looks: int = 0
    most_running: int = 0
    most_waiting: int = 0
    waiting_since: dict[str, float] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    """Had pods at the last look, and were said to wait: Argo makes the first pod, then says that the run goes on."""
    waiting_with_pods: set[str] = field(default_factory=set)

    def look(self) -> None:
        """See what there is now."""
        # In this order: one that has pods and waits afterwards had them while it was said to wait.
        with_pods = self._workflows_of_pods()
        waiting = self._workflows("Pending")
        running = self._workflows("Running")
        now = time.time()
        for name in waiting:
            self.waiting_since.setdefault(name, now)
        self.waiting_with_pods |= waiting & self.begun
        self.begun = waiting & with_pods
        self.most_running = max(self.most_running, len(running))
        self.most_waiting = max(self.most_waiting, len(waiting))
        self.looks += 1

    def _workflows(self, phase: str) -> set[str]:
        table = self.cluster.kubectl("get", "workflows", "-l", f"{PHASE}={phase}", "--no-headers")
        return {name for line in table.splitlines() if (name := line.split()[0]).startswith(NAME_START)}

    def _workflows_of_pods(self) -> set[str]:
        table = self.cluster.kubectl("get", "pods", "-l", OF_WORKFLOW, "-L", OF_WORKFLOW, "--no-headers")
        return {line.split()[-1] for line in table.splitlines() if line}


@dataclass(frozen=True)
class Loaded:
    """What was sent and seen."""

    watch: Watch
    sent: list[Sent]
    urgent: set[str]
    """Names of Workflows."""
    workflows: Sequence[Workflow]
    problems: list[str]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """All messages were answered."""
    settings: dict[str, Any] = {
        **CODED,
        "max_runs": MAX_RUNS,
        "serving": embedded_serving("coded", "coded"),
        "limits": LIMITS,
    }
    with open_events(f"reelscan-load-{uuid.uuid4().hex[:6]}", apart=True, **settings) as cluster:
        clip = write_clip(tmp_path_factory.mktemp("clip") / "coded.mp4")
        cluster.upload(clip, CLIP_KEY)
        began = time.monotonic()
        sent = send_at_once(cluster)
        sending_seconds = time.monotonic() - began
        watch = Watch(cluster)
        watch_until_reported(watch, sent, LIMIT_SECONDS)
        seconds = time.monotonic() - began
        wait_until_accounted(cluster, sent, ACCOUNTED_SECONDS)
        collected = collect(cluster, sent)
        accounts = balance(collected)
        figures = {
            "messages": MESSAGES,
            "max_runs": MAX_RUNS,
            "seconds_to_send": round(sending_seconds, 1),
            "seconds": round(seconds, 1),
            "messages_a_minute": round(MESSAGES / seconds * 60, 1),
            "most_running": watch.most_running,
            "most_waiting": watch.most_waiting,
            "looks": watch.looks,
        }
        print(accounts.table(), json.dumps(figures, indent=1), sep="\n")  # noqa: T201 - what the test is for
        accounts.write(LOG.parent / f"load-{MESSAGES}.json", **figures)
        urgent = {workflow_name(message) for message in sent if message.kind == "urgent"}
        yield Loaded(watch, sent, urgent, collected.workflows, accounts.problems)


def test_no_more_run_at_a_time_than_may(loaded: Loaded) -> None:
    assert loaded.watch.most_running <= MAX_RUNS
    assert most_at_a_time(loaded.workflows) <= MAX_RUNS
    # And so many did.
    assert loaded.watch.most_running == MAX_RUNS


def test_those_that_wait_are_pending_and_have_no_pods(loaded: Loaded) -> None:
    assert loaded.watch.waiting_with_pods == set()
    assert loaded.watch.most_waiting > MAX_RUNS


def test_the_urgent_ones_start_before_the_others_that_wait(loaded: Loaded) -> None:
    by_priority = {workflow.name for workflow in loaded.workflows if workflow.priority == PRIORITY}
    assert by_priority == loaded.urgent
    assert overtaken(loaded.workflows, loaded.watch.waiting_since, PATIENCE_SECONDS) == []
    # And there were others that waited meanwhile.
    last_urgent = max(workflow.started_at for workflow in loaded.workflows if workflow.name in loaded.urgent)
    later = [workflow.name for workflow in loaded.workflows if workflow.started_at > last_urgent]
    assert [name for name in later if loaded.watch.waiting_since.get(name, last_urgent) < last_urgent]


def test_each_message_is_answered_once_and_none_is_dead(loaded: Loaded) -> None:
    assert len(loaded.sent) == MESSAGES
    assert loaded.problems == []


def send_at_once(cluster: EventsCluster) -> list[Sent]:
    """As quickly as the queue takes them."""
    task: dict[str, Any] = {"bucket": cluster.videos, "object": CLIP_KEY, "max_frames": 1}
    normal = Message("normal", json.dumps(task), (succeeded(range(1)),))
    urgent = Message("urgent", json.dumps({**task, "priority": PRIORITY}), (succeeded(range(1)),))
    messages = [*[normal] * (MESSAGES - URGENT), *[urgent] * URGENT]
    sqs = cluster.sqs
    sent: list[Sent] = []
    for first in range(0, MESSAGES, 10):
        batch = messages[first : first + 10]
        entries = [{"Id": str(number), "MessageBody": message.body} for number, message in enumerate(batch)]
        answer = sqs.send_message_batch(QueueUrl=cluster.task_queue, Entries=entries)
        assert not answer.get("Failed"), answer
        sent += [batch[int(done["Id"])].sent(done["MessageId"]) for done in answer["Successful"]]
    return sent


def watch_until_reported(watch: Watch, sent: Sequence[Sent], seconds: float) -> None:
    """Look at the Workflows until all tasks are reported."""
    deadline = time.monotonic() + seconds
    while True:
        watch.look()
        if watch.looks % ASK_LEDGER_LOOKS == 0 and not unreported(watch.cluster, sent):
            return
        if time.monotonic() > deadline:
            left = unreported(watch.cluster, sent)
            listed = watch.cluster.argo("list", "--running", check=False)
            raise AssertionError(f"waited {seconds:g} s for {len(left)} tasks to be reported: {left[:20]}\n{listed}")
        time.sleep(LOOK_SECONDS)

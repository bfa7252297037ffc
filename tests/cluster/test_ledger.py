"""Messages of every kind, while what they pass through is deleted, refuses and hangs: each is accounted for.

`SEED` chooses the messages, the upsets and their moments. `COMPLETED=fifo` makes the completed queue one that drops
doubles. The books are in `out/test-cluster/ledger-SEED.json`, what was hit is in the log of `tests.cluster.faults`.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.accounts import Accounts, Collected, balance
from tests.cluster.cluster import embedded_serving
from tests.cluster.coded_runs import CODED, LIMITS
from tests.cluster.collecting import collect, wait_until_accounted, wait_until_reported
from tests.cluster.events import EventsCluster, open_events
from tests.cluster.faults import LOG
from tests.cluster.flights import HEAD, flights
from tests.cluster.traffic import DEFAULT_MAX_FRAMES, Message, Sent, Traffic, upload, write_clip
from tests.cluster.upsets import ALL, STEP, Upsets
from workflows import WorkflowSettings

SEED = os.environ.get("SEED", "1")
FIFO = os.environ.get("COMPLETED", "") == "fifo"
MAX_RUNS = 4
BLOCK = 10
"""So many messages one after the other are for the same entrypoint."""
ENTRYPOINTS = ("main", "single")
ACCOUNTED_SECONDS = 240.0
"""From the last report on, until the reconciler has looked at each Workflow."""


@dataclass(frozen=True)
class Course:
    """How a ledger is made."""

    name: str
    messages: int
    upsets: Sequence[str]
    gap_seconds: float
    """At most, between two messages."""
    limit_seconds: float
    """From the first message to the last report."""
    limits: dict[str, Any]
    settings: dict[str, Any]
    fifo: bool = False


QUICK = Course(
    name="quick",
    messages=20,
    upsets=("sensor", STEP),
    gap_seconds=1.0,
    limit_seconds=480.0,
    # One that reports and is deleted meanwhile is not waited for longer than the test may take.
    limits={"resend_after_seconds": 20},
    settings={},
)
LONG = Course(
    name="long",
    messages=200,
    upsets=ALL,
    gap_seconds=5.0,
    limit_seconds=2700.0,
    limits={},
    # As deployed: the last retry comes after more than the minute for which S3 and SQS are away.
    settings={"retry_seconds": WorkflowSettings().retry_seconds},
    fifo=FIFO,
)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_each_of_a_few_messages_is_accounted_for_when_a_sensor_and_a_step_are_deleted(tmp_path: Path) -> None:
    assert_accounted(QUICK, tmp_path)


@pytest.mark.ledger
@pytest.mark.timeout(4200)
def test_each_of_many_messages_is_accounted_for_when_all_is_hit(tmp_path: Path) -> None:
    assert_accounted(LONG, tmp_path)


def assert_accounted(course: Course, folder: Path) -> None:
    """Send the messages beside the upsets; then the books balance, and no Workflow is stuck."""
    collected, accounts = keep_books(course, folder)

    assert [upset.name for upset in collected.upsets if not upset.before or not upset.after] == []
    assert len([upset for upset in collected.upsets if "ended" not in upset.after]) == len(course.upsets)
    assert accounts.problems == [], accounts.table()
    assert [workflow for workflow in collected.workflows if workflow.finalizers or not workflow.phase] == []


def keep_books(course: Course, folder: Path) -> tuple[Collected, Accounts]:
    """All that was sent and came, and the balance, which is printed and written down."""
    namespace = f"reelscan-ledger-{uuid.uuid4().hex[:6]}"
    settings: dict[str, Any] = {
        **CODED,
        "max_runs": MAX_RUNS,
        "serving": embedded_serving("coded", "coded"),
        "allowed_sources": [f"s3://videos-{namespace}/*"],
        "limits": {**LIMITS, "max_frames": DEFAULT_MAX_FRAMES, **course.limits},
        **course.settings,
    }
    with open_events(namespace, completed_fifo=course.fifo, apart=True, **settings) as cluster:
        upload(cluster.s3, cluster.videos, write_clip(folder / "coded.mp4"))
        messages = Traffic(cluster.videos, cluster.results, SEED).messages(course.messages)
        upsets = Upsets(cluster, course.upsets, messages=course.messages, seed=SEED)
        deadline = time.monotonic() + course.limit_seconds
        sent = send_beside(cluster, messages, upsets, course.gap_seconds)
        wait_until_reported(cluster, sent, deadline - time.monotonic())
        wait_until_accounted(cluster, sent, ACCOUNTED_SECONDS)
        collected = collect(cluster, sent, [*upsets.done, *upsets.missed], fifo=course.fifo)
        accounts = balance(collected)
        hits = flights(collected)
        print(accounts.table(), HEAD, *(hit.line() for hit in hits), sep="\n")  # noqa: T201 - what the test is for
        accounts.write(
            LOG.parent / (f"ledger-{SEED}.json" if course is LONG else f"ledger-{course.name}-{SEED}.json"),
            seed=SEED,
            fifo=course.fifo,
            sent=len(sent),
            upsets=[asdict(upset) for upset in upsets.done],
            flights=[asdict(hit) for hit in hits],
        )
    return collected, accounts


def send_beside(cluster: EventsCluster, messages: Sequence[Message], upsets: Upsets, gap_seconds: float) -> list[Sent]:
    """Send at seeded moments, for one entrypoint after the other, while components are hit."""
    gaps = random.Random(f"{SEED}/gaps")
    sent: list[Sent] = []
    with upsets.beside():
        for number, message in enumerate(messages):
            if number % BLOCK == 0:
                cluster.set_entrypoint(ENTRYPOINTS[number // BLOCK % len(ENTRYPOINTS)])
            if not message.at_once:
                time.sleep(gaps.uniform(0, gap_seconds))
            # Lost answers would be messages that nobody knows of.
            with upsets.aws:
                sent.append(message.sent(cluster.send(message.body)))
            upsets.sent(len(sent))
    return sent

"""What was in flight when something was hit."""

from __future__ import annotations

import json

from tests.cluster.accounts import Collected, Received
from tests.cluster.flights import Flight, flights
from tests.cluster.traffic import Expectation, Sent
from tests.cluster.upsets import STEP, Upset


def sent(name: str, at: float, tasks: int = 1) -> Sent:
    return Sent("{}", "good", name, {f"{name}-{number}": Expectation("succeeded") for number in range(tasks)}, at)


def answer(task_id: str, at: float) -> Received:
    return Received(json.dumps({"task_id": task_id}).encode(), at)


def test_in_flight_is_what_was_sent_before_and_answered_after() -> None:
    collected = Collected(
        sent=[sent("early", 1.0), sent("flying", 5.0, tasks=2), sent("lost", 6.0), sent("late", 11.0)],
        received=[answer("early-0", 9.0), answer("flying-1", 30.0), answer("flying-0", 12.0), answer("late-0", 40.0)],
        dead_letters=[],
        ledger={},
        workflows=[],
        upsets=[Upset("later", 20.0, {}, {}, 2.0), Upset(STEP, 10.0, {}, {}, 4.0)],
    )
    assert flights(collected) == [Flight(STEP, 4.0, 3, 2, 20.0), Flight("later", 2.0, 3, 2, 20.0)]


def test_a_second_answer_does_not_count() -> None:
    collected = Collected(
        sent=[sent("m", 1.0)], received=[answer("m-0", 5.0), answer("m-0", 50.0)], dead_letters=[], ledger={},
        workflows=[], upsets=[Upset(STEP, 10.0, {}, {}, 1.0)],
    )  # fmt: skip
    assert flights(collected) == [Flight(STEP, 1.0, 0, 0, 0.0)]

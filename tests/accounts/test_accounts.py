"""The accounts that the cluster tests draw up: what they let pass, and that nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from events.runs import FINALIZER
from steps.completed import Completed, StepError
from tests.cluster.accounts import (
    Accounts,
    Collected,
    DeadLetter,
    LedgerObject,
    Received,
    Spread,
    Workflow,
    balance,
)
from tests.cluster.traffic import Expectation, Sent, failed, succeeded
from tests.cluster.turns import most_at_a_time, overtaken
from tests.cluster.upsets import AWS_HANGS, AWS_REFUSES, CONTROLLER, STEP, Upset

WRITTEN_AT = 1000.0
GOOD, BAD, SECOND = "m-good", "m-bad", "m-two-1"


def line(frame: int) -> dict[str, Any]:
    """What the coded model reads in the picture of a frame."""
    bits = [f"bit{bit}" for bit in range(16) if frame >> bit & 1]
    return {"frame": frame, "detections": [{"label": label} for label in ["read", *bits]]}


def message(task_id: str, expectation: Expectation, **changes: Any) -> bytes:
    """The completed message that is expected."""
    frames = expectation.frames
    document = {
        "task_id": task_id,
        "attempt": 1,
        "id": expectation.id,
        "status": expectation.status,
        "task": expectation.object and {"bucket": "videos", "object": expectation.object},
        "options": None,
        "model": None,
        "workflow": "task-m",
        "run": None,
        "received_at": "2026-01-01T00:00:00Z",
        "completed_at": "2026-01-01T00:00:01Z",
        "video": None,
        "frames": None if frames is None else {"planned": len(frames), "analysed": len(frames), "missing": []},
        "detections_by_label": None,
        "results": None,
        "files": {},
        "frame_records": [line(frame) for frame in frames or ()],
        "seconds": None,
        "wall_seconds": 1.0,
        "error": expectation.code and StepError(code=expectation.code, message="why", step="plan"),
    }
    return Completed.model_validate({**document, **changes}).to_bytes()


@dataclass
class Books:
    """Of three messages, one with two tasks, of which all came as they must. A test changes what it is about."""

    sent: list[Sent]
    received: list[Received]
    dead_letters: list[DeadLetter]
    ledger: dict[str, LedgerObject]
    workflows: list[Workflow]
    upsets: list[Upset]
    fifo: bool = False

    def balance(self) -> Accounts:
        return balance(Collected(**vars(self)))

    def double(self, task_id: str, after_seconds: float) -> None:
        """The task's message came again."""
        data = next(m.data for m in self.received if json.loads(m.data)["task_id"] == task_id)
        self.received.append(Received(data, WRITTEN_AT + after_seconds))

    def hit(self, name: str, after_seconds: float, lasting_seconds: float = 5.0, *, of: str = "") -> None:
        """Something was hit; of a step, the pod of a message's run."""
        before = {"pod": f"task-{of}-detect-123"} if of else {"s3": "answers"}
        self.upsets.append(Upset(name, WRITTEN_AT + after_seconds, before, {}, lasting_seconds))


@pytest.fixture
def books() -> Books:
    tasks = {
        GOOD: succeeded(range(3, 9, 2), token="{{=1+}}"),
        BAD: failed("not_found", "no/{{"),
        "m-two-0": succeeded(range(4)),
        SECOND: failed("invalid_task", None),
    }
    sent = [
        Sent("{}", "good", GOOD, {GOOD: tasks[GOOD]}, at=990.0),
        Sent("{{", "missing object", BAD, {BAD: tasks[BAD]}, at=991.0),
        Sent("[]", "notification", "m-two", {name: tasks[name] for name in ("m-two-0", SECOND)}, at=992.0),
        Sent("test", "test event", "m-test", {}, at=993.0),
    ]
    messages = {task_id: message(task_id, expectation) for task_id, expectation in tasks.items()}
    ledger = {f"{task_id}.1.completed.json": LedgerObject(WRITTEN_AT, data) for task_id, data in messages.items()}
    ledger |= {f"{task_id}.1.sent": LedgerObject(WRITTEN_AT + 1) for task_id in messages}
    return Books(
        sent=sent,
        received=[Received(data, WRITTEN_AT + 0.5) for data in messages.values()],
        dead_letters=[
            DeadLetter(BAD, "not_found", "{{", WRITTEN_AT + 0.6),
            DeadLetter(SECOND, "invalid_task", '{"Records": [{}]}', WRITTEN_AT + 0.6),
        ],
        ledger={**ledger, "clock": LedgerObject(WRITTEN_AT), f"{BAD}.1.reason.json": LedgerObject(WRITTEN_AT)},
        workflows=[Workflow(f"task-{one.message_id}", "Succeeded", created_at=one.at + 2) for one in sent],
        upsets=[],
    )


def test_books_that_balance_have_no_problems(books: Books) -> None:
    accounts = books.balance()

    assert accounts.problems == accounts.doubled == []
    rows = {name: (row.expected, row.in_ledger, row.messages, row.dead_letters) for name, row in accounts.rows.items()}
    assert rows == {
        "succeeded": (2, 2, 2, 0),
        "failed: not_found": (1, 1, 1, 1),
        "failed: invalid_task": (1, 1, 1, 1),
    }
    assert accounts.seconds["sending to the workflow"].most == 2.5
    assert accounts.seconds["sending to the completed message"] == Spread.of([10.5, 9.5, 8.5, 8.5])


def test_the_table_and_the_file_say_it_all(books: Books, tmp_path: Path) -> None:
    books.workflows.pop()
    accounts = books.balance()
    accounts.write(tmp_path / "new" / "ledger.json", seed="1")

    table = accounts.table().splitlines()
    assert table[0].split() == ["tasks", "expected", "in", "ledger", "messages", "dead", "letters"]
    assert table[4].split() == ["all", "4", "4", "4", "2"]
    assert table[-1] == "problem: workflow task-m-test is missing"
    written = json.loads((tmp_path / "new" / "ledger.json").read_text())
    assert written["seed"] == "1"
    assert written["rows"]["succeeded"] == {"expected": 2, "in_ledger": 2, "messages": 2, "dead_letters": 0}
    assert written["problems"] == ["workflow task-m-test is missing"]


def lose_message(books: Books) -> None:
    books.received.pop(0)


def lose_entry(books: Books) -> None:
    del books.ledger[f"{GOOD}.1.completed.json"]


def lose_mark(books: Books) -> None:
    del books.ledger[f"{GOOD}.1.sent"]


def lose_dead_letter(books: Books) -> None:
    books.dead_letters.pop(0)


def add_dead_letter(books: Books) -> None:
    books.dead_letters.append(DeadLetter(GOOD, "internal", "{}", WRITTEN_AT))


def change_dead_letter(books: Books) -> None:
    books.dead_letters[0] = replace(books.dead_letters[0], body="changed")


def change_code_of_dead_letter(books: Books) -> None:
    books.dead_letters[0] = replace(books.dead_letters[0], code="internal")


def change_entry(books: Books) -> None:
    changed = message(GOOD, books.sent[0].expected[GOOD], wall_seconds=2.0)
    books.ledger[f"{GOOD}.1.completed.json"] = LedgerObject(WRITTEN_AT, changed)


def contradict(books: Books) -> None:
    books.ledger[f"{GOOD}.1.resend-1"] = LedgerObject(WRITTEN_AT)
    books.hit(STEP, 1, of=GOOD)
    changed = message(GOOD, books.sent[0].expected[GOOD], wall_seconds=2.0)
    books.received.append(Received(changed, WRITTEN_AT + 3))


def fail(books: Books) -> None:
    expect(books, failed("internal"))


def misread(books: Books) -> None:
    expect(books, succeeded(range(3, 9, 2), token="{{=1+}}"), frame_records=[line(3), line(5), line(5) | {"frame": 7}])


def take_other_frames(books: Books) -> None:
    expect(books, succeeded(range(3, 7, 2), token="{{=1+}}"))


def touch_id(books: Books) -> None:
    expect(books, succeeded(range(3, 9, 2), token="evaluated"))


def touch_object(books: Books) -> None:
    expect(books, succeeded(range(3, 9, 2), "evaluated", "{{=1+}}"))


def expect(books: Books, came: Expectation, **changes: Any) -> None:
    """What came of the good task instead."""
    data = message(GOOD, came, **changes)
    books.received[0] = replace(books.received[0], data=data)
    books.ledger[f"{GOOD}.1.completed.json"] = LedgerObject(WRITTEN_AT, data)


def add_unknown(books: Books) -> None:
    books.received.append(Received(message("m-test", succeeded(range(1))), WRITTEN_AT))


def begin_second_attempt(books: Books) -> None:
    books.received.append(Received(message(GOOD, books.sent[0].expected[GOOD], attempt=2), WRITTEN_AT))


def add_no_message(books: Books) -> None:
    books.received.append(Received(b"{{", WRITTEN_AT))


def keep_finalizer(books: Books) -> None:
    books.workflows[0] = replace(books.workflows[0], finalizers=(FINALIZER,))


def lose_phase(books: Books) -> None:
    books.workflows[0] = replace(books.workflows[0], phase="")


def add_workflow(books: Books) -> None:
    books.workflows.append(Workflow("task-other", "Succeeded"))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lose_message, "lost: m-good has no completed message"),
        (lose_entry, "lost: m-good is not in the ledger"),
        (lose_mark, "m-good is in the ledger, but not marked as sent"),
        (lose_dead_letter, "lost: m-bad failed and has no dead letter"),
        (add_dead_letter, "dead letter of m-good, which must not have one"),
        (change_dead_letter, "dead letter of m-bad is not what was sent"),
        (change_code_of_dead_letter, "dead letter of m-bad: internal, expected was not_found"),
        (change_entry, "contradictory: a message of m-good, attempt 1, differs from the ledger's"),
        (contradict, "contradictory: the messages of m-good, attempt 1, differ"),
        (fail, "m-good: failed: internal, expected was succeeded: why"),
        (misread, "m-good: pictures [3, 5, 5], expected are [3, 5, 7]"),
        (take_other_frames, "m-good: frames [3, 5], expected are [3, 5, 7]"),
        (touch_id, "m-good: id 'evaluated', sent was '{{=1+}}'"),
        (touch_object, "m-good: object 'evaluated', sent was 'clip.mp4'"),
        (add_unknown, "completed message of the unknown task m-test"),
        (begin_second_attempt, "completed message of m-good: attempt 2"),
        (add_no_message, "completed message: the ledger's entry is no completed message"),
        (keep_finalizer, "workflow task-m-good still has its finalizer"),
        (lose_phase, "workflow task-m-good has no phase"),
        (add_workflow, "workflow task-other belongs to no message"),
    ],
)
def test_whatever_is_wrong_is_a_problem(books: Books, spoil: Callable[[Books], None], problem: str) -> None:
    spoil(books)

    problems = books.balance().problems
    assert any(found.startswith(problem) for found in problems), problems


def test_a_double_is_allowed_when_it_was_sent_in_its_turn_after_its_pod_was_deleted(books: Books) -> None:
    books.double(BAD, 125)
    books.dead_letters.append(replace(books.dead_letters[0], at=WRITTEN_AT + 126))
    books.ledger[f"{BAD}.1.resend-1"] = LedgerObject(WRITTEN_AT + 124)
    books.hit(STEP, 1, of=BAD)

    accounts = books.balance()
    assert accounts.problems == []
    assert accounts.doubled == [
        "2 times the completed message of m-bad: sent again in its turn, after step",
        "2 times the dead letter of m-bad: sent again in its turn, after step",
    ]


def test_a_double_is_allowed_when_an_answer_of_sqs_may_have_been_lost(books: Books) -> None:
    books.hit(AWS_HANGS, -30, 60)
    books.double(GOOD, 31)

    accounts = books.balance()
    assert accounts.problems == []
    assert accounts.doubled == ["2 times the completed message of m-good: the answer was lost, during aws hang"]


def test_a_double_of_a_record_is_excused_by_its_messages_run(books: Books) -> None:
    books.double(SECOND, 125)
    books.ledger[f"{SECOND}.1.resend-1"] = LedgerObject(WRITTEN_AT + 124)
    books.hit(STEP, 1, of="m-two")

    assert books.balance().problems == []


NOTHING = "while nothing of it was hit"


@pytest.mark.parametrize(
    ("name", "of", "hit_after", "resends", "fifo", "problem"),
    [
        (STEP, GOOD, 1, 0, False, "of which 0 were sent again in their turn, after step"),
        # It was up again before its task was reported, or marked as sent long before it was hit.
        (STEP, GOOD, -20, 1, False, NOTHING),
        (STEP, GOOD, 31, 1, False, NOTHING),
        (STEP, GOOD, 130, 1, False, NOTHING),
        # Another's pod.
        (STEP, BAD, 1, 1, False, NOTHING),
        (STEP, f"{GOOD}er", 1, 1, False, NOTHING),
        # Neither reports a task.
        (CONTROLLER, "", 1, 1, False, NOTHING),
        ("sensor", "", 1, 1, False, NOTHING),
        (AWS_REFUSES, "", -20, 1, False, NOTHING),
        (AWS_HANGS, "", 130, 1, False, NOTHING),
        (None, "", 0, 1, False, NOTHING),
        (STEP, GOOD, 1, 1, True, ", on a FIFO queue"),
    ],
)
def test_any_other_double_is_a_problem(
    books: Books, name: str | None, of: str, hit_after: float, resends: int, fifo: bool, problem: str
) -> None:
    books.fifo = fifo
    books.double(GOOD, 125)
    for number in range(resends):
        books.ledger[f"{GOOD}.1.resend-{number + 1}"] = LedgerObject(WRITTEN_AT + 124)
    if name is not None:
        books.hit(name, hit_after, of=of)

    (found,) = books.balance().problems
    assert found.startswith("2 times the completed message of m-good")
    assert found.endswith(problem)


def test_each_hit_excuses_one_double(books: Books) -> None:
    books.hit(STEP, 1, of=GOOD)
    for number in (1, 2):
        books.ledger[f"{GOOD}.1.resend-{number}"] = LedgerObject(WRITTEN_AT + 120 * number)
        books.double(GOOD, 120 * number + 1)

    assert books.balance().problems == ["3 times the completed message of m-good, but it was hit 1 times: step"]
    books.hit(AWS_HANGS, 100, 60)
    assert books.balance().problems == []


def test_more_doubles_than_turns_and_lost_answers_are_a_problem(books: Books) -> None:
    for after_seconds in (1, 10):
        books.hit(STEP, after_seconds, of=GOOD)
    books.ledger[f"{GOOD}.1.resend-1"] = LedgerObject(WRITTEN_AT + 124)
    books.double(GOOD, 125)
    books.double(GOOD, 126)

    assert books.balance().problems == [
        "3 times the completed message of m-good, of which 1 were sent again in their turn, after step"
    ]


def test_a_dead_letter_may_be_doubled_beside_a_fifo_queue(books: Books) -> None:
    books.fifo = True
    books.dead_letters.append(replace(books.dead_letters[0], at=WRITTEN_AT + 126))
    books.ledger[f"{BAD}.1.resend-1"] = LedgerObject(WRITTEN_AT + 124)
    books.hit(STEP, 1, of=BAD)

    assert books.balance().problems == []


def test_runs_of_the_same_second_are_not_counted_together() -> None:
    times = [(0, 10), (0, 5), (5, 9), (5, 0), (0, 0)]
    workflows = [
        Workflow(
            str(number),
            "",
            started_at=100.0 + start if (start or finish) else 0.0,
            finished_at=finish and 100.0 + finish,
        )
        for number, (start, finish) in enumerate(times)
    ]

    assert most_at_a_time(workflows) == 3
    assert most_at_a_time(workflows[:2]) == 2


def test_one_that_waits_is_overtaken_only_by_a_lower_priority() -> None:
    workflows = [
        Workflow("urgent", "Running", priority=9, started_at=120.0),
        Workflow("low", "Running", started_at=115.0),
        Workflow("in its time", "Running", started_at=103.0),
        Workflow("as urgent", "Running", priority=9, started_at=115.0),
        Workflow("same second", "Running", started_at=120.0),
    ]

    found = overtaken(workflows, {"urgent": 100.0}, 5.0)
    assert found == ["urgent of priority 9 waited while low started"]
    assert overtaken(workflows, {}, 5.0) == []

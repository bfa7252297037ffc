from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.completed import Completed, StepError, completed_from_error
from steps.errors import QueueError, StoppedError, StorageError, UsageError
from steps.ledger import Ledger, Outbox, Outcome, safe_name
from steps.queues import Queues
from steps.settings import Settings
from steps.store import FolderStore, Store, open_store
from steps.task import Received
from tests.conftest import Aws
from tests.faults import FaultProxy

BODY = '{"bucket": "videos", "object": "some/video.mp4"}'
HOSTILE_IDS = (
    "../../etc/passwd",
    "a/b",
    "a.1",
    ".",
    "",
    "{{workflow.name}}",
    "two\nlines",
    "ümlaut 🚦",
    "'\"; drop",
    "x" * 1024,
    "\ud800",
    "_0123",
)


def failed(task_id: str = "task-1", *, attempt: int = 1, reason: str = "is text") -> Completed:
    return completed_from_error(
        Received(task_id, BODY, id="mine", place=("videos", "some/video.mp4")),
        StepError.make("not_a_video", reason, "plan"),
        received_at=datetime.now(UTC),
        attempt=attempt,
    )


def succeeded(task_id: str = "task-1", *, attempt: int = 1) -> Completed:
    return failed(task_id, attempt=attempt).model_copy(update={"status": "succeeded", "error": None})


class Deployment:
    """A ledger and queues, and as many processes that report as a test asks for."""

    def __init__(self, aws: Aws, store: Store, *, fifo: bool = False) -> None:
        self.aws = aws
        self.ledger = Ledger(store)
        self.settings = Settings(
            completed_queue=aws.make_queue(fifo=fifo),
            dead_letter_queue=aws.make_queue(fifo=fifo),
            storage_timeout_seconds=3,
            queue_timeout_seconds=6,
        )

    def outbox(self, *, resend_after_seconds: float = 120, store: Store | None = None) -> Outbox:
        settings = self.settings.model_copy(update={"resend_after_seconds": resend_after_seconds})
        return Outbox(self.ledger if store is None else Ledger(store), Queues(settings), settings)

    def completed(self) -> list[str]:
        assert self.settings.completed_queue is not None
        return [message["Body"] for message in self.aws.messages(self.settings.completed_queue)]

    def dead_letters(self) -> list[dict[str, Any]]:
        assert self.settings.dead_letter_queue is not None
        return self.aws.messages(self.settings.dead_letter_queue)


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "ledger")


@pytest.fixture
def deployment(aws: Aws, folder: FolderStore) -> Deployment:
    return Deployment(aws, folder)


def write_entry(ledger: Ledger, completed: Completed, *, age_seconds: float = 0) -> bytes:
    """What one leaves who dies right after the first step."""
    data = completed.to_bytes()
    key = ledger.key(completed.task_id, completed.attempt, ".completed.json")
    assert ledger.store.create(key, data) is not None
    make_old(ledger, key, age_seconds)
    return data


def make_old(ledger: Ledger, key: str, age_seconds: float) -> None:
    written = time.time() - age_seconds
    assert isinstance(ledger.store, FolderStore)
    os.utime(ledger.store.folder / key, (written, written))


class TestReporting:
    def test_a_success_is_sent_once_and_marked(self, deployment: Deployment) -> None:
        completed = succeeded()
        outcome = deployment.outbox().report(completed, BODY)

        assert outcome == Outcome("sent", completed)
        assert deployment.completed() == [completed.to_bytes().decode()]
        assert deployment.dead_letters() == []
        assert set(deployment.ledger.store.list("")) == {"task-1.1.completed.json", "task-1.1.sent"}

    def test_a_failure_is_sent_with_a_dead_letter_that_can_be_sent_again(self, deployment: Deployment) -> None:
        deployment.outbox().report(failed(reason="s3://videos/x: is text\x00 🚦"), BODY)

        (letter,) = deployment.dead_letters()
        assert letter["Body"] == BODY
        attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
        assert attributes == {
            "task_id": "task-1", "code": "not_a_video", "reason": "s3://videos/x: is text\\u0000 🚦"
        }  # fmt: skip
        assert len(deployment.completed()) == 1

    def test_what_is_sent_is_the_entry_byte_for_byte(self, deployment: Deployment) -> None:
        deployment.outbox().report(failed(reason="ü 🚦 \uffff"), BODY)

        (message,) = deployment.completed()
        assert deployment.ledger.store.get("task-1.1.completed.json").data == message.encode()

    def test_reporting_again_sends_nothing(self, deployment: Deployment) -> None:
        first = failed()
        deployment.outbox().report(first, BODY)
        outcome = deployment.outbox().report(succeeded(), BODY)

        assert outcome == Outcome("already_sent", first)
        assert deployment.completed() == [first.to_bytes().decode()]
        assert len(deployment.dead_letters()) == 1

    def test_each_attempt_is_reported(self, deployment: Deployment) -> None:
        deployment.outbox().report(failed(), BODY)
        deployment.outbox().report(succeeded(attempt=2), BODY)

        assert [json.loads(body)["attempt"] for body in deployment.completed()] == [1, 2]

    @pytest.mark.parametrize("missing", ["completed_queue", "dead_letter_queue"])
    def test_without_its_queues_nothing_is_begun(self, deployment: Deployment, missing: str) -> None:
        settings = deployment.settings.model_copy(update={missing: None})

        with pytest.raises(UsageError, match=f"REELSCAN_{missing.upper()}"):
            Outbox(deployment.ledger, Queues(settings), settings)

    def test_of_many_who_report_at_once_one_sends(self, deployment: Deployment) -> None:
        messages = [failed(reason=f"said by {number}") for number in range(6)]
        gate = threading.Barrier(6)

        def report(completed: Completed) -> Outcome:
            outbox = deployment.outbox()
            gate.wait()
            return outbox.report(completed, BODY)

        with ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(report, messages))

        (sent,) = deployment.completed()
        assert [outcome.state for outcome in outcomes].count("sent") == 1
        assert {outcome.completed.to_bytes().decode() for outcome in outcomes} == {sent}


class TestLosing:
    def test_a_young_entry_is_left_to_its_writer(self, deployment: Deployment) -> None:
        write_entry(deployment.ledger, failed(), age_seconds=100)
        outcome = deployment.outbox(resend_after_seconds=120).report(succeeded(), BODY)

        assert outcome.state == "young"
        assert 15 < outcome.seconds_left < 21
        assert outcome.completed.status == "failed"
        assert deployment.completed() == []

    def test_an_old_entry_is_sent_as_it_is_by_another(self, deployment: Deployment) -> None:
        data = write_entry(deployment.ledger, failed(), age_seconds=121)
        outcome = deployment.outbox(resend_after_seconds=120).report(succeeded(), BODY)

        assert outcome.state == "sent"
        assert deployment.completed() == [data.decode()]
        # The entry says that the task failed, whatever this reporter would have said.
        assert len(deployment.dead_letters()) == 1
        assert deployment.ledger.store.exists("task-1.1.sent")

    def test_of_many_who_find_an_old_entry_one_sends_it(self, deployment: Deployment) -> None:
        data = write_entry(deployment.ledger, failed(), age_seconds=121)
        gate = threading.Barrier(6)

        def resume(_: int) -> str:
            outbox = deployment.outbox(resend_after_seconds=120)
            gate.wait()
            outcome = outbox.resume("task-1", BODY)
            assert outcome is not None
            return outcome.state

        with ThreadPoolExecutor(6) as pool:
            states = list(pool.map(resume, range(6)))

        assert states.count("sent") == 1
        assert set(states) <= {"sent", "young", "already_sent"}
        assert deployment.completed() == [data.decode()]

    def test_one_who_dies_while_sending_again_is_followed_by_the_next(self, deployment: Deployment) -> None:
        write_entry(deployment.ledger, failed(), age_seconds=500)
        deployment.ledger.store.create("task-1.1.resend-1", b"of one who died")
        outbox = deployment.outbox(resend_after_seconds=120)
        young = outbox.resume("task-1", BODY)
        make_old(deployment.ledger, "task-1.1.resend-1", 121)
        sent = outbox.resume("task-1", BODY)

        assert young is not None
        assert young.state == "young"
        assert sent is not None
        assert sent.state == "sent"
        assert len(deployment.completed()) == 1

    @pytest.mark.parametrize("hours", [-1, 1])
    def test_a_machine_whose_clock_is_wrong_judges_alike(self, deployment: Deployment, hours: int) -> None:
        class OtherClock(FolderStore):
            """A store whose clock is not this machine's."""

            def written_at(self, key: str) -> datetime:
                return super().written_at(key) + timedelta(hours=hours)

        assert isinstance(deployment.ledger.store, FolderStore)
        store = OtherClock(deployment.ledger.store.folder)
        write_entry(deployment.ledger, failed("young"), age_seconds=100)
        write_entry(deployment.ledger, failed("old"), age_seconds=140)
        outbox = deployment.outbox(store=store)

        states = [outbox.report(succeeded(task_id), BODY).state for task_id in ("young", "old")]

        assert states == ["young", "sent"]

    def test_waiting_ends_when_the_writer_has_sent(self, deployment: Deployment) -> None:
        write_entry(deployment.ledger, failed())

        def writer_goes_on() -> bool:
            deployment.ledger.store.create("task-1.1.sent", b"")
            return False

        outcome = deployment.outbox().report(succeeded(), BODY, wait=True, cancelled=writer_goes_on)

        assert outcome.state == "already_sent"
        assert deployment.completed() == []

    def test_waiting_ends_with_sending_when_the_writer_stays_silent(self, deployment: Deployment) -> None:
        data = write_entry(deployment.ledger, failed(), age_seconds=119)
        outcome = deployment.outbox().report(succeeded(), BODY, wait=True)

        assert outcome.state == "sent"
        assert deployment.completed() == [data.decode()]

    def test_waiting_can_be_stopped(self, deployment: Deployment) -> None:
        write_entry(deployment.ledger, failed())

        with pytest.raises(StoppedError):
            deployment.outbox().report(succeeded(), BODY, wait=True, cancelled=lambda: True)
        assert deployment.completed() == []

    def test_an_entry_that_nobody_wrote_cannot_be_resumed(self, deployment: Deployment) -> None:
        assert deployment.outbox().resume("task-1", BODY) is None

    def test_an_entry_that_is_damaged_is_a_storage_error(self, deployment: Deployment) -> None:
        deployment.ledger.store.put("task-1.1.completed.json", b"damaged")

        with pytest.raises(StorageError, match="no completed message"):
            deployment.outbox().report(failed(), BODY)


# Reports a failed task and is killed before its outside operation number sys.argv[4], counted from 0.
_DIE = """
import os, signal, sys
from pathlib import Path
from steps.completed import Completed
from steps.ledger import Ledger, Outbox
from steps.queues import Queues
from steps.settings import Settings
from steps.store import FolderStore

settings = Settings(completed_queue=sys.argv[2], dead_letter_queue=sys.argv[3])
store, queues = FolderStore(Path(sys.argv[1])), Queues(settings)
left = int(sys.argv[4])

def dying(operation):
    def operate(*arguments, **named):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return operation(*arguments, **named)
    return operate

store.create, queues.send = dying(store.create), dying(queues.send)
Outbox(Ledger(store), queues, settings).report(Completed.from_bytes(sys.stdin.buffer.read()), sys.argv[5])
"""


class TestDeath:
    @pytest.mark.parametrize(
        ("operations", "messages", "letters"),
        [
            (0, 1, 1),  # before step 1: the other reports by itself
            (1, 1, 1),  # between 1 and 2
            (2, 2, 1),  # within 2, after the message and before the dead letter
            (3, 2, 2),  # between 2 and 3
            (4, 1, 1),  # after step 3
        ],
    )
    def test_a_task_is_reported_whenever_its_reporter_dies(
        self, deployment: Deployment, operations: int, messages: int, letters: int
    ) -> None:
        first, second = failed(reason="said by the first"), failed(reason="said by the second")
        settings, store = deployment.settings, deployment.ledger.store
        assert isinstance(store, FolderStore)
        arguments = [str(store.folder), settings.completed_queue, settings.dead_letter_queue, str(operations), BODY]
        died = subprocess.run(
            [sys.executable, "-c", _DIE, *arguments],  # type: ignore[list-item]
            input=first.to_bytes(),
            check=False,
        )
        assert died.returncode == (0 if operations == 4 else -9)

        before = deployment.outbox().report(second, BODY).state
        if before == "young":
            make_old(deployment.ledger, "task-1.1.completed.json", 121)
            deployment.outbox().report(second, BODY)

        assert before == {0: "sent", 4: "already_sent"}.get(operations, "young")
        sent = deployment.completed()
        assert sent == [(second if operations == 0 else first).to_bytes().decode()] * messages
        assert len(deployment.dead_letters()) == letters
        assert store.exists("task-1.1.sent")

    def test_a_fifo_queue_drops_what_a_second_reporter_sends_again(self, aws: Aws, folder: FolderStore) -> None:
        deployment = Deployment(aws, folder, fifo=True)
        deployment.outbox().report(failed(), BODY)
        folder.delete("task-1.1.sent")
        make_old(deployment.ledger, "task-1.1.completed.json", 121)

        assert deployment.outbox().report(failed(), BODY).state == "sent"
        assert len(deployment.completed()) == 1
        assert len(deployment.dead_letters()) == 1


class TestFaults:
    @pytest.fixture
    def on_s3(self, aws: Aws, faults: FaultProxy) -> Deployment:
        settings = Settings(storage_timeout_seconds=3)
        return Deployment(aws, open_store(f"s3://{aws.bucket}/results/ledger", settings))

    @pytest.mark.parametrize("key", ["completed.json", "sent"])
    @pytest.mark.parametrize("kind", ["throttle", "lose_request", "lose_answer"])
    def test_a_fault_of_s3_does_not_double_a_message(
        self, on_s3: Deployment, faults: FaultProxy, key: str, kind: str
    ) -> None:
        faults.inject(kind, f"PUT .*{key}")  # type: ignore[arg-type]
        outcome = on_s3.outbox().report(failed(), BODY)

        assert outcome.state == "sent"
        assert len(on_s3.completed()) == 1
        assert len(on_s3.dead_letters()) == 1
        assert on_s3.ledger.find("task-1")[0].sent

    def test_on_s3_too_a_loser_waits_and_then_sends_what_is_there(self, on_s3: Deployment) -> None:
        data = write_entry_on_s3(on_s3, failed())
        young = on_s3.outbox(resend_after_seconds=60).report(succeeded(), BODY)
        sent = on_s3.outbox(resend_after_seconds=1).report(succeeded(), BODY, wait=True)

        assert young.state == "young"
        assert 50 < young.seconds_left < 61
        assert sent.state == "sent"
        assert on_s3.completed() == [data.decode()]

    @pytest.mark.parametrize("kind", ["throttle", "lose_request"])
    def test_a_fault_of_sqs_is_waited_out(self, on_s3: Deployment, faults: FaultProxy, kind: str) -> None:
        faults.inject(kind, "SendMessage")  # type: ignore[arg-type]

        assert on_s3.outbox().report(failed(), BODY).state == "sent"
        assert len(on_s3.completed()) == 1

    def test_a_lost_answer_of_sqs_doubles_the_same_message_at_most(self, on_s3: Deployment, faults: FaultProxy) -> None:
        faults.inject("lose_answer", "SendMessage")
        completed = failed()
        on_s3.outbox().report(completed, BODY)

        assert set(on_s3.completed()) == {completed.to_bytes().decode()}

    def test_on_a_fifo_queue_a_lost_answer_doubles_nothing(self, aws: Aws, faults: FaultProxy) -> None:
        deployment = Deployment(aws, open_store(f"s3://{aws.bucket}/ledger", Settings()), fifo=True)
        faults.inject("lose_answer", "SendMessage", times=2)
        deployment.outbox().report(failed(), BODY)

        assert len(deployment.completed()) == 1
        assert len(deployment.dead_letters()) == 1

    def test_after_a_failure_of_sqs_the_same_report_goes_on_at_once(
        self, on_s3: Deployment, faults: FaultProxy
    ) -> None:
        faults.inject("throttle", "SendMessage", times=3)
        completed, outbox = failed(), on_s3.outbox()
        with pytest.raises(QueueError):
            outbox.report(completed, BODY)

        assert outbox.report(completed, BODY).state == "sent"
        assert len(on_s3.completed()) == 1

    def test_after_a_failure_to_mark_the_same_report_does_not_send_again(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = deployment.ledger.store
        create = store.create

        def fail_to_mark(key: str, data: bytes) -> str | None:
            if key.endswith(".sent"):
                raise StorageError("S3 is gone")
            return create(key, data)

        completed, outbox = failed(), deployment.outbox()
        with monkeypatch.context() as patch:
            patch.setattr(store, "create", fail_to_mark)
            with pytest.raises(StorageError, match="S3 is gone"):
                outbox.report(completed, BODY)

        assert outbox.report(completed, BODY).state == "sent"
        assert len(deployment.completed()) == 1
        assert len(deployment.dead_letters()) == 1
        assert store.exists("task-1.1.sent")


def write_entry_on_s3(deployment: Deployment, completed: Completed) -> bytes:
    data = completed.to_bytes()
    assert deployment.ledger.store.create("task-1.1.completed.json", data) is not None
    return data


class TestLookingUp:
    def test_a_task_that_nobody_reported_has_no_entry(self, deployment: Deployment) -> None:
        assert deployment.ledger.entry("task-1") is None
        assert deployment.ledger.find("task-1") == []

    def test_all_attempts_of_exactly_this_task_are_found_in_order(self, deployment: Deployment) -> None:
        for attempt in (10, 2, 1):
            deployment.outbox().report(succeeded("task-1", attempt=attempt), BODY)
        write_entry(deployment.ledger, failed("task-1", attempt=3))
        for other in ("task-1-0", "task-10", "task"):
            deployment.outbox().report(succeeded(other), BODY)

        entries = deployment.ledger.find("task-1")

        assert [(entry.attempt, entry.sent) for entry in entries] == [(1, True), (2, True), (3, False), (10, True)]
        assert {entry.task_id for entry in entries} == {"task-1"}
        assert entries[2].completed.status == "failed"

    @pytest.mark.parametrize("task_id", HOSTILE_IDS)
    @pytest.mark.parametrize("fifo", [False, True])
    def test_a_hostile_id_is_reported_and_found_within_the_ledger(
        self, aws: Aws, folder: FolderStore, task_id: str, fifo: bool
    ) -> None:
        deployment = Deployment(aws, folder, fifo=fifo)
        deployment.outbox().report(failed(task_id), BODY)

        (entry,) = deployment.ledger.find(task_id)
        assert json.loads(deployment.completed()[0])["task_id"] == entry.completed.task_id == task_id
        assert len(deployment.dead_letters()) == 1
        assert {path.parent for path in folder.folder.rglob("*")} == {folder.folder}

    @pytest.mark.parametrize("task_id", ["5fea7756-0ea4-451a-a703-a558b933e274", "5fea7756-0ea4-451a-3", "a_b"])
    def test_the_usual_ids_stay_readable(self, task_id: str) -> None:
        assert safe_name(task_id) == task_id

    @given(st.lists(st.text(alphabet=st.characters(), max_size=120), unique=True, max_size=20))
    def test_names_are_safe_and_never_coincide(self, task_ids: list[str]) -> None:
        names = [safe_name(task_id) for task_id in task_ids]

        assert len(set(names)) == len(names)
        assert all(name.isascii() and name.replace("-", "").replace("_", "").isalnum() for name in names)
        assert all(len(name) <= 100 for name in names)


def test_a_reporter_needs_two_requests_more_than_its_messages(aws: Aws, faults: FaultProxy) -> None:
    deployment = Deployment(aws, open_store(f"s3://{aws.bucket}/ledger", Settings()))
    deployment.outbox().report(succeeded(), BODY)

    assert faults.count("PUT ") == 2
    assert faults.count("(GET|HEAD|DELETE) ") == 0
    assert faults.count("SendMessage") == 1


class TestSendingToTwoQueues:
    def test_a_dead_letter_that_fails_does_not_send_the_completed_message_again(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outbox, sent = deployment.outbox(resend_after_seconds=0), []

        def send(queue: str, *_: object, **__: object) -> None:
            if queue == outbox._dead_letter_queue and sent.count(queue) < 2:
                sent.append(queue)
                raise QueueError("refused")
            sent.append(queue)

        monkeypatch.setattr(outbox._queues, "send", send)
        for _ in range(2):
            with pytest.raises(QueueError):
                outbox.report(failed("task-1"), BODY)
        assert outbox.report(failed("task-1"), BODY).state == "sent"
        assert sent.count(outbox._completed_queue) == 1

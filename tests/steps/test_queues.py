from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import AccessDeniedError, QueueError, ReelscanError, UsageError
from steps.queues import (
    MAX_BODY_BYTES,
    Message,
    Queues,
    ReceiptLostError,
    escape_for_sqs,
)
from steps.settings import Settings
from steps.visibility import VisibilityKeeper
from tests.conftest import Aws
from tests.faults import FaultProxy

SHORT = Settings(queue_timeout_seconds=3)
DEADLINE_SECONDS = 30


@pytest.fixture
def queue(aws: Aws) -> str:
    return aws.make_queue()


@pytest.fixture
def queues(aws: Aws) -> Queues:
    return Queues(SHORT)


def receive(queues: Queues, queue: str, *, visibility_seconds: float = 60) -> Message:
    (message,) = queues.receive(queue, wait_seconds=0, visibility_seconds=visibility_seconds)
    return message


class TestSending:
    def test_a_message_arrives_with_its_attributes(self, aws: Aws, queues: Queues, queue: str) -> None:
        message_id = queues.send(queue, '{"a": "ü 🚦"}', {"reason": "of course ü", "empty": ""})

        (message,) = aws.messages(queue)
        assert (message["MessageId"], message["Body"]) == (message_id, '{"a": "ü 🚦"}')
        assert {name: value["StringValue"] for name, value in message["MessageAttributes"].items()} == {
            "reason": "of course ü",
            "empty": "-",
        }

    def test_a_queue_can_be_given_by_url(self, aws: Aws, queues: Queues, queue: str) -> None:
        url = queues.url(queue)
        queues.send(url, "x")

        assert url.startswith("http")
        assert len(aws.messages(queue)) == 1

    def test_a_name_is_resolved_once(self, aws: Aws, queue: str, faults: FaultProxy) -> None:
        queues = Queues(SHORT)
        for _ in range(3):
            queues.send(queue, "x")

        assert faults.count("GetQueueUrl") == 1
        assert faults.count("SendMessage") == 3

    def test_characters_that_sqs_refuses_are_escaped_as_json_has_them(
        self, aws: Aws, queues: Queues, queue: str
    ) -> None:
        document = {"object": "a\uffffb\ufffec\x7f\x00\x1f"}
        queues.send(queue, json.dumps(document, ensure_ascii=False))

        (message,) = aws.messages(queue)
        assert json.loads(message["Body"]) == document

    def test_a_body_that_is_no_json_can_be_sent_too(self, aws: Aws, queues: Queues, queue: str) -> None:
        queues.send(queue, "\x00\ud800 broken")

        (message,) = aws.messages(queue)
        assert message["Body"] == "\\u0000\\ud800 broken"

    @pytest.mark.parametrize("body", ["", "x" * 2_000_000, "🚦" * 300_000])
    def test_a_body_of_any_length_can_be_sent(self, aws: Aws, queues: Queues, queue: str, body: str) -> None:
        queues.send(queue, body, {"reason": "r" * 100_000})

        (message,) = aws.messages(queue)
        assert message["Body"] == (body[: MAX_BODY_BYTES // len("🚦".encode() if "🚦" in body else "x")] or "{}")
        assert len(message["MessageAttributes"]["reason"]["StringValue"]) == 1000

    def test_a_fifo_queue_drops_a_second_message_of_one_deduplication_id(self, aws: Aws, queues: Queues) -> None:
        queue = aws.make_queue(fifo=True)
        for body, deduplication_id in (("1", "a"), ("2", "a"), ("3", "b")):
            queues.send(queue, body, group="g", deduplication_id=deduplication_id)

        assert [message["Body"] for message in aws.messages(queue)] == ["1", "3"]

    def test_a_fifo_queue_takes_the_same_message_again_without_an_id(self, aws: Aws, queues: Queues) -> None:
        queue = aws.make_queue(fifo=True)
        for _ in range(2):
            queues.send(queue, "same")

        assert [message["Body"] for message in aws.messages(queue)] == ["same", "same"]


def refuse(queues: Queues, monkeypatch: pytest.MonkeyPatch, *answers: set[str], sender_fault: bool = False) -> None:
    """Let SQS take all of the next requests but the bodies named for each, as it does when it is overloaded."""
    client, left = queues._client(), list(answers)
    send = client.send_message_batch

    def send_the_others(QueueUrl: str, Entries: list[Any]) -> Any:
        refused = left.pop(0) if left else set()
        taken = [entry for entry in Entries if entry["MessageBody"] not in refused]
        answer: Any = send(QueueUrl=QueueUrl, Entries=taken) if taken else {}
        failed = [
            {"Id": entry["Id"], "SenderFault": sender_fault, "Code": "ServiceUnavailable", "Message": "later"}
            for entry in Entries
            if entry["MessageBody"] in refused
        ]
        return {**answer, "Failed": failed}

    monkeypatch.setattr(client, "send_message_batch", send_the_others)


class TestSendingMany:
    def test_every_message_arrives_once_and_the_ids_are_in_order(
        self, aws: Aws, queue: str, faults: FaultProxy
    ) -> None:
        bodies = [str(number) for number in range(23)]
        ids = Queues(SHORT).send_batch(queue, bodies)

        arrived = {message["MessageId"]: message["Body"] for message in aws.messages(queue)}
        assert [arrived[message_id] for message_id in ids] == bodies
        assert len(arrived) == 23
        assert faults.count("SendMessageBatch") == 3

    def test_no_message_costs_no_request(self, queue: str, faults: FaultProxy) -> None:
        assert Queues(SHORT).send_batch(queue, []) == []
        assert faults.count("SendMessageBatch") == 0

    def test_large_messages_are_sent_in_requests_that_sqs_takes(self, aws: Aws, queue: str, faults: FaultProxy) -> None:
        bodies = ["a" * 100_000, "b" * 100_000, "ü" * 30_000, "c" * 2_000_000, "d"]
        Queues(SHORT).send_batch(queue, bodies)

        assert [len(message["Body"]) for message in aws.messages(queue)] == [100_000, 100_000, 30_000, 250_000, 1]
        assert faults.count("SendMessageBatch") == 4

    def test_what_sqs_would_refuse_is_mended(self, aws: Aws, queues: Queues, queue: str) -> None:
        queues.send_batch(queue, ["", "\x00"])

        assert [message["Body"] for message in aws.messages(queue)] == ["{}", "\\u0000"]

    def test_a_fifo_queue_takes_equal_messages_in_their_order(self, aws: Aws, queues: Queues) -> None:
        queue = aws.make_queue(fifo=True)
        queues.send_batch(queue, ["same", "same", "other"])

        assert [message["Body"] for message in aws.messages(queue)] == ["same", "same", "other"]

    def test_messages_that_sqs_did_not_take_are_sent_again_alone(
        self, aws: Aws, queues: Queues, queue: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse(queues, monkeypatch, {"b", "c"}, {"c"})
        ids = queues.send_batch(queue, ["a", "b", "c"])

        arrived = {message["MessageId"]: message["Body"] for message in aws.messages(queue)}
        assert [arrived[message_id] for message_id in ids] == ["a", "b", "c"]

    def test_messages_that_sqs_does_not_take_in_time_are_an_error(
        self, queue: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queues = Queues(Settings(queue_timeout_seconds=0.2))
        client = Queues(SHORT)._client()
        monkeypatch.setattr(queues, "_client", lambda: client)
        refuse(queues, monkeypatch, *[{"b"}] * 100)

        with pytest.raises(QueueError, match="SQS failed: ServiceUnavailable: later"):
            queues.send_batch(queue, ["a", "b"])

    def test_a_message_that_is_refused_for_a_fault_of_its_own_is_not_sent_again(
        self, aws: Aws, queues: Queues, queue: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse(queues, monkeypatch, {"b"}, sender_fault=True)

        with pytest.raises(QueueError, match="ServiceUnavailable"):
            queues.send_batch(queue, ["a", "b"])
        assert [message["Body"] for message in aws.messages(queue)] == ["a"]

    def test_a_lost_answer_does_not_double_the_messages_of_a_fifo_queue(self, aws: Aws, faults: FaultProxy) -> None:
        queue = aws.make_queue(fifo=True)
        faults.inject("lose_answer", "SendMessageBatch")
        Queues(SHORT).send_batch(queue, ["a", "b"])

        assert [message["Body"] for message in aws.messages(queue)] == ["a", "b"]


@given(st.text(alphabet=st.characters(), max_size=200))
def test_escaping_leaves_the_meaning_of_json_as_it_is(text: str) -> None:
    escaped = escape_for_sqs(json.dumps({text: text}, ensure_ascii=False))

    assert json.loads(escaped) == {text: text}
    escaped.encode()
    assert escape_for_sqs(escaped) == escaped


class TestReceiving:
    def test_a_message_is_received_hidden_and_deleted(self, aws: Aws, queues: Queues, queue: str) -> None:
        sent = queues.send(queue, "x")
        message = receive(queues, queue)

        assert (message.id, message.body, message.receive_count) == (sent, "x", 1)
        assert queues.receive(queue, wait_seconds=0, visibility_seconds=60) == []
        assert not queues.is_empty(queue)
        queues.delete(queue, message.receipt)
        assert queues.is_empty(queue)

    def test_a_message_is_received_with_its_attributes_of_text(self, aws: Aws, queues: Queues, queue: str) -> None:
        aws.sqs.send_message(
            QueueUrl=queues.url(queue),
            MessageBody="x",
            MessageAttributes={
                "code": {"DataType": "String", "StringValue": "timeout"},
                "labelled": {"DataType": "String.json", "StringValue": "{}"},
                "number": {"DataType": "Number", "StringValue": "1"},
                "bytes": {"DataType": "Binary", "BinaryValue": b"1"},
            },
        )

        assert receive(queues, queue).attributes == {"code": "timeout", "labelled": "{}"}

    def test_a_message_without_attributes_has_none(self, queues: Queues, queue: str) -> None:
        queues.send(queue, "x")

        assert receive(queues, queue).attributes == {}

    def test_a_message_that_is_given_back_is_received_again(self, queues: Queues, queue: str) -> None:
        queues.send(queue, "x")
        queues.set_visibility(queue, receive(queues, queue).receipt, 0)

        assert receive(queues, queue).receive_count == 2

    def test_receiving_waits_for_a_message(self, queues: Queues, queue: str) -> None:
        arrived: list[Message] = []
        waiter = threading.Thread(
            target=lambda: arrived.extend(queues.receive(queue, wait_seconds=20, visibility_seconds=60))
        )
        waiter.start()
        Queues(SHORT).send(queue, "x")
        waiter.join(timeout=DEADLINE_SECONDS)

        assert [message.body for message in arrived] == ["x"]

    def test_several_messages_can_be_received_at_once(self, queues: Queues, queue: str) -> None:
        for number in range(5):
            queues.send(queue, str(number))
        found = queues.receive(queue, wait_seconds=0, visibility_seconds=60, max_messages=10)

        assert {message.body for message in found} == {"0", "1", "2", "3", "4"}

    def test_a_delayed_message_is_one_of_the_queue(self, aws: Aws, queues: Queues) -> None:
        queue = aws.make_queue(DelaySeconds="900")
        queues.send(queue, "x")

        assert queues.receive(queue, wait_seconds=0, visibility_seconds=60) == []
        assert not queues.is_empty(queue)

    def test_a_receipt_that_is_not_valid_is_told_apart(self, queues: Queues, queue: str) -> None:
        with pytest.raises(ReceiptLostError):
            queues.set_visibility(queue, "no receipt", 10)
        with pytest.raises(ReceiptLostError):
            queues.delete(queue, "no receipt")


OPERATIONS: list[tuple[str, Callable[[Queues, str], object]]] = [
    ("send", lambda queues, queue: queues.send(queue, "x")),
    ("send_batch", lambda queues, queue: queues.send_batch(queue, ["x", "y"])),
    ("receive", lambda queues, queue: queues.receive(queue, wait_seconds=0, visibility_seconds=1)),
    ("delete", lambda queues, queue: queues.delete(queue, "receipt")),
    ("set_visibility", lambda queues, queue: queues.set_visibility(queue, "receipt", 1)),
    ("is_empty", lambda queues, queue: queues.is_empty(queue)),
]


@pytest.mark.parametrize("operate", [operate for _, operate in OPERATIONS], ids=[name for name, _ in OPERATIONS])
class TestErrors:
    def check(self, operate: Callable[[Queues, str], object], queue: str, error: type[ReelscanError]) -> str:
        with pytest.raises(error) as caught:
            operate(Queues(SHORT), queue)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_queue_that_does_not_exist(self, aws: Aws, queue: str, operate: Callable[[Queues, str], object]) -> None:
        message = self.check(operate, "no-such-queue", UsageError)
        by_url = self.check(operate, "http://127.0.0.1/123456789012/no-such-queue", UsageError)

        assert "queue 'no-such-queue' does not exist (there are: " in message
        assert "no-such-queue' does not exist" in by_url

    def test_sqs_that_is_not_there(
        self, aws: Aws, monkeypatch: pytest.MonkeyPatch, operate: Callable[[Queues, str], object]
    ) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
            message = self.check(operate, "queue", QueueError)

        assert "queue queue: SQS cannot be reached: Could not connect to the endpoint URL" in message

    def test_sqs_that_hangs(self, faults: FaultProxy, operate: Callable[[Queues, str], object]) -> None:
        faults.inject("hang", times=1000)
        started = time.monotonic()
        message = self.check(operate, "queue", QueueError)

        assert "Read timeout" in message
        # Three requests of a second each, and pauses between them: what counts is that it ends.
        assert time.monotonic() - started < DEADLINE_SECONDS

    def test_sqs_that_stays_overloaded(self, faults: FaultProxy, operate: Callable[[Queues, str], object]) -> None:
        faults.inject("throttle", times=1000)

        assert "SQS failed: " in self.check(operate, "queue", QueueError)

    def test_sqs_that_refuses(self, faults: FaultProxy, operate: Callable[[Queues, str], object]) -> None:
        faults.inject("deny", times=1000)

        assert "access is denied" in self.check(operate, "queue", AccessDeniedError)

    def test_no_credentials(
        self, aws: Aws, monkeypatch: pytest.MonkeyPatch, operate: Callable[[Queues, str], object]
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

        assert "set AWS_ACCESS_KEY_ID or AWS_PROFILE" in self.check(operate, "queue", AccessDeniedError)


def test_a_queue_of_the_settings_that_does_not_exist_is_named_with_its_variable(aws: Aws) -> None:
    settings = Settings(completed_queue="no-such-queue")

    with pytest.raises(UsageError, match="create it or set REELSCAN_COMPLETED_QUEUE"):
        Queues(settings).send("no-such-queue", "x")


@pytest.mark.parametrize("kind", ["throttle", "lose_request", "lose_answer"])
def test_a_passing_fault_is_not_noticed(aws: Aws, queue: str, faults: FaultProxy, kind: str) -> None:
    queues = Queues(SHORT)
    queues.send(queue, "x")
    faults.inject(kind, "ReceiveMessage")  # type: ignore[arg-type]

    # Where the answer was lost the message stays hidden for its time.
    assert len(queues.receive(queue, wait_seconds=0, visibility_seconds=60)) == (0 if kind == "lose_answer" else 1)


class TestVisibility:
    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)

    def keeper(self, queues: Queues, queue: str, message: Message, **limits: float) -> VisibilityKeeper:
        return VisibilityKeeper(queues, queue, message, **{"seconds": 1.0, "max_seconds": 60.0, **limits})

    def test_a_message_stays_hidden_while_it_is_kept_and_appears_after(self, aws: Aws, faults: FaultProxy) -> None:
        queues, queue = Queues(SHORT), aws.make_queue()
        queues.send(queue, "x")
        message = receive(queues, queue, visibility_seconds=3)
        with self.keeper(queues, queue, message, seconds=3) as keeper:
            # Without the first three of these the message would have appeared by now.
            self.wait_for(lambda: faults.count("ChangeMessageVisibility") >= 4)
            assert queues.receive(queue, wait_seconds=0, visibility_seconds=1) == []
            assert not keeper.lost.is_set()
        renewals = faults.count("ChangeMessageVisibility")

        assert [again.id for again in queues.receive(queue, wait_seconds=20, visibility_seconds=60)] == [message.id]
        assert faults.count("ChangeMessageVisibility") == renewals

    def test_it_stops_at_once(self, queues: Queues, queue: str) -> None:
        queues.send(queue, "x")
        started = time.monotonic()
        with self.keeper(queues, queue, receive(queues, queue), seconds=3600):
            pass

        assert time.monotonic() - started < DEADLINE_SECONDS

    def test_a_message_is_given_up_after_its_longest_time(self, aws: Aws, faults: FaultProxy) -> None:
        queues, queue = Queues(SHORT), aws.make_queue()
        queues.send(queue, "x")
        message = receive(queues, queue, visibility_seconds=1)
        with self.keeper(queues, queue, message, max_seconds=1.5) as keeper:
            assert keeper.lost.wait(DEADLINE_SECONDS)
            renewals = faults.count("ChangeMessageVisibility")
            assert len(queues.receive(queue, wait_seconds=20, visibility_seconds=60)) == 1
            assert faults.count("ChangeMessageVisibility") == renewals

    def test_a_message_that_is_gone_is_noticed(self, queues: Queues, queue: str) -> None:
        queues.send(queue, "x")
        message = receive(queues, queue)
        queues.delete(queue, message.receipt)
        with self.keeper(queues, queue, message) as keeper:
            assert keeper.lost.wait(DEADLINE_SECONDS)

    def test_sqs_that_is_away_for_longer_than_the_message_is_hidden_is_noticed(
        self, aws: Aws, faults: FaultProxy
    ) -> None:
        queues, queue = Queues(Settings(queue_timeout_seconds=1)), aws.make_queue()
        queues.send(queue, "x")
        message = receive(queues, queue)
        faults.inject("throttle", "ChangeMessageVisibility", times=1000)
        with self.keeper(queues, queue, message) as keeper:
            assert keeper.lost.wait(DEADLINE_SECONDS)

    def test_a_short_absence_of_sqs_does_not_matter(self, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
        queues = Queues(SHORT)
        queues.send(queue, "x")
        message = receive(queues, queue)
        renewed = threading.Event()
        set_visibility, failures = queues.set_visibility, iter([QueueError("away")])

        def fail_once(*arguments: Any) -> None:
            for failure in failures:
                raise failure
            set_visibility(*arguments)
            renewed.set()

        monkeypatch.setattr(queues, "set_visibility", fail_once)
        with self.keeper(queues, queue, message) as keeper:
            assert renewed.wait(DEADLINE_SECONDS)
            assert not keeper.lost.is_set()

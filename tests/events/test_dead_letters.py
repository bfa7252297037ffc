"""Going through a dead-letter queue once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from events import dead_letters
from events.dead_letters import DeadLetters
from steps.errors import QueueError, UsageError
from steps.queues import Message, Queues
from steps.settings import Settings
from tests.conftest import Aws
from tests.faults import FaultProxy

SHORT = Settings(queue_timeout_seconds=3)
DEADLINE_SECONDS = 30


@pytest.fixture
def queues(aws: Aws) -> Queues:
    return Queues(SHORT)


@pytest.fixture
def queue(aws: Aws) -> str:
    return aws.make_queue()


def fill(queues: Queues, queue: str, count: int) -> list[str]:
    return queues.send_batch(queue, [f"letter {number}" for number in range(count)])


def visible(aws: Aws, queue: str) -> int:
    url = aws.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    name = "ApproximateNumberOfMessages"
    return int(aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])


def walk(queues: Queues, queue: str, act: Callable[[DeadLetters, Message], None]) -> None:
    with DeadLetters(queues, queue) as letters:
        for letter in letters:
            act(letters, letter)


def test_every_letter_is_given_once_and_all_are_back_at_the_end(aws: Aws, queues: Queues, queue: str) -> None:
    ids = fill(queues, queue, 23)
    with DeadLetters(queues, queue) as letters:
        found = [letter.id for letter in letters]
        assert visible(aws, queue) == 0
    assert sorted(found) == sorted(ids)
    assert visible(aws, queue) == 23


def test_a_deleted_letter_does_not_come_back(aws: Aws, queues: Queues, queue: str) -> None:
    fill(queues, queue, 12)
    with DeadLetters(queues, queue) as letters:
        for letter in letters:
            if letter.body != "letter 7":
                letters.delete(letter)
    assert [message["Body"] for message in aws.messages(queue)] == ["letter 7"]


def test_a_letter_has_its_attributes(queues: Queues, queue: str) -> None:
    queues.send(queue, "x", {"task_id": "t", "code": "timeout"})
    with DeadLetters(queues, queue) as letters:
        assert [letter.attributes for letter in letters] == [{"task_id": "t", "code": "timeout"}]


def test_an_empty_queue_has_no_letters(queues: Queues, queue: str) -> None:
    with DeadLetters(queues, queue) as letters:
        assert list(letters) == []


def test_it_ends_when_a_letter_comes_again_and_gives_that_back_too(aws: Aws, queues: Queues, queue: str) -> None:
    ids = fill(queues, queue, 12)
    found = []
    with DeadLetters(queues, queue) as letters:
        for letter in letters:
            found.append(letter.id)
            # As if it had been held for too long.
            queues.set_visibility(queue, letter.receipt, 0)
    assert len(found) == len(set(found))
    assert set(found) <= set(ids)
    assert visible(aws, queue) == 12


@pytest.mark.parametrize("stop", [KeyboardInterrupt, QueueError("away")])
def test_a_stop_gives_back_what_is_held(
    aws: Aws, queues: Queues, queue: str, stop: BaseException | type[BaseException]
) -> None:
    fill(queues, queue, 12)
    left = iter(range(10))

    def stop_at_the_eleventh(letters: DeadLetters, letter: Message) -> None:
        if next(left, None) is None:
            raise stop

    with pytest.raises((KeyboardInterrupt, QueueError)):
        walk(queues, queue, stop_at_the_eleventh)
    assert visible(aws, queue) == 12


def test_letters_stay_hidden_for_as_long_as_it_takes(aws: Aws, faults: FaultProxy) -> None:
    queues, queue = Queues(SHORT), aws.make_queue()
    (sent,) = fill(queues, queue, 1)
    renewed = threading.Event()
    set_visibility, renewals = queues.set_visibility, []

    def count(*arguments: Any) -> None:
        set_visibility(*arguments)
        renewals.append(arguments[2])
        if len(renewals) == 4:
            renewed.set()

    queues.set_visibility = count  # type: ignore[method-assign]
    with DeadLetters(queues, queue, hold_seconds=3) as letters:
        assert [letter.id for letter in letters] == [sent]
        # Without the first three renewals it would have appeared by now.
        assert renewed.wait(DEADLINE_SECONDS)
        assert queues.receive(queue, wait_seconds=0, visibility_seconds=1) == []
    assert renewals[-1] == 0
    assert visible(aws, queue) == 1


def test_a_letter_that_another_deleted_is_no_error(aws: Aws, queues: Queues, queue: str) -> None:
    fill(queues, queue, 1)

    def delete_twice(letters: DeadLetters, letter: Message) -> None:
        queues.delete(queue, letter.receipt)
        letters.delete(letter)

    walk(queues, queue, delete_twice)
    assert aws.messages(queue) == []


def test_a_letter_that_cannot_be_deleted_is_given_back(aws: Aws, faults: FaultProxy) -> None:
    queues, queue = Queues(SHORT), aws.make_queue()
    fill(queues, queue, 1)
    faults.inject("throttle", "DeleteMessage", times=100)
    with pytest.raises(QueueError):
        walk(queues, queue, DeadLetters.delete)
    assert visible(aws, queue) == 1


def test_sqs_that_is_away_at_the_end_does_not_hide_the_first_error(aws: Aws, faults: FaultProxy) -> None:
    queues, queue = Queues(SHORT), aws.make_queue()
    fill(queues, queue, 2)

    def fail(letters: DeadLetters, letter: Message) -> None:
        faults.inject("throttle", "ChangeMessageVisibility", times=100)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        walk(queues, queue, fail)


def test_a_queue_that_does_not_exist_is_told(queues: Queues) -> None:
    with pytest.raises(UsageError, match="does not exist"), DeadLetters(queues, "no-such-queue") as letters:
        list(letters)


def test_a_receive_asks_all_of_sqs_servers() -> None:
    assert dead_letters.WAIT_SECONDS >= 1

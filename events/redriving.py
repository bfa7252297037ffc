"""Putting dead letters back on the task queue: which, and in what order, so that none is lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from events.dead_letters import DeadLetters, is_stray
from steps.errors import InvalidTaskError, UsageError

if TYPE_CHECKING:
    from steps.queues import Message, Queues
    from steps.settings import Settings

SHOWN_CHARACTERS = 80
"""Of a body that names no video."""


@dataclass(frozen=True)
class Choice:
    """Which letters are put back. Without codes or task ids any code or task will do."""

    codes: Collection[str] = ()
    task_ids: Collection[str] = ()
    include_invalid: bool = False
    max_letters: int | None = None

    def fits(self, letter: Message) -> bool:
        """Whether it has one of the codes and one of the task ids, as far as there are any."""
        return (not self.codes or code_of(letter) in self.codes) and (
            not self.task_ids or task_id_of(letter) in self.task_ids
        )

    def leaves_invalid(self, letter: Message) -> bool:
        """Whether it is none of a task to try again: what is no task today is none tomorrow. Unless it is named."""
        is_named = self.include_invalid or bool(self.codes) or bool(self.task_ids)
        return code_of(letter) == InvalidTaskError.code and not is_named


@dataclass(frozen=True)
class Redriven:
    """A letter that is back on the task queue, or would be."""

    letter: Message
    message_id: str | None
    """Of the new message; None if none was sent."""


@dataclass
class Counts:
    """How many letters were put back, and how many were left for which reason."""

    redriven: int = 0
    invalid: int = 0
    not_chosen: int = 0
    without_task_id: int = 0
    failed_again: int = 0
    """Of tasks that were put back a moment ago."""
    more: bool = False
    """Whether it ended because of `max_letters`."""
    task_ids: Counter[str] = field(default_factory=Counter)
    """Letters put back, by the id of their task."""


def redrive(
    queues: Queues, settings: Settings, choice: Choice, told: Callable[[Redriven], None], *, dry_run: bool = False
) -> Counts:
    """Send the chosen letters of the dead-letter queue to the task queue and delete them; give the others back.

    A letter is deleted once its body is sent: whoever dies in between has sent it twice at most, and the same task
    twice is computed once.

    Args:
        told: is given each as it is put back.
        dry_run: move nothing.

    Raises:
        UsageError: a queue is not set or does not exist, or both are the same.
        AccessDeniedError: SQS refuses.
        QueueError: it cannot be reached. Letters that were not told are on the dead-letter queue.
    """
    dead_letter_queue = _required(settings.dead_letter_queue, "dead-letter queue", "REELSCAN_DEAD_LETTER_QUEUE")
    task_queue = _required(settings.task_queue, "task queue", "REELSCAN_TASK_QUEUE")
    if queues.url(dead_letter_queue) == queues.url(task_queue):
        raise UsageError(
            f"the dead-letter queue {dead_letter_queue[:200]!r} is the task queue too; "
            "set REELSCAN_DEAD_LETTER_QUEUE and REELSCAN_TASK_QUEUE to different queues"
        )
    counts = Counts()
    sent: set[str] = set()
    with DeadLetters(queues, dead_letter_queue) as letters:
        for letter in letters:
            task_id = task_id_of(letter)
            if task_id is None:
                counts.without_task_id += 1
            elif task_id in sent:
                # A service that is quick may report it while this goes on; without an end that would go round.
                counts.failed_again += 1
            elif choice.leaves_invalid(letter):
                counts.invalid += 1
            elif not choice.fits(letter):
                counts.not_chosen += 1
            elif counts.redriven == choice.max_letters:
                counts.more = True
                break
            else:
                message_id = None
                if not dry_run:
                    message_id = queues.send(task_queue, letter.body)
                    sent.add(message_id)
                counts.redriven += 1
                counts.task_ids[task_id] += 1
                told(Redriven(letter, message_id))
                if not dry_run:
                    letters.delete(letter)
    return counts


def task_id_of(letter: Message) -> str | None:
    """The task that it is of; None of a message that SQS put there itself, and that was not reported yet."""
    return None if is_stray(letter) else letter.attributes["task_id"]


def code_of(letter: Message) -> str:
    """The error code with which the task failed."""
    return letter.attributes.get("code", "")


def video_of(letter: Message) -> str:
    """`s3://BUCKET/KEY` if the body names one, else its start. Nothing else in the body is looked at."""
    try:
        document = json.loads(letter.body)
        bucket, key = document["bucket"], document["object"]
        if isinstance(bucket, str) and isinstance(key, str):
            return f"s3://{bucket}/{key}"
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return letter.body[:SHOWN_CHARACTERS]


def _required(queue: str | None, name: str, variable: str) -> str:
    if not queue:
        raise UsageError(f"no {name} is set; set {variable} to its name or URL")
    return queue

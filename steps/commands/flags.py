"""Flags that commands share, and what they mean: the options of a task, and the task itself."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from steps.options import Options

if TYPE_CHECKING:
    from steps.settings import Settings
    from steps.task import Received, Task

# The flags of the options, where they are not the option's name.
_SPELLED = {"start_seconds": "--start", "end_seconds": "--end"}


def flag_of(name: str) -> str:
    """The flag of an option."""
    return _SPELLED.get(name, "--" + name.replace("_", "-"))


def option_flags(*left_out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A flag for every option of a task but those left out. Each hands on text, or None where it is not given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(Options.model_fields.items()):
            if name in left_out:
                continue
            flag = flag_of(name)
            if name == "force":
                decorator = click.option(flag, name, is_flag=True, flag_value="true", help=_sentence(field.description))
            else:
                decorator = click.option(flag, name, metavar=_metavar(name), help=_sentence(field.description))
            command = decorator(command)
        return command

    return decorate


def task_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags by which a step is told its task: a message, or bucket, object and options."""
    for decorator in reversed(
        (
            click.option("--body", metavar="BASE64", help="The message from the task queue, base64-encoded."),
            click.option("--message-id", metavar="ID", help="The message's id; of a run by hand, the workflow's uid."),
            click.option(
                "--record",
                type=click.IntRange(0),
                default=None,
                help="Which record of a notification with several, from 0.",
            ),
            click.option("--bucket", metavar="NAME", help="Bucket of the video, instead of --body."),
            click.option("--object", "object_", metavar="KEY", help="Key of the video, instead of --body."),
            click.option("--id", "sender_id", metavar="TEXT", help="The sender's own token, returned unchanged."),
            click.option(
                "--received-at", metavar="TIME", help="ISO 8601: when the message was received. Default: now."
            ),
            option_flags(),
        )
    ):
        command = decorator(command)
    return command


@dataclass(frozen=True)
class GivenTask:
    """What the flags say. `body` is a message that says the same, fit for the dead-letter queue."""

    body: bytes
    message_id: str
    record: int | None
    received_at: datetime

    def received(self, settings: Settings) -> Received:
        """The one task that the step is about, or why there is none.

        Raises:
            UsageError: the message holds several tasks, or none, and --record names no one of them.
        """
        from steps.errors import UsageError
        from steps.task import parse_message

        tasks = parse_message(self.body, self.message_id, settings)
        if self.record is None and len(tasks) == 1:
            return tasks[0]
        if self.record is None or self.record >= len(tasks):
            raise UsageError(f"the message holds {len(tasks)} tasks; name one of them with --record, from 0")
        return tasks[self.record]

    def task(self, settings: Settings) -> Task:
        """The one task that the step is about.

        Raises:
            InvalidTaskError, AccessDeniedError: the message holds none that may be done.
            UsageError: as `received`.
        """
        from steps.errors import InvalidTaskError

        received = self.received(settings)
        if received.task is None:
            raise received.error or InvalidTaskError("the message holds no task")
        return received.task


def given_task(
    *, body: str | None, message_id: str | None, record: int | None, bucket: str | None, object_: str | None,
    sender_id: str | None, received_at: str | None, **options: str | None,
) -> GivenTask:  # fmt: skip
    """The task of `task_flags`.

    Raises:
        UsageError: flags are missing, contradict one another, or cannot be read.
    """
    from steps.errors import UsageError
    from steps.options import parse_texts

    when = _time_of(received_at)
    if body:
        given = [name for name, value in (("--bucket", bucket), ("--object", object_), ("--id", sender_id)) if value]
        given += ["--" + name for name, value in options.items() if value]
        if given:
            raise UsageError(f"{given[0]} and --body exclude each other; the message says it all")
        try:
            decoded = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"--body is not base64 ({error}); encode the message with base64 -w0") from error
        return GivenTask(decoded, message_id or "by-hand", record, when)
    if not bucket or not object_:
        raise UsageError("name the task with --body, or the video with --bucket and --object")
    Options.from_text(options)
    fields: dict[str, Any] = {"bucket": bucket, "object": object_, **parse_texts(options, lambda name: f"--{name}")}
    if sender_id:
        fields["id"] = sender_id
    return GivenTask(json.dumps(fields).encode(), message_id or "by-hand", record, when)


def _time_of(text: str | None) -> datetime:
    from steps.errors import UsageError

    if not text:
        return datetime.now(UTC)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--received-at {text!r} is not a time such as 2026-01-31T12:00:00Z") from error
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _sentence(description: str | None) -> str:
    text = description or ""
    return text[:1].upper() + text[1:] + "."


def _metavar(name: str) -> str:
    return {"labels": "A,B", "outputs": "A,B", "model": "NAME", "chunk_seconds": "NUMBER|auto"}.get(name, "NUMBER")

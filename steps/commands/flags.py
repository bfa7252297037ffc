"""Flags that commands share, and what they mean: the options of a task, and the task itself."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from steps.options import Options, flag_of

if TYPE_CHECKING:
    from steps.reporting import Reporter
    from steps.settings import Settings
    from steps.task import Received, Task

_METAVARS = {
    "labels": "A,B",
    "outputs": "A,B",
    "model": "NAME",
    "chunk_seconds": "NUMBER|auto",
    "force": "true|false",
}


def option_flags(*left_out: str, text_force: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A flag for every option of a task but those left out. Each hands on text, or None where it is not given.

    With `text_force`, --force takes `true` or `false` after it: a workflow gives every flag a value, if an empty one.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(Options.model_fields.items()):
            if name in left_out:
                continue
            flag = flag_of(name)
            if name == "force" and not text_force:
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
            option_flags(text_force=True),
        )
    ):
        command = decorator(command)
    return command


class Numbered(NamedTuple):
    """A task of a message, and its number there."""

    number: int
    received: Received


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

    def all_received(self, settings: Settings) -> list[Numbered]:
        """The tasks of the message, or the one of them that --record names, each with its number.

        Raises:
            UsageError: the message holds no task of that number.
        """
        from steps.errors import UsageError
        from steps.task import parse_message

        tasks = [
            Numbered(number, task) for number, task in enumerate(parse_message(self.body, self.message_id, settings))
        ]
        if self.record is None:
            return tasks
        if self.record >= len(tasks):
            raise UsageError(f"--record {self.record}: the message holds {len(tasks)} tasks, counted from 0")
        return [tasks[self.record]]

    def task(self, settings: Settings) -> Task:
        """The one task that the step is about.

        Raises:
            InvalidTaskError, AccessDeniedError: the message holds none that may be done.
            UsageError: as `received`.
        """
        return self.received(settings).require()


def given_task(
    *, body: str | None, message_id: str | None, record: int | None, bucket: str | None, object_: str | None,
    sender_id: str | None, received_at: str | None, to_report: bool = False, **options: str | None,
) -> GivenTask:  # fmt: skip
    """The task of `task_flags`.

    Args:
        to_report: what is wrong with the task is not raised, but stays in the message, where who reads it finds and
            reports it.

    Raises:
        UsageError: flags are missing, contradict one another, or cannot be read.
    """
    from steps.errors import UsageError
    from steps.options import parse_texts

    when = time_of("--received-at", received_at, datetime.now(UTC))
    if body:
        given = [name for name, value in (("--bucket", bucket), ("--object", object_), ("--id", sender_id)) if value]
        given += [flag_of(name) for name, value in options.items() if value]
        if given:
            raise UsageError(f"{given[0]} and --body exclude each other; the message says it all")
        try:
            decoded = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"--body is not base64 ({error}); encode the message with base64 -w0") from error
        return GivenTask(decoded, message_id or "by-hand", record, when)
    texts = {name: text for name, text in options.items() if text}
    named = {"bucket": bucket, "object": object_, "id": sender_id}
    fields: dict[str, Any] = {name: text for name, text in named.items() if text}
    try:
        if not bucket or not object_:
            raise UsageError("name the task with --body, or the video with --bucket and --object")
        Options.from_text(texts)
        fields.update(parse_texts(texts, flag_of))
    except UsageError:
        if not to_report:
            raise
        fields.update(_readable_values(texts))
    return GivenTask(json.dumps(fields).encode(), message_id or "by-hand", record, when)


def _readable_values(texts: dict[str, str]) -> dict[str, Any]:
    """Each option as a message would hold it; what cannot be read stays text, which a message must not hold there."""
    from steps.errors import UsageError
    from steps.options import parse_texts

    values: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            values.update(parse_texts({name: text}, str))
        except UsageError:
            values[name] = text
    return values


lease_owner_option = click.option(
    "--lease-owner",
    metavar="NAME",
    help="Hold the lease on the run under this name, which all pods of a workflow share. Default: without a lease.",
)


def report_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say where a report comes from."""
    for decorator in reversed(
        (
            click.option(
                "--attempt",
                type=click.IntRange(1),
                help="Attempt of the task. Default: the one after the last that `reelscan finish` ended.",
            ),
            click.option("--workflow", metavar="NAME", help="Name of the workflow, for the completed message."),
        )
    ):
        command = decorator(command)
    return command


def open_reporter(
    settings: Settings, given: GivenTask, *, attempt: int | None, workflow: str | None, since: datetime | None = None
) -> Reporter:
    """The reporter of `report_flags`; `since` as in `steps.reporting.Origin`.

    Raises:
        UsageError: the deployment names no place for results, or no queue.
    """
    from steps.errors import UsageError
    from steps.queues import Queues
    from steps.reporting import Origin, Reporter
    from steps.store import open_store

    if settings.results is None:
        raise UsageError("no place for the ledger is set; set REELSCAN_RESULTS to s3://BUCKET/PREFIX")
    origin = Origin(given.received_at, workflow or None, attempt, since)
    return Reporter(open_store(settings.results, settings), Queues(settings), settings, origin)


def time_of(flag: str, text: str | None, otherwise: datetime) -> datetime:
    """The time that a flag gives. Raises UsageError."""
    from steps.errors import UsageError

    if not text:
        return otherwise
    try:
        if re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,9})?", text):
            return datetime.fromtimestamp(float(text), UTC)
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is not a time such as 2026-01-31T12:00:00Z") from error
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _sentence(description: str | None) -> str:
    text = description or ""
    return text[:1].upper() + text[1:] + "."


def _metavar(name: str) -> str:
    return _METAVARS.get(name, "NUMBER")

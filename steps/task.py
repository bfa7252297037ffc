"""Tasks: what a message on the task queue says, S3 event notifications included."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steps.bounds import allowed
from steps.errors import AccessDeniedError, InvalidTaskError
from steps.options import Options, describe
from steps.settings import Settings

MAX_BUCKET_BYTES = 255
MAX_KEY_BYTES = 1024
MAX_ID_BYTES = 256


class Task(BaseModel):
    """One video and what to do with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bucket: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.\-_:/]{1,254}$", json_schema_extra=allowed("the name of a bucket")
    )
    object: str = Field(min_length=1, json_schema_extra=allowed(f"a key of 1 to {MAX_KEY_BYTES} bytes"))
    id: str | None = None
    options: Options = Options()
    given_options: dict[str, Any] = {}
    """The options that the message itself named, as it named them."""

    def to_message(self) -> str:
        """The task as a message that can be sent (again)."""
        fields = {"bucket": self.bucket, "object": self.object, **self.given_options}
        if self.id is not None:
            fields["id"] = self.id
        return json.dumps(fields, ensure_ascii=False)

    @property
    def url(self) -> str:
        """`s3://BUCKET/KEY`, for people to read."""
        return f"s3://{self.bucket}/{self.object}"


@dataclass(frozen=True)
class Received:
    """One task of a message: either the task, or why there is none."""

    task_id: str
    body: str
    """A message with this task alone, fit for the dead-letter queue."""
    task: Task | None = None
    error: InvalidTaskError | AccessDeniedError | None = None
    id: str | None = None
    """The sender's own token, where it can be read even though the task is wrong."""
    place: tuple[str, str] | None = None
    """Bucket and object, likewise."""

    def require(self) -> Task:
        """The task. Raises InvalidTaskError or AccessDeniedError if there is none."""
        if self.task is None:
            raise self.error or InvalidTaskError("the message holds no task")
        return self.task


def parse_message(body: bytes, message_id: str, settings: Settings) -> list[Received]:
    """The tasks of a message: none for S3's test event, one, or one per record of an S3 event notification.

    `task_id` is the message id; with `-N` for record N, counted from 0, of several. What is wrong with a message or
    a record is in `Received.error`, so that one broken record does not take the others along.
    """
    text = body.decode("utf-8", errors="replace")
    try:
        document = _load(body, settings)
        if document.get("Event") == "s3:TestEvent":
            return []
        if "Records" not in document:
            return [_receive(message_id, text, document, settings)]
        records = document["Records"]
        if not isinstance(records, list) or not 1 <= len(records) <= settings.max_records:
            held = len(records) if isinstance(records, list) else type(records).__name__
            raise InvalidTaskError(
                f"Records: holds {held}, allowed is a list of 1 to {settings.max_records} (REELSCAN_MAX_RECORDS)"
            )
    except InvalidTaskError as error:
        return [Received(message_id, text, error=error)]
    received = []
    for number, record in enumerate(records):
        task_id = message_id if len(records) == 1 else f"{message_id}-{number}"
        try:
            fields = _fields_of_record(record, number)
        except InvalidTaskError as error:
            received.append(Received(task_id, json.dumps({"Records": [record]}), error=error))
        else:
            received.append(_receive(task_id, json.dumps(fields, ensure_ascii=False), fields, settings))
    return received


def make_task(fields: dict[str, Any], settings: Settings) -> Task:
    """The task of a message's fields.

    Raises:
        InvalidTaskError: a field is missing, unknown, or has a value that is not allowed.
        AccessDeniedError: the object is outside `allowed_sources`, or among the results.
    """
    given = {name: value for name, value in fields.items() if name not in ("bucket", "object", "id")}
    options = Options.from_message(given)
    try:
        task = Task(
            bucket=fields.get("bucket"), object=fields.get("object"), id=fields.get("id"),  # type: ignore[arg-type]
            options=options, given_options=given,
        )  # fmt: skip
    except ValidationError as error:
        raise InvalidTaskError(describe(error, Task)) from error
    for name, value, limit in (("object", task.object, MAX_KEY_BYTES), ("id", task.id or "", MAX_ID_BYTES)):
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise InvalidTaskError(f"{name}: holds a lone surrogate, which is not text") from error
        if size > limit:
            raise InvalidTaskError(f"{name}: {size} bytes, allowed are {limit}")
    check_source(task.bucket, task.object, settings)
    return task


def check_source(bucket: str, key: str, settings: Settings) -> None:
    """Refuse what lies outside `allowed_sources`, and the results themselves (a run must not trigger the next).

    Raises:
        AccessDeniedError: with the list that is allowed.
    """
    url = f"s3://{bucket}/{key}"
    if settings.results and (url + "/").startswith(settings.results.rstrip("/") + "/"):
        raise AccessDeniedError(f"{url[:200]!r} lies among the results ({settings.results}), which are no input")
    for pattern in settings.allowed_sources:
        if pattern.endswith("*"):
            allowed = url.startswith(pattern[:-1])
        else:
            allowed = url == pattern or url.startswith(pattern.rstrip("/") + "/")
        if allowed:
            return
    raise AccessDeniedError(
        f"{url[:200]!r} is outside the allowed sources {', '.join(settings.allowed_sources)}; "
        "REELSCAN_ALLOWED_SOURCES of the deployment lists them"
    )


def _receive(task_id: str, body: str, fields: dict[str, Any], settings: Settings) -> Received:
    sender_id = _readable(fields.get("id"), MAX_ID_BYTES)
    bucket, key = _readable(fields.get("bucket"), MAX_BUCKET_BYTES), _readable(fields.get("object"), MAX_KEY_BYTES)
    place = None if bucket is None or key is None else (bucket, key)
    try:
        return Received(task_id, body, task=make_task(fields, settings), id=sender_id, place=place)
    except (InvalidTaskError, AccessDeniedError) as error:
        return Received(task_id, body, error=error, id=sender_id, place=place)


def _readable(value: Any, limit_bytes: int) -> str | None:
    """The value if it is text within a limit."""
    try:
        return value if isinstance(value, str) and len(value.encode()) <= limit_bytes else None
    except UnicodeEncodeError:
        return None


def _load(body: bytes, settings: Settings) -> dict[str, Any]:
    if len(body) > settings.max_message_bytes:
        raise InvalidTaskError(f"the message holds {len(body)} bytes, allowed are {settings.max_message_bytes}")
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidTaskError(f"the message is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidTaskError(
            f'the message is not JSON ({reason[:100]}); expected {{"bucket": "...", "object": "..."}}'
        ) from error
    if not isinstance(document, dict):
        raise InvalidTaskError(
            f'the message is a JSON {type(document).__name__}; expected {{"bucket": "...", "object": "..."}}'
        )
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _fields_of_record(record: Any, number: int) -> dict[str, Any]:
    try:
        event = record["eventName"]
        bucket = record["s3"]["bucket"]["name"]
        key = record["s3"]["object"]["key"]
        if not all(isinstance(value, str) for value in (event, bucket, key)):
            raise TypeError
    except (KeyError, TypeError, IndexError) as error:
        raise InvalidTaskError(
            f"record {number} has no eventName, s3.bucket.name or s3.object.key; is it an S3 event notification?"
        ) from error
    if not event.removeprefix("s3:").startswith(("ObjectCreated:", "ObjectRestore:Completed")):
        raise InvalidTaskError(
            f"record {number}: event {event[:80]!r} brings no new object; subscribe to ObjectCreated"
        )
    # S3 writes keys into notifications as in a form: a space is "+", the rest is percent-encoded.
    try:
        return {"bucket": bucket, "object": urllib.parse.unquote_plus(key, errors="strict")}
    except UnicodeDecodeError as error:
        raise InvalidTaskError(f"record {number}: the key {key[:80]!r} is not UTF-8 when decoded") from error

"""Queues of Amazon SQS, through boto3.

A queue is given by name or URL. `AWS_ENDPOINT_URL` and the other usual AWS variables apply.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from steps.batches import batches
from steps.errors import AccessDeniedError, QueueError, ReelscanError, UsageError
from steps.settings import ENVIRONMENT_PREFIX, Settings

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import (
        MessageAttributeValueOutputTypeDef,
        MessageAttributeValueTypeDef,
        SendMessageBatchRequestEntryTypeDef,
        SendMessageRequestTypeDef,
    )

MAX_BODY_BYTES = 250_000
"""Of a message that is sent: a queue made before 2025 takes 256 KiB with its attributes."""
MAX_ATTRIBUTE_CHARACTERS = 1000
MAX_WAIT_SECONDS = 20
"""SQS' own limit on waiting for a message."""
MAX_VISIBILITY_SECONDS = 43200
"""SQS' own limit on hiding a received message, counted from when it was received."""
MAX_BATCH = 10
"""SQS' own limit on the messages of one request."""
_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.1
_LISTED_QUEUES = 10

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NO_QUEUE_CODES = ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress")
_DENIED_CODES = (
    "AccessDenied", "AccessDeniedException", "AuthFailure", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidClientTokenId", "MissingAuthenticationToken", "SignatureDoesNotMatch", "UnrecognizedClientException",
)  # fmt: skip
_LOST_RECEIPT_CODES = ("ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue")


def escape_for_sqs(text: str) -> str:
    r"""Write the characters that SQS refuses, those not allowed in XML, as JSON's `\uXXXX`.

    In JSON they can only stand inside strings, where this means the same.
    """
    return _NOT_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


@dataclass(frozen=True)
class Message:
    """A received message. It is hidden from others until its visibility ends."""

    id: str
    body: str
    receipt: str
    receive_count: int
    """How often it was received, this time included."""
    attributes: dict[str, str] = field(default_factory=dict)
    """The sender's own, of those that are text."""
    moved_by_sqs: bool = False
    """Whether SQS itself put it here, since nothing took it from the queue that it was sent to. (Not every stand-in
    for SQS tells.)"""


@dataclass(frozen=True)
class Counts:
    """Messages on a queue."""

    visible: int
    hidden: int
    """Received, and neither deleted nor given back."""
    delayed: int

    @property
    def all(self) -> int:
        """However they are."""
        return self.visible + self.hidden + self.delayed


class ReceiptLostError(Exception):
    """The message is no longer this receiver's: its visibility ended, or it was deleted."""


class Queues:
    """Sends to and receives from queues. One object may be used by several threads.

    Every method raises UsageError if the queue does not exist, AccessDeniedError if SQS refuses, QueueError if it
    cannot be reached, after `queue_timeout_seconds` at the latest.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[bool, SQSClient] = {}
        self._urls: dict[str, str] = {}
        self._lock = threading.Lock()

    def url(self, queue: str) -> str:
        """URL of a queue given by name; a URL is itself. Does not ask again for what it was told once."""
        if "://" in queue:
            return queue
        if queue not in self._urls:
            with self._reporting(queue):
                self._urls[queue] = self._client().get_queue_url(QueueName=queue)["QueueUrl"]
        return self._urls[queue]

    def check(self, queue: str) -> None:
        """See whether a queue is there. Of one given by URL that is taken for granted where SQS refuses to tell."""
        url = self.url(queue)
        with contextlib.suppress(AccessDeniedError), self._reporting(queue):
            self._client().get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])

    def send(
        self,
        queue: str,
        body: str,
        attributes: Mapping[str, str] | None = None,
        *,
        group: str = "reelscan",
        deduplication_id: str | None = None,
    ) -> str:
        """Send a message; gives its id.

        What SQS would refuse is mended: characters outside XML are escaped, an empty body becomes `{}`, one
        above `MAX_BODY_BYTES` is cut. `group` and `deduplication_id` are for FIFO queues, which drop a message with
        an id of the last five minutes; without one no message is dropped.
        """
        url = self.url(queue)
        request: SendMessageRequestTypeDef = {"QueueUrl": url, "MessageBody": _fit_body(body)}
        values = {name: _fit_attribute(value) for name, value in (attributes or {}).items()}
        if values:
            request["MessageAttributes"] = {name: _attribute(value) for name, value in values.items()}
        if url.endswith(".fifo"):
            request["MessageGroupId"] = group
            request["MessageDeduplicationId"] = deduplication_id or uuid.uuid4().hex
        with self._reporting(queue):
            return self._client().send_message(**request)["MessageId"]

    def send_batch(self, queue: str, bodies: Sequence[str]) -> list[str]:
        """Send messages, as many in a request as SQS takes; gives their ids in the order of the bodies.

        Each is mended as by `send`. Those of a request that SQS did not take are sent again while
        `queue_timeout_seconds` last. On an error those before may have been sent.
        """
        url = self.url(queue)
        entries: list[SendMessageBatchRequestEntryTypeDef] = []
        for number, body in enumerate(bodies):
            entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(number), "MessageBody": _fit_body(body)}
            if url.endswith(".fifo"):
                entry["MessageGroupId"] = "reelscan"
                entry["MessageDeduplicationId"] = uuid.uuid4().hex
            entries.append(entry)
        ids: dict[str, str] = {}
        for batch in batches(entries, _body_bytes, most=MAX_BATCH, most_bytes=MAX_BODY_BYTES):
            ids.update(self._send_entries(queue, url, batch))
        return [ids[entry["Id"]] for entry in entries]

    def _send_entries(self, queue: str, url: str, entries: list[SendMessageBatchRequestEntryTypeDef]) -> dict[str, str]:
        """Send the messages of one request; gives their ids by those of the entries."""
        deadline = time.monotonic() + self._settings.queue_timeout_seconds
        pause_seconds = _FIRST_PAUSE_SECONDS
        ids: dict[str, str] = {}
        while True:
            left = [entry for entry in entries if entry["Id"] not in ids]
            with self._reporting(queue):
                answer = self._client().send_message_batch(QueueUrl=url, Entries=left)
            ids.update({sent["Id"]: sent["MessageId"] for sent in answer.get("Successful", [])})
            failed = answer.get("Failed", [])
            if not failed:
                return ids
            # A sender's fault stays one; any other may pass, such as SQS being overloaded.
            lasting = [one for one in failed if one["SenderFault"]]
            if lasting or time.monotonic() + pause_seconds > deadline:
                failure = (lasting or failed)[0]
                raise self._meaning(queue, failure["Code"], f"{failure['Code']}: {failure.get('Message', '')}")
            time.sleep(pause_seconds)
            pause_seconds *= 2

    def receive(
        self, queue: str, *, wait_seconds: float, visibility_seconds: float, max_messages: int = 1
    ) -> list[Message]:
        """Receive up to `max_messages` (at most 10), waiting for the first one (at most 20 s).

        Each is hidden from others for `visibility_seconds`.
        """
        wait = max(0, min(round(wait_seconds), MAX_WAIT_SECONDS))
        with self._reporting(queue):
            answer = self._client(waits=wait > 0).receive_message(
                QueueUrl=self.url(queue),
                WaitTimeSeconds=wait,
                VisibilityTimeout=_whole_seconds(visibility_seconds),
                MaxNumberOfMessages=max_messages,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        return [
            Message(
                id=found["MessageId"],
                body=found["Body"],
                receipt=found["ReceiptHandle"],
                receive_count=int(found["Attributes"]["ApproximateReceiveCount"]),
                attributes=_texts(found.get("MessageAttributes", {})),
                moved_by_sqs="DeadLetterQueueSourceArn" in found["Attributes"],
            )
            for found in answer.get("Messages", [])
        ]

    def delete(self, queue: str, receipt: str) -> None:
        """Delete a received message. Raises ReceiptLostError."""
        with self._reporting(queue, about_receipt=True):
            self._client().delete_message(QueueUrl=self.url(queue), ReceiptHandle=receipt)

    def set_visibility(self, queue: str, receipt: str, seconds: float) -> None:
        """Hide a received message for so long from now on; 0 gives it back. Raises ReceiptLostError."""
        with self._reporting(queue, about_receipt=True):
            self._client().change_message_visibility(
                QueueUrl=self.url(queue), ReceiptHandle=receipt, VisibilityTimeout=_whole_seconds(seconds)
            )

    def count(self, queue: str) -> Counts:
        """How many messages SQS knows of, approximately."""
        names: list[QueueAttributeNameType] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]
        with self._reporting(queue):
            answer = self._client().get_queue_attributes(QueueUrl=self.url(queue), AttributeNames=names)
        return Counts(*(int(answer["Attributes"][name]) for name in names))

    def is_empty(self, queue: str) -> bool:
        """Whether SQS knows of no message. It counts approximately."""
        return self.count(queue).all == 0

    def _client(self, *, waits: bool = False) -> SQSClient:
        """A client; one that `waits` gives SQS time to wait for a message besides."""
        with self._lock:
            if waits not in self._clients:
                self._clients[waits] = self._make_client(MAX_WAIT_SECONDS if waits else 0)
            return self._clients[waits]

    def _make_client(self, wait_seconds: float) -> SQSClient:
        import boto3
        from botocore.config import Config

        request_seconds = self._settings.queue_timeout_seconds / _ATTEMPTS
        connect_seconds = min(10.0, request_seconds / 2)
        session = boto3.Session()
        return session.client(
            "sqs",
            region_name=os.environ.get("AWS_REGION") or session.region_name or "us-east-1",
            config=Config(
                connect_timeout=connect_seconds,
                read_timeout=request_seconds - connect_seconds + wait_seconds,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            ),
        )

    @contextlib.contextmanager
    def _reporting(self, queue: str, *, about_receipt: bool = False) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if about_receipt and code.removeprefix("AWS.SimpleQueueService.") in _LOST_RECEIPT_CODES:
                raise ReceiptLostError(str(error)) from error
            raise self._meaning(queue, code, error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise AccessDeniedError(f"queue {queue}: {error}; set AWS_ACCESS_KEY_ID or AWS_PROFILE") from error
        except BotoCoreError as error:
            raise QueueError(f"queue {queue}: SQS cannot be reached: {_line(error)}") from error

    def _meaning(self, queue: str, code: str, error: Exception | str) -> ReelscanError:
        if code in _NO_QUEUE_CODES:
            return UsageError(
                f"queue {queue[:200]!r} does not exist{self._others()}; create it or set {self._variable(queue)}"
            )
        if code.removeprefix("AWS.SimpleQueueService.") in _DENIED_CODES:
            return AccessDeniedError(
                f"queue {queue[:200]!r}: access is denied ({code}); check the credentials and the queue's policy"
            )
        return QueueError(f"queue {queue[:200]!r}: SQS failed: {_line(error)}")

    def _others(self) -> str:
        """Which queues there are, as part of a sentence; nothing if that cannot be found out."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            urls = self._client().list_queues(MaxResults=_LISTED_QUEUES).get("QueueUrls", [])
        except (BotoCoreError, ClientError):
            return ""
        names = ", ".join(sorted(url.rpartition("/")[2] for url in urls))
        return f" (there are: {names})" if names else " (there is none)"

    def _variable(self, queue: str) -> str:
        for name in ("task_queue", "completed_queue", "dead_letter_queue"):
            if getattr(self._settings, name) == queue:
                return ENVIRONMENT_PREFIX + name.upper()
        return "another name"


def _fit_body(body: str) -> str:
    encoded = escape_for_sqs(body or "{}").encode()
    return encoded[:MAX_BODY_BYTES].decode(errors="ignore")


def _fit_attribute(value: str) -> str:
    return escape_for_sqs(value)[:MAX_ATTRIBUTE_CHARACTERS] or "-"


def _attribute(value: str) -> MessageAttributeValueTypeDef:
    return {"DataType": "String", "StringValue": value}


def _body_bytes(entry: SendMessageBatchRequestEntryTypeDef) -> int:
    return len(entry["MessageBody"].encode())


def _texts(attributes: Mapping[str, MessageAttributeValueOutputTypeDef]) -> dict[str, str]:
    # A type may have a label of the sender's: `String.json`.
    return {
        name: value.get("StringValue", "")
        for name, value in attributes.items()
        if value["DataType"].partition(".")[0] == "String"
    }


def _whole_seconds(seconds: float) -> int:
    return max(0, min(math.ceil(seconds), MAX_VISIBILITY_SECONDS))


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:300]

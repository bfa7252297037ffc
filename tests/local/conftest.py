"""A deployment for each test: bucket, queues, results, and the environment that names them."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from local.service import Service
from local.view import JobView
from steps.completed import Completed
from steps.job import GivenServer, ModelServer
from steps.ledger import Ledger
from steps.settings import Settings
from steps.store import open_store
from tests.coded import CODED_PROFILE, coded_server
from tests.conftest import Aws
from tests.media.fixtures import bad_inputs, clips, media_folder

__all__ = ["CODED_PROFILE", "bad_inputs", "clips", "coded_server", "media_folder"]

VISIBILITY_SECONDS = 3.0


@dataclass(frozen=True)
class Deployment:
    """Queues and places of one test."""

    aws: Aws
    settings: Settings

    def upload(self, path: Path, key: str = "video.mp4") -> str:
        self.aws.s3.upload_file(str(path), self.aws.bucket, key)
        return key

    def send(self, body: str) -> str:
        """Put a message on the task queue; gives its id."""
        url = self.queue_url(self.settings.task_queue)
        return self.aws.sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"]

    def send_task(self, key: str, **fields: Any) -> str:
        return self.send(json.dumps({"bucket": self.aws.bucket, "object": key, "outputs": ["frames"], **fields}))

    def queue_url(self, queue: str | None) -> str:
        assert queue is not None
        return self.aws.sqs.get_queue_url(QueueName=queue)["QueueUrl"]

    def completed(self) -> list[Completed]:
        """The messages of the completed queue, which is empty then."""
        assert self.settings.completed_queue is not None
        messages = self.aws.messages(self.settings.completed_queue)
        return [Completed.from_bytes(message["Body"].encode()) for message in messages]

    def dead_letters(self) -> list[dict[str, Any]]:
        assert self.settings.dead_letter_queue is not None
        return self.aws.messages(self.settings.dead_letter_queue)

    def waiting(self) -> tuple[int, int]:
        """How many messages of the task queue are visible and how many hidden."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        answer = self.aws.sqs.get_queue_attributes(
            QueueUrl=self.queue_url(self.settings.task_queue), AttributeNames=list(names)
        )
        visible, hidden = (int(answer["Attributes"][name]) for name in names)
        return visible, hidden

    def ledger(self) -> Ledger:
        return Ledger(open_store(self.settings.results or "", self.settings).below("ledger"))


@pytest.fixture
def deployment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment with the model that reads numbers, in the environment too."""
    variables = {
        "TASK_QUEUE": aws.make_queue(),
        "COMPLETED_QUEUE": aws.make_queue(),
        "DEAD_LETTER_QUEUE": aws.make_queue(),
        "RESULTS": f"s3://{aws.bucket}/results-{uuid.uuid4().hex[:8]}",
        "MODEL_NAME": "coded",
        "MODEL_PROFILE": str(CODED_PROFILE),
        "RESEND_AFTER_SECONDS": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"REELSCAN_{name}", value)
    return Deployment(aws, Settings.from_environment())


class Desk:
    """A service in this process, and what it says."""

    def __init__(self, settings: Settings, server: ModelServer) -> None:
        self._text = io.StringIO()
        self.view = JobView(Console(file=self._text, width=200))
        self.service = Service(settings, server, self.view, visibility_seconds=VISIBILITY_SECONDS)

    @property
    def said(self) -> str:
        return self._text.getvalue()

    def serve(self) -> None:
        """Until the task queue is empty."""
        self.service.serve(once=True)


@pytest.fixture
def desk(deployment: Deployment, coded_server: Any) -> Desk:
    return Desk(deployment.settings, GivenServer(coded_server.address, deployment.settings))

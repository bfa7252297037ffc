"""What all tests share: a clean environment, and S3 and SQS over HTTP."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from local.aws import embedded_aws, endpoint_url
from tests.faults import FaultProxy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

# A shell without job control starts background programs with SIGINT ignored, and they hand that on to their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees AWS or a deployment of whoever runs it."""
    for name in os.environ:
        if name.startswith(("AWS_", "REELSCAN_")):
            monkeypatch.delenv(name)
    for name, value in _AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Aws:
    """S3 and SQS for one test, with names that no other test has."""

    port: int
    s3: S3Client
    sqs: SQSClient
    bucket: str

    def make_queue(self, *, fifo: bool = False, **attributes: str) -> str:
        """A new queue's name."""
        name = f"queue-{uuid.uuid4().hex}" + (".fifo" if fifo else "")
        if fifo:
            attributes["FifoQueue"] = "true"
        self.sqs.create_queue(QueueName=name, Attributes=attributes)  # type: ignore[arg-type]
        return name

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """All messages of a queue, which is empty then."""
        url = self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        found: list[dict[str, Any]] = []
        while batch := self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
        ).get("Messages"):
            for message in batch:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                found.append(dict(message))
        return found


@pytest.fixture(scope="session")
def aws_port() -> Iterator[int]:
    with embedded_aws() as port:
        yield port


@pytest.fixture(scope="session")
def aws_clients(aws_port: int) -> tuple[S3Client, SQSClient]:
    session = boto3.Session("tests", "tests", region_name="us-east-1")
    endpoint = endpoint_url(aws_port)
    return session.client("s3", endpoint_url=endpoint), session.client("sqs", endpoint_url=endpoint)


@pytest.fixture
def aws(aws_port: int, aws_clients: tuple[S3Client, SQSClient], monkeypatch: pytest.MonkeyPatch) -> Aws:
    """S3 and SQS, to which the environment leads, and an empty bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url(aws_port))
    s3, sqs = aws_clients
    bucket = f"bucket-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    return Aws(aws_port, s3, sqs, bucket)


@pytest.fixture
def faults(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before `aws`, to which the environment leads; `aws`' own clients go past it."""
    with FaultProxy(aws.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy

"""The embedded S3 and SQS."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError

from local.aws import (
    COMPLETED_QUEUE,
    DEAD_LETTER_QUEUE,
    MAX_RECEIVES,
    RESULTS_BUCKET,
    TASK_DATA_BUCKET,
    TASK_QUEUE,
    create_resources,
    embedded_aws,
    embedded_environment,
    endpoint_url,
    with_atomic_conditions,
)
from steps.errors import UsageError
from steps.settings import Settings
from tests.conftest import Aws

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_a_deployment_has_its_buckets_and_queues_and_a_second_creation_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with embedded_aws() as port:
        create_resources(port)
        create_resources(port)
        for name, value in embedded_environment(port).items():
            monkeypatch.setenv(name, value)
        buckets = [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]]
        assert sorted(buckets) == sorted([TASK_DATA_BUCKET, RESULTS_BUCKET])
        sqs = boto3.client("sqs")
        queues = [url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]]
        assert sorted(queues) == sorted([TASK_QUEUE, COMPLETED_QUEUE, DEAD_LETTER_QUEUE])
        url = sqs.get_queue_url(QueueName=TASK_QUEUE)["QueueUrl"]
        policy = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]["RedrivePolicy"]
        assert DEAD_LETTER_QUEUE in policy
        assert str(MAX_RECEIVES) in policy


def test_it_is_gone_when_the_block_ends() -> None:
    with embedded_aws() as port:
        client: S3Client = boto3.client("s3", endpoint_url=endpoint_url(port))
        client.list_buckets()
    with pytest.raises(EndpointConnectionError):
        client.list_buckets()


@pytest.mark.parametrize("key", ["two\nlines\r\n.mp4", "\n", "a/b\n/c", "\x1b[31m\x00"])
def test_a_key_may_hold_any_character(key: str, aws: Aws) -> None:
    aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=b"x")
    assert aws.s3.get_object(Bucket=aws.bucket, Key=key)["Body"].read() == b"x"


def test_a_port_that_is_taken_is_told_with_what_to_do(aws_port: int) -> None:
    with pytest.raises(UsageError, match=f"port {aws_port} of 127.0.0.1 is taken.*--port"), embedded_aws(aws_port):
        pass


class MeetingApplication:
    """Answers whether two requests were in it at once; one alone waits for the other until the time is up."""

    def __init__(self, timeout_seconds: float) -> None:
        self._barrier = threading.Barrier(2, timeout=timeout_seconds)

    def __call__(self, environment: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            return [b"alone"]
        return [b"together"]


def answers_to_two(request: dict[str, str], timeout_seconds: float) -> list[list[bytes]]:
    application = with_atomic_conditions(MeetingApplication(timeout_seconds))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(application, request, None) for _ in range(2)]
        return [list(call.result()) for call in calls]


@pytest.mark.parametrize("condition", ["HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_conditional_writes_are_carried_out_one_after_the_other(method: str, condition: str) -> None:
    assert answers_to_two({"REQUEST_METHOD": method, condition: "*"}, 0.2) == [[b"alone"], [b"alone"]]


@pytest.mark.parametrize("request_", [{"REQUEST_METHOD": "GET", "HTTP_IF_MATCH": "e"}, {"REQUEST_METHOD": "PUT"}])
def test_other_requests_are_carried_out_at_once(request_: dict[str, str]) -> None:
    assert answers_to_two(request_, 60) == [[b"together"], [b"together"]]


def test_no_setting_leads_past_the_embedded_services() -> None:
    mine = {
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "token",
        "AWS_ENDPOINT_URL_S3": "https://s3.example.com",
        "AWS_ENDPOINT_URL_SQS": "https://sqs.example.com",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "HTTP_PROXY": "http://proxy.example.com",
        "NO_PROXY": "internal",
        "PATH": "/bin",
    }
    environment = embedded_environment(4711, mine)
    aws_variables = {name for name in environment if name.startswith("AWS_")}
    assert not aws_variables & (set(mine) - {"AWS_ENDPOINT_URL"})
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4711"
    assert environment["AWS_CONFIG_FILE"] == os.devnull
    assert environment["NO_PROXY"] == "internal,127.0.0.1"
    assert environment["PATH"] == "/bin"


def test_places_that_the_user_named_are_kept() -> None:
    environment = embedded_environment(1, {"REELSCAN_RESULTS": "/home/me/results", "REELSCAN_FPS": "2"})
    settings = Settings.from_environment(environment)
    assert settings.results == "/home/me/results"
    assert settings.task_queue == TASK_QUEUE
    assert environment["REELSCAN_FPS"] == "2"

"""The embedded S3 and SQS."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

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
)
from steps.errors import UsageError
from steps.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from tests.conftest import Aws

WRITERS = 8


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


def test_a_port_that_is_taken_is_told_with_what_to_do(aws_port: int) -> None:
    with pytest.raises(UsageError, match=f"port {aws_port} of 127.0.0.1 is taken.*--port"), embedded_aws(aws_port):
        pass


def test_of_many_who_create_an_object_at_once_one_wins(aws: Aws) -> None:
    def create(number: int) -> bool:
        try:
            aws.s3.put_object(Bucket=aws.bucket, Key="one", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        won = [number for number, created in enumerate(pool.map(create, range(WRITERS))) if created]
    assert len(won) == 1
    assert aws.s3.get_object(Bucket=aws.bucket, Key="one")["Body"].read() == str(won[0]).encode()


def test_of_many_who_replace_a_version_at_once_one_wins(aws: Aws) -> None:
    etag = aws.s3.put_object(Bucket=aws.bucket, Key="one", Body=b"first")["ETag"]

    def replace(number: int) -> bool:
        try:
            aws.s3.put_object(Bucket=aws.bucket, Key="one", Body=str(number).encode(), IfMatch=etag)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        assert sum(pool.map(replace, range(WRITERS))) == 1


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

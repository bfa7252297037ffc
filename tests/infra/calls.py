"""The calls that code makes to S3 and SQS, as IAM names them, and whether a policy allows them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.faults import FaultProxy
from tests.infra.template import ACCOUNT, REGION

NOT_FOUND = 404


class Call(NamedTuple):
    """What a principal must be allowed to do."""

    action: str
    resource: str


class Grant(NamedTuple):
    """A part of a policy: one action on one pattern of resources."""

    action: str
    resource: str
    condition: str = ""

    def allows(self, call: Call) -> bool:
        return fnmatchcase(call.action, self.action) and fnmatchcase(call.resource, self.resource)


def grants(document: Mapping[str, Any]) -> list[Grant]:
    """A policy in its smallest parts."""
    return [
        Grant(action, resource, json.dumps(statement.get("Condition", ""), sort_keys=True).strip('"'))
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]


class Recorder:
    """A proxy before the embedded S3 and SQS that notes what is asked of them."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.calls: set[Call] = set()
        self.url = proxy.url

    @contextmanager
    def only(self) -> Iterator[set[Call]]:
        """The calls that are made in the block."""
        before, self.calls = self.calls, set()
        made = self.calls
        try:
            yield made
        finally:
            self.calls = before | made


@contextmanager
def recording(port: int) -> Iterator[Recorder]:
    """Note what passes to S3 and SQS at `port`."""
    proxy = FaultProxy(port)
    recorder = Recorder(proxy)
    passing_on: type[BaseHTTPRequestHandler] = proxy._server.RequestHandlerClass  # type: ignore[assignment]

    class Noting(passing_on):  # type: ignore[misc,valid-type]
        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            answer = super().forward(body)
            target = self.headers.get("X-Amz-Target", "")
            made = _sqs_calls(target, body) if target else _s3_calls(self.command, self.path, body, answer[0])
            recorder.calls.update(made)
            return answer

    proxy._server.RequestHandlerClass = Noting
    with proxy:
        yield recorder


def _sqs_calls(target: str, body: bytes) -> Iterator[Call]:
    request = json.loads(body)
    queue = request.get("QueueName") or str(request.get("QueueUrl", "")).rpartition("/")[2]
    operation = target.partition(".")[2].removesuffix("Batch")
    yield Call(f"sqs:{operation}", f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")


def _s3_calls(method: str, target: str, body: bytes, status: int) -> Iterator[Call]:
    """The rights that S3 asks for: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html."""
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
    of_bucket, of_object = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{key}"
    match method, bool(key):
        case "GET" | "HEAD", True:
            yield Call("s3:GetObject", of_object)
            if status == NOT_FOUND:
                # Without this right S3 would say that access is denied.
                yield Call("s3:ListBucket", of_bucket)
        case "GET", False:
            yield Call("s3:ListBucket", of_bucket)
        case "PUT" | "POST", True:
            # The parts of an upload, its beginning and its end too.
            yield Call("s3:PutObject", of_object)
        case "DELETE", True:
            yield Call("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", of_object)
        case "POST", False if "delete" in query:
            for name in re.findall("<Key>(.*?)</Key>", body.decode()):
                yield Call("s3:DeleteObject", f"{of_bucket}/{html.unescape(name)}")
        case _:
            # No policy allows this.
            yield Call(f"not known: {method} {url.query}", of_object)


def generalised(calls: Iterable[Call]) -> set[Call]:
    """Calls for people to read: runs and tasks go by no name."""
    return {Call(action, re.sub(r"[0-9a-f]{32}", "RUN", resource)) for action, resource in calls}


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value

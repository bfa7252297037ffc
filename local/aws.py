"""S3 and SQS on this machine: moto over HTTP, in a process of its own that holds everything in memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from steps.errors import UsageError
from steps.processes import spawn, stop, wait_for_line

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
TASK_DATA_BUCKET = "task-data-bucket"
RESULTS_BUCKET = "results-bucket"
TASK_QUEUE = "task-queue"
COMPLETED_QUEUE = "completed-queue"
DEAD_LETTER_QUEUE = "dead-letter-queue"

MAX_RECEIVES = 1000
"""After so many receives without a delete a message of the task queue goes to the dead-letter queue."""

READY_SECONDS = 60.0
_TAKEN = "taken"
_KEY = "embedded"  # moto takes any


def embedded_environment(port: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment in which S3 and SQS are the embedded ones at `port`, and by no setting any others.

    `REELSCAN_*` places that `base` names are kept: results may well go to a folder.
    """
    base = os.environ if base is None else base
    kept = {name: value for name, value in base.items() if not name.startswith("AWS_")}
    endpoint = endpoint_url(port)
    not_proxied = ",".join(filter(None, (base.get("NO_PROXY") or base.get("no_proxy"), "127.0.0.1")))
    return {
        **kept,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": not_proxied,
        "no_proxy": not_proxied,
        "REELSCAN_TASK_QUEUE": TASK_QUEUE,
        "REELSCAN_COMPLETED_QUEUE": base.get("REELSCAN_COMPLETED_QUEUE") or COMPLETED_QUEUE,
        "REELSCAN_DEAD_LETTER_QUEUE": base.get("REELSCAN_DEAD_LETTER_QUEUE") or DEAD_LETTER_QUEUE,
        "REELSCAN_RESULTS": base.get("REELSCAN_RESULTS") or f"s3://{RESULTS_BUCKET}/reelscan",
    }


def use_embedded_aws(port: int) -> None:
    """Make the embedded S3 and SQS those of this process and its children."""
    environment = embedded_environment(port)
    os.environ.clear()
    os.environ.update(environment)


def endpoint_url(port: int) -> str:
    """Where the embedded S3 and SQS answer."""
    return f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def embedded_aws(port: int = 0) -> Iterator[int]:
    """S3 and SQS in a process of their own while the block runs; gives their port (a free one for 0).

    Raises:
        UsageError: another program has the port.
        OutsideError: it did not start.
    """
    process = spawn([sys.executable, "-P", "-m", "local.aws", str(port)], stdout=subprocess.PIPE)
    try:
        line = wait_for_line(process, "", READY_SECONDS, "the embedded S3 and SQS")
        if line == _TAKEN:
            raise UsageError(
                f"port {port} of 127.0.0.1 is taken, perhaps by another `reelscan up`; "
                "stop that one, or choose a --port"
            )
        yield int(line)
    finally:
        stop([process])


def create_resources(port: int) -> None:
    """Create a deployment's buckets and queues at the embedded S3 and SQS; those that exist stay."""
    import boto3

    session = boto3.Session(_KEY, _KEY, region_name=REGION)
    s3: S3Client = session.client("s3", endpoint_url=endpoint_url(port))
    for bucket in (TASK_DATA_BUCKET, RESULTS_BUCKET):
        s3.create_bucket(Bucket=bucket)
    sqs: SQSClient = session.client("sqs", endpoint_url=endpoint_url(port))
    dead_letters = sqs.create_queue(QueueName=DEAD_LETTER_QUEUE)["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]
    redrive = {"deadLetterTargetArn": attributes["QueueArn"], "maxReceiveCount": MAX_RECEIVES}
    sqs.create_queue(QueueName=COMPLETED_QUEUE)
    sqs.create_queue(QueueName=TASK_QUEUE, Attributes={"RedrivePolicy": json.dumps(redrive)})


Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def with_atomic_conditions(application: Application) -> Application:
    """Conditional writes as in S3: compared and written at once, where moto does one after the other."""
    lock = threading.Lock()

    def locked(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        conditional = "HTTP_IF_MATCH" in environment or "HTTP_IF_NONE_MATCH" in environment
        if environment["REQUEST_METHOD"] not in ("PUT", "POST") or not conditional:
            return application(environment, start_response)
        with lock:
            return application(environment, start_response)

    return locked


def serve(port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM. Prints the port when it answers, or `taken` and returns."""
    # Without it moto's S3 asks botocore for credentials of its own and logs that there are none.
    os.environ.update({"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _KEY})
    from moto.moto_server import werkzeug_app
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class AnyKey(werkzeug_app.RegexConverter):  # type: ignore[misc]
        """Takes keys with newlines, as S3 does; the patterns of moto's paths do not."""

        def __init__(self, url_map: Any, *items: Any) -> None:
            super().__init__(url_map, *items)
            self.regex: str = f"(?s:{items[0]})"

    werkzeug_app.RegexConverter = AnyKey

    class QuietHandler(MotoRequestHandler):  # type: ignore[misc]
        def log(self, type: str, message: str, *args: Any) -> None:
            if type == "error":
                super().log(type, message, *args)

    application = with_atomic_conditions(DomainDispatcherApplication(create_backend_app))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.socket() as listener:
        # Sockets of an earlier service, closed a moment ago, do not hold the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            click.echo(_TAKEN)
            return
        listener.listen(128)
        server = make_server(
            "127.0.0.1", port, application, threaded=True, request_handler=QuietHandler, fd=listener.fileno()
        )
        click.echo(listener.getsockname()[1])
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))

"""Bytes that a whole run reads from S3, counted between the steps and S3."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from bench.cases import NULL, Setup
from bench.children import model_server, run_step, step_environment
from bench.clips import hd_clip
from local.aws import (
    REGION,
    RESULTS_BUCKET,
    TASK_DATA_BUCKET,
    create_resources,
    embedded_aws,
    embedded_environment,
    endpoint_url,
)

GOAL_FACTOR = 2.2
GOAL_BYTES_A_CHUNK = 1 << 20

_CHUNK_SECONDS = "4"
"""The clip's group of pictures, as short as a chunk can be: what reading one costs besides weighs most."""
_RECEIVE_BYTES = 1 << 18


@dataclass(frozen=True)
class Reading:
    """What one run read. All that came from S3 counts: headers, and the run's own files, too."""

    clip: str
    object_bytes: int
    chunks: int
    plan_bytes: int
    detect_bytes: int
    aggregate_bytes: int

    @property
    def total_bytes(self) -> int:
        """Of the whole run."""
        return self.plan_bytes + self.detect_bytes + self.aggregate_bytes

    @property
    def allowed_bytes(self) -> int:
        """The goal."""
        return int(GOAL_FACTOR * self.object_bytes) + self.chunks * GOAL_BYTES_A_CHUNK

    def document(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            **vars(self),
            "total_bytes": self.total_bytes,
            "bytes_per_object_byte": round(self.total_bytes / self.object_bytes, 4),
            "goal": self.allowed_bytes,
            "reached": self.total_bytes <= self.allowed_bytes,
        }


def measure_readings(setup: Setup) -> list[Reading]:
    """Do the whole job for a container with an index, and for one without, in which chunks are reached by splicing."""
    readings = []
    with embedded_aws() as port, counting_relay(port) as relay, model_server(NULL.path) as server:
        create_resources(port)
        s3 = boto3.client(
            "s3", endpoint_url=endpoint_url(port), region_name=REGION,
            aws_access_key_id="bench", aws_secret_access_key="bench",
        )  # fmt: skip
        environment = embedded_environment(
            relay.port,
            step_environment(server, NULL.write_profile(setup.folder), results=f"s3://{RESULTS_BUCKET}/bench"),
        )
        for ending in ("mp4", "ts"):
            clip = hd_clip(setup.folder, setup.effort.memory_frames, ending)
            setup.tell(f"bytes read: {clip.name}")
            s3.upload_file(str(clip), TASK_DATA_BUCKET, clip.name)
            readings.append(_measure(clip, environment, relay))
    return readings


def _measure(clip: Path, environment: dict[str, str], relay: CountingRelay) -> Reading:
    video = ("--bucket", TASK_DATA_BUCKET, "--object", clip.name, "--chunk-seconds", _CHUNK_SECONDS)
    before = relay.received_bytes
    (planned,) = json.loads(run_step(environment, "plan", *video))
    plan_bytes, before = relay.received_bytes - before, relay.received_bytes
    for chunk in planned["chunks"]:
        run_step(environment, "detect", "--run", planned["results"], "--chunk", str(chunk["index"]))
    detect_bytes, before = relay.received_bytes - before, relay.received_bytes
    run_step(environment, "aggregate", "--run", planned["results"], *video, "--no-report")
    return Reading(
        clip.name, clip.stat().st_size, len(planned["chunks"]), plan_bytes, detect_bytes, relay.received_bytes - before
    )


class CountingRelay(socketserver.ThreadingTCPServer):
    """Passes bytes on between its clients and a port of this machine, and counts those that the clients receive."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relayed)
        self.target_port = target_port
        self.port: int = self.server_address[1]
        self.received_bytes = 0
        self._lock = threading.Lock()

    def count(self, received: int) -> None:
        """Clients have received so many bytes more."""
        with self._lock:
            self.received_bytes += received


class _Relayed(socketserver.BaseRequestHandler):
    server: CountingRelay
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target_port)) as target:
            sending = threading.Thread(target=self._pass_on, args=(self.request, target, lambda _: None), daemon=True)
            sending.start()
            self._pass_on(target, self.request, self.server.count)
            sending.join()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
        with contextlib.suppress(OSError):  # either side may end the connection when it likes
            while data := source.recv(_RECEIVE_BYTES):
                target.sendall(data)
                count(len(data))
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def counting_relay(target_port: int) -> Iterator[CountingRelay]:
    """A relay to the port while the block runs."""
    with CountingRelay(target_port) as relay:
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()

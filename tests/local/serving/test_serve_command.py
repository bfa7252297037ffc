"""`reelscan serve` as a process."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from local.serving.backends import default_model
from tests.conformance.target import connected

DEADLINE_SECONDS = 120
COMMAND = [sys.executable, "-m", "steps.cli", "serve"]
FREE_PORTS = ["--port=0", "--rest-port=0"]


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its ready line."""
    with subprocess.Popen(
        [*COMMAND, *FREE_PORTS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_the_sample_model_is_served_by_default() -> None:
    with started("--threads=1") as (process, ready):
        pattern = r"serving ssd version 1 \(LiteRT, (.*)\) on grpc (127\.0\.0\.1:\d+), rest (127\.0\.0\.1:\d+)\n"
        name, address, _ = re.fullmatch(pattern, ready).groups()
        assert name == default_model().name
        with connected(address, "ssd") as target:
            answer = target.predict(target.request(target.inputs(frames=2)))
            assert set(answer.outputs) == set(target.signature().outputs)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_sigterm_is_a_clean_stop_and_ctrl_c_an_interrupt(number: int, status: int) -> None:
    with started("--model=null", "--model-name=nothing", "--model-version=5") as (process, ready):
        assert ready.startswith("serving nothing version 5 (null) on grpc ")
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == status
        assert "Traceback" not in process.stderr.read()


def test_a_request_in_flight_is_answered_before_the_process_ends() -> None:
    with started("--model=hog", "--threads=1") as (process, ready):
        with connected(ready.split(" on grpc ")[1].split(",")[0], "ssd") as target:
            frames = np.zeros((2, 540, 960, 3), np.uint8)
            call = target.prediction.Predict.future(target.request({"input_tensor": frames}), timeout=DEADLINE_SECONDS)
            target.status(target.spec())  # answered after the first was taken
            process.send_signal(signal.SIGTERM)
            assert call.result(DEADLINE_SECONDS).outputs["num_detections"].tensor_shape.dim[0].size == 2
        assert process.wait(DEADLINE_SECONDS) == 0


def refused(*arguments: str) -> tuple[int, str]:
    """Exit status and standard error."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert not done.stdout
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["none.tflite", "text.txt", "folder"])
def test_what_is_no_model_is_wrong_usage(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no model")
    (tmp_path / "folder").mkdir()
    status, message = refused("--model", str(tmp_path / name), *FREE_PORTS)
    assert (status, message.count("\n")) == (2, 1)
    assert str(tmp_path / name) in message


def test_an_unreadable_model_is_status_3(tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"x" * 1000)
    status, message = refused("--model", str(tmp_path / "broken.tflite"), *FREE_PORTS)
    assert (status, message.count("\n")) == (3, 1)
    assert "broken.tflite is no model that LiteRT can load" in message


def test_a_port_in_use_is_status_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ports in (["--port", str(port), "--rest-port=0"], ["--port=0", "--rest-port", str(port)]):
            status, message = refused("--model=null", *ports)
            assert (status, message.count("\n")) == (2, 1)
            assert f"cannot listen at 127.0.0.1:{port} (Address already in use): choose another port" in message


def test_a_port_taken_at_the_last_moment_is_status_2_and_grpc_logs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # The look at the port beforehand finds it free.
        script = (
            "import socket, sys; from steps.cli import main\n"
            "create = socket.create_server; socket.create_server = lambda address: create((address[0], 0))\n"
            f"sys.argv = ['reelscan', 'serve', '--model=null', '--port={taken.getsockname()[1]}', '--rest-port=0']\n"
            "main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "gRPC cannot listen at 127.0.0.1" in done.stderr


def test_nothing_but_the_ready_line_is_said_of_the_sample_model() -> None:
    with started("--threads=2") as (process, ready):
        assert ready.startswith("serving ssd")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr.read() == ""


def test_a_model_without_a_profile_is_told_with_what_is_assumed(tmp_path: Path) -> None:
    path = tmp_path / "bare.tflite"
    shutil.copy(default_model(), path)
    with started("--model", str(path), "--threads=1") as (process, ready):
        assert ready.startswith("serving ssd")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
        (line,) = process.stderr.read().splitlines()
    assert f"no model profile (reelscan.json) beside {path}" in line
    assert "--model-profile" in line

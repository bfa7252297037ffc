"""The entry point of the serving image, with a stand-in for TensorFlow Serving that behaves as badly as it may."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.waiting import DEADLINE_SECONDS, wait_until

SERVE = Path(__file__).parents[2] / "images" / "serving" / "serve"
STAND_IN = Path(__file__).with_name("stand_in_server.sh")


class Entry:
    """The entry point as a process, with its stand-in server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = folder / "programs"
        programs.mkdir()
        shutil.copy(STAND_IN, programs / "tensorflow_model_server")
        self._environment = {"PATH": f"{programs}:{os.environ['PATH']}", "STAND_IN": str(folder)}
        self._process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, **environment: str) -> None:
        """Starts it; returns once the server runs."""
        self._process = subprocess.Popen(
            [str(SERVE), *arguments],
            env={**self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def start_and_wait(self, *arguments: str, **environment: str) -> None:
        """Starts it; returns once the server runs."""
        self.start(*arguments, **environment)
        wait_until((self.folder / "started").exists, "the server starts")

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    @property
    def server_pid(self) -> int:
        return int((self.folder / "started").read_text())

    def server_is_gone(self) -> bool:
        """Whether the server's process has ended."""
        try:
            os.kill(self.server_pid, 0)
        except ProcessLookupError:
            return True
        return False

    def arguments(self) -> list[str]:
        """What the server was started with."""
        return (self.folder / "arguments").read_text().splitlines()

    def wait(self) -> int:
        """The exit status. Its output must end too: whatever still held it would hold a container's log open."""
        self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode

    def end(self) -> None:
        """Ends what a failed test left."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


@pytest.fixture
def entry(tmp_path: Path) -> Iterator[Entry]:
    entry = Entry(tmp_path)
    yield entry
    entry.end()


def test_the_server_gets_its_usual_ports_the_sample_models_name_and_warm_up(entry: Entry) -> None:
    entry.start_and_wait()
    assert entry.arguments() == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=ssd",
        "--model_base_path=/models/ssd",
        "--enable_model_warmup=true",
        "--enable_grpc_healthcheck_service=true",
    ]


def test_variables_set_the_servers_flags(entry: Entry) -> None:
    entry.start_and_wait(
        MODEL_NAME="yolo",
        MODEL_BASE_PATH="/data/my models",
        SERVING_PORT="9000",
        SERVING_REST_PORT="0",
        SERVING_THREADS="2",
        SERVING_BATCHING_FILE="/etc/batching parameters.txt",
    )
    assert entry.arguments() == [
        "--port=9000",
        "--rest_api_port=0",
        "--model_name=yolo",
        "--model_base_path=/data/my models/yolo",
        "--enable_model_warmup=true",
        "--enable_grpc_healthcheck_service=true",
        "--tensorflow_session_parallelism=2",
        "--enable_batching=true",
        "--batching_parameters_file=/etc/batching parameters.txt",
    ]


def test_arguments_are_passed_on_as_they_are_after_the_others(entry: Entry) -> None:
    entry.start_and_wait("--num_load_threads=2", "--saved_model_tags=serve, gpu *")
    assert entry.arguments()[-2:] == ["--num_load_threads=2", "--saved_model_tags=serve, gpu *"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_server_and_entry_with_status_0(entry: Entry, number: signal.Signals) -> None:
    entry.start_and_wait()
    entry.process.send_signal(number)
    assert entry.wait() == 0
    assert entry.server_is_gone()


def test_a_server_that_ignores_sigterm_is_killed_after_the_time_it_has(entry: Entry) -> None:
    entry.start_and_wait(STAND_IN_MANNER="ignore", SERVING_STOP_SECONDS="0.3")
    entry.process.send_signal(signal.SIGTERM)
    assert entry.wait() == 0
    assert entry.server_is_gone()


def test_a_server_that_stops_in_its_own_way_may_finish_and_its_status_does_not_matter(entry: Entry) -> None:
    entry.start_and_wait(STAND_IN_MANNER="finish")
    entry.process.send_signal(signal.SIGTERM)
    wait_until((entry.folder / "finishing").exists, "the server is told to stop")
    (entry.folder / "finish").touch()
    assert entry.wait() == 0
    assert (entry.folder / "finished").exists()


def test_a_second_signal_does_not_cut_the_servers_time_short(entry: Entry) -> None:
    entry.start_and_wait(STAND_IN_MANNER="finish")
    entry.process.send_signal(signal.SIGTERM)
    wait_until((entry.folder / "finishing").exists, "the server is told to stop")
    entry.process.send_signal(signal.SIGTERM)
    entry.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        entry.process.wait(0.5)
    (entry.folder / "finish").touch()
    assert entry.wait() == 0
    assert (entry.folder / "finished").exists()


def test_a_signal_to_the_whole_process_group_stops_it_with_status_0(entry: Entry) -> None:
    entry.start_and_wait()
    os.killpg(entry.process.pid, signal.SIGTERM)
    assert entry.wait() == 0
    assert entry.server_is_gone()


def test_a_server_that_was_terminated_itself_counts_as_stopped(entry: Entry) -> None:
    entry.start_and_wait()
    os.kill(entry.server_pid, signal.SIGTERM)
    assert entry.wait() == 0


@pytest.mark.parametrize(("manner", "status"), [("fail", 3), ("die", 128 + signal.SIGKILL)])
def test_a_server_that_ends_by_itself_gives_its_own_status(entry: Entry, manner: str, status: int) -> None:
    entry.start(STAND_IN_MANNER=manner)
    assert entry.wait() == status


def test_without_a_server_it_fails(entry: Entry) -> None:
    (entry.folder / "programs" / "tensorflow_model_server").unlink()
    entry.start()
    assert entry.wait() == 127

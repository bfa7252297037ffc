"""The processes that are measured: on a core of their own, told what to do line by line, ended with the bench."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from steps.errors import OutsideError
from steps.processes import SERVING_MALLOC, last_line, reelscan_command, spawn, stop, wait_for_line

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 300.0
"""After which any one measurement is given up."""

_SERVER_SECONDS = 60.0
_ADDRESS = re.compile(r" on grpc (\S+?),")


class ChildError(Exception):
    """A measured process did not do what it was started for."""


@dataclass(frozen=True)
class Cores:
    """A core for the model server and another for its client."""

    server: int
    client: int


def two_cores() -> Cores | None:
    """Two cores of this process; None where there is one, or where processes cannot be pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    available = sorted(os.sched_getaffinity(0))
    return Cores(available[0], available[1]) if len(available) > 1 else None


@contextlib.contextmanager
def children_on(core: int | None) -> Iterator[None]:
    """Children started in the block run on this core alone; None leaves them where they are."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Server:
    """A running model server."""

    address: str
    pid: int


@contextlib.contextmanager
def model_server(model: str, core: int | None = None) -> Iterator[Server]:
    """`reelscan serve` with one thread while the block runs."""
    command = reelscan_command("serve", "--port", "0", "--rest-port", "0", "--threads", "1", "--model-name", "bench")
    with tempfile.NamedTemporaryFile(prefix="reelscan-bench-", suffix=".log") as messages:
        with children_on(core):
            process = spawn([*command, "--model", model], stdout=subprocess.PIPE, stderr=messages.file)
        try:
            line = wait_for_line(process, "serving ", _SERVER_SECONDS, "the model server")
            yield Server(cast("re.Match[str]", _ADDRESS.search(line))[1], process.pid)
        except OutsideError as error:
            raise ChildError(f"{error}: {last_line(Path(messages.name))}") from error
        finally:
            stop([process])


def step_environment(server: Server | None, profile: Path | None, **settings: object) -> dict[str, str]:
    """The environment of a step: that of this process, the allocator's settings, and `REELSCAN_*` for `settings`."""
    if server is not None:
        settings = {"serving": server.address, "model_name": "bench", **settings}
    if profile is not None:
        settings["model_profile"] = profile
    variables = {f"REELSCAN_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, **SERVING_MALLOC, **variables}


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    output: str
    errors: str
    cpu_seconds: float
    """User and system time of all its threads, from its start to its end."""


def run_command(command: list[str], environment: Mapping[str, str]) -> Ran:
    """Run a command to its end. No other child may end meanwhile: its time would be counted too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env=dict(environment), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(done.returncode, done.stdout, done.stderr, seconds)


def run_step(environment: Mapping[str, str], *arguments: str | Path) -> str:
    """What `reelscan ARGUMENTS` prints.

    Raises:
        ChildError: it failed.
    """
    ran = run_command(reelscan_command(*map(str, arguments)), environment)
    if ran.status:
        raise ChildError(f"reelscan {arguments[0]} ended with status {ran.status}: {ran.errors.strip()}")
    return ran.output


class Stage:
    """A process of `bench.stages` on a core of its own, which measures its stage as often as it is asked to.

    A context manager.
    """

    def __init__(self, name: str, run: Path, environment: Mapping[str, str], core: int | None = None) -> None:
        """Args: `name` is one of `bench.stages.STAGES`, `run` the folder of a plan."""
        with children_on(core):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.stages", name, str(run)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment), cwd=ROOT,
            )  # fmt: skip
        self._name = name
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self.pid = self._process.pid

    def measure(self) -> dict[str, Any]:
        """One measurement: `bench.stages` says of what.

        Raises:
            ChildError: the process failed, or took longer than `LIMIT_SECONDS`.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `_read` finds too
            self._stdin.write(b"measure\n")
            self._stdin.flush()
        measured: dict[str, Any] = json.loads(self._read())
        return measured

    def _read(self) -> bytes:
        limit = threading.Timer(LIMIT_SECONDS, self._process.kill)
        limit.start()
        line = self._stdout.readline()
        limit.cancel()
        if not line:
            raise ChildError(f"stage {self._name} ended before it had measured; its message stands above")
        return line

    def __enter__(self) -> Self:
        """Waits until it could begin to measure."""
        try:
            self._read()
        except BaseException:
            stop([self._process])
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            stop([self._process])


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process. Linux only: proc(5), /proc/PID/stat, fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class OtherLoad:
    """How much of the machine others took since this was made. Linux only: proc(5), /proc/stat."""

    def __init__(self, *pids: int) -> None:
        """Args: `pids` are running children; they, this process and its ended children are not counted as others."""
        self._pids = pids
        self._began = time.monotonic()
        self._before = self._others()

    def share(self) -> float:
        """Of all cores, 0 to 1."""
        seconds = time.monotonic() - self._began
        return max(0.0, (self._others() - self._before) / seconds / (os.cpu_count() or 1))

    def _others(self) -> float:
        return _busy_seconds() - sum(os.times()[:4]) - sum(cpu_seconds(pid) for pid in self._pids)


def _busy_seconds() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

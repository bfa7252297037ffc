"""Child processes that never outlive their parent, and never make it wait for ever."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from steps.errors import OutsideError, TimeLimitError
from steps.settings import ENVIRONMENT_PREFIX, Settings

STOP_SECONDS = 10.0
"""How long a process may take to end after SIGTERM, before it is killed."""

SERVING_MALLOC = {
    # A request of 8 pictures of 640x640 is built ten times faster when its memory is not given back.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}
"""Environment of glibc's allocator for both ends of TensorFlow Serving's gRPC."""

# Asks Linux to send SIGTERM when the parent dies, however it dies, and becomes the program. It is a program of its
# own, as code between fork and exec (`preexec_fn`) is not safe in a process with threads.
_GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
os.execv(sys.argv[2], sys.argv[2:])
"""


def reelscan_command(*arguments: str) -> list[str]:
    """The command line of `reelscan ARGUMENTS` in this Python."""
    # -P: a folder named `steps` in the current directory must not stand in for the installed one.
    return [sys.executable, "-P", "-m", "steps", *arguments]


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, so that Ctrl-C reaches its parent alone, which stops it.

    On Linux it is also told to stop when the thread that called `spawn` ends.

    Args:
        command: absolute path of the program, and its arguments.
        environment: of the child; by default that of this process.
        stdout: where it goes; by default nowhere.
        stderr: where it goes; by default to this process's.
    """
    guarded = list(command)
    if sys.platform == "linux":
        guarded = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]
    return subprocess.Popen(
        guarded,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=stderr,
        env=None if environment is None else dict(environment),
        process_group=0,
    )


def stop(processes: Iterable[subprocess.Popen[bytes]], grace_seconds: float = STOP_SECONDS) -> None:
    """End processes: SIGTERM to all, and SIGKILL to the groups of those still there after `grace_seconds`."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    try:
        for process in running:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for_line(process: subprocess.Popen[bytes], prefix: str, timeout_seconds: float, name: str) -> str:
    """The first line on a process's stdout (a pipe) that starts with `prefix`. What comes later is dropped.

    Args:
        process: started with `stdout=subprocess.PIPE`.
        prefix: of the line waited for.
        timeout_seconds: limit of the wait.
        name: of the process, for messages.

    Raises:
        OutsideError: the process ended without such a line.
        TimeLimitError: it is still silent after `timeout_seconds`.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process.stdout, prefix, lines), daemon=True).start()
    try:
        line = lines.get(timeout=timeout_seconds)
    except queue.Empty:
        raise TimeLimitError(f"{name} was not ready within {timeout_seconds:g} seconds") from None
    if line is None:
        status = process.wait(STOP_SECONDS)
        raise OutsideError(f"{name} ended with status {status} before it was ready; its message stands above")
    return line


def _read_lines(stream: IO[bytes] | None, prefix: str, lines: queue.Queue[str | None]) -> None:
    if stream is None:
        raise ValueError("the process was started without a pipe for its stdout")
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip("\n")
            if text.startswith(prefix):
                lines.put(text)
        lines.put(None)


def read_progress(path: Path) -> tuple[int, int] | None:
    """How much of how much is done, as a step's `--progress-file` tells; None before it does."""
    try:
        done, _, total = path.read_text().partition("/")
        return int(done), int(total)
    except (FileNotFoundError, ValueError):
        return None


def settings_variables(settings: Settings) -> dict[str, str]:
    """The settings as the `REELSCAN_*` variables that a child reads them from."""
    return {
        ENVIRONMENT_PREFIX + name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump(exclude_none=True).items()
    }


def last_line(path: Path) -> str:
    """The last line that is not empty of what a process wrote into a file; "" if there is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")

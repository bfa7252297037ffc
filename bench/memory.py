"""Peak memory of `reelscan detect` on a 1080p clip and on one ten times as long."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import NULL, Setup, plan_run
from bench.children import LIMIT_SECONDS, ROOT, ChildError, Server, model_server, step_environment
from bench.clips import HD_FPS, hd_clip
from steps.processes import reelscan_command, stop

TIMES = 10
GOAL = 1.05
_FPS = 10.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Memory:
    """Peak resident memory in bytes."""

    video_seconds: float
    short_bytes: int
    long_bytes: int
    """Of the clip that is `TIMES` as long."""

    @property
    def ratio(self) -> float:
        """Long over short."""
        return self.long_bytes / self.short_bytes

    def document(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            **vars(self), "times": TIMES, "ratio": round(self.ratio, 4), "goal": GOAL, "reached": self.ratio <= GOAL,
        }  # fmt: skip


def measure_memory(setup: Setup) -> Memory:
    """Analyse ten frames a second of both clips."""
    setup.tell("peak memory")
    peaks, frames = [], setup.effort.memory_frames
    with model_server(NULL.path) as server:
        for count in (frames, frames * TIMES):
            peaks.append(_peak_bytes(setup.folder, hd_clip(setup.folder, count), server))
    return Memory(frames / HD_FPS, *peaks)


def _peak_bytes(folder: Path, clip: Path, server: Server) -> int:
    profile = NULL.write_profile(folder)
    run = plan_run(folder / "memory", clip, profile, fps=_FPS)
    process = subprocess.Popen(
        reelscan_command("detect", "--run", str(run), "--chunk", "0"),
        stdout=subprocess.DEVNULL, env=step_environment(server, profile), cwd=ROOT,
    )  # fmt: skip
    peak, deadline = 0, time.monotonic() + LIMIT_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            # The last value counts: before `exec` it is this process's own.
            peak = _high_water_bytes(process.pid) or peak
            time.sleep(_POLL_SECONDS)
    finally:
        stop([process])
    if process.returncode != 0:
        raise ChildError(f"reelscan detect ended with status {process.returncode}; its message stands above")
    return peak


def _high_water_bytes(pid: int) -> int:
    """Peak resident memory so far; 0 where the process has just ended. proc(5), /proc/PID/status, VmHWM in kB."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0

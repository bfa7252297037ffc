"""Frames per second of detecting, against the slower of its two halves alone, and where the time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.cases import Case, Setup, plan_run
from bench.children import Cores, OtherLoad, Server, Stage, cpu_seconds, model_server, step_environment

GOAL = 0.90


@dataclass(frozen=True)
class Repetition:
    """One round of the three measurements, taken one right after the other."""

    detect_fps: float
    decode_and_scale_fps: float
    server_fps: float
    """Of the server alone, fed with ready pictures."""

    @property
    def ratio(self) -> float:
        """Detecting over the slower of its halves."""
        return self.detect_fps / min(self.decode_and_scale_fps, self.server_fps)


@dataclass(frozen=True)
class CpuPerFrame:
    """CPU milliseconds of the client for one frame, and how busy both cores are while detecting."""

    decode: float
    scale: float
    """With copying into the batch."""
    request: float
    """Serialising, sending and receiving."""
    write: float
    """Detections from the answers, and the shard."""
    rest: float
    """What detecting takes beyond these."""
    detect: float
    client_busy: float
    """Share of the client's core, 0 to 1."""
    server_busy: float


@dataclass(frozen=True)
class Throughput:
    """The figures of one case."""

    clip: str
    model: str
    frames: int
    repetitions: list[Repetition]
    cpu_ms: CpuPerFrame
    other_load: float
    """Share of the machine that other programs took meanwhile, 0 to 1."""

    @property
    def ratios(self) -> list[float]:
        """Of the repetitions, ascending."""
        return sorted(repetition.ratio for repetition in self.repetitions)

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def limit(self) -> str:
        """The slower half."""
        decode = statistics.median(one.decode_and_scale_fps for one in self.repetitions)
        server = statistics.median(one.server_fps for one in self.repetitions)
        return "decode and scale" if decode < server else "server"

    def document(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "clip": self.clip,
            "model": self.model,
            "frames": self.frames,
            "ratio": round(self.ratio, 4),
            "ratio_lowest": round(self.ratios[0], 4),
            "ratio_highest": round(self.ratios[-1], 4),
            "goal": GOAL,
            "reached": self.ratio >= GOAL,
            "limit": self.limit,
            "repetitions": [
                {**{name: round(value, 2) for name, value in vars(one).items()}, "ratio": round(one.ratio, 4)}
                for one in self.repetitions
            ],
            "cpu_ms_per_frame": {name: round(value, 4) for name, value in vars(self.cpu_ms).items()},
            "other_load": round(self.other_load, 3),
        }


def measure_cases(setup: Setup, cores: Cores) -> list[Throughput]:
    """Measure every case."""
    measured = []
    for case in setup.cases:
        setup.tell(f"frames per second: {case.clip}, {case.model.name}")
        with model_server(case.model.path, cores.server) as server:
            measured.append(_measure_case(setup, case, server, cores))
    return measured


def _measure_case(setup: Setup, case: Case, server: Server, cores: Cores) -> Throughput:
    """Measure decoding and scaling, detecting, and the server, in turns."""
    folder, frames = setup.folder, max(1, round(setup.effort.run_seconds * case.expected_fps))
    clip = case.make_clip(folder, frames)
    profile = case.model.write_profile(folder)
    run = plan_run(folder / "run", clip, profile, frames)
    environment = step_environment(server, profile, decode_threads=1)
    rounds = []
    with (
        Stage("decode_and_scale", run, environment, cores.client) as decode,
        Stage("feed", run, environment, cores.client) as feed,
    ):
        load = OtherLoad(server.pid, decode.pid, feed.pid)
        for _ in range(setup.effort.repetitions):
            decoded = decode.measure()
            # A new process each time, as each chunk has one.
            with Stage("detect", run, environment, cores.client) as detect:
                server_cpu, began = cpu_seconds(server.pid), time.monotonic()
                detected = detect.measure()
                server_busy = (cpu_seconds(server.pid) - server_cpu) / (time.monotonic() - began)
            rounds.append((detected, decoded, feed.measure(), server_busy))
        other_load = load.share()
    for measured in rounds:
        for one in measured[:3]:
            if one["frames"] != frames:
                raise AssertionError(f"{one['frames']} frames were measured, not {frames}")
    return Throughput(
        case.clip, case.model.name, frames,
        [Repetition(_fps(detected), _fps(decoded), _fps(fed)) for detected, decoded, fed, _ in rounds],
        _cpu_per_frame(rounds, frames), other_load,
    )  # fmt: skip


def _fps(measured: dict[str, Any]) -> float:
    return float(measured["frames"] / measured["seconds"])


def _cpu_per_frame(
    rounds: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], float]], frames: int
) -> CpuPerFrame:
    def median_ms(seconds: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], float]) -> float:
        return statistics.median(seconds(*measured[:3]) for measured in rounds) / frames * 1e3

    scale = median_ms(lambda _detected, decoded, _fed: decoded["scale_cpu_seconds"])
    decode = median_ms(lambda _detected, decoded, _fed: decoded["cpu_seconds"] - decoded["scale_cpu_seconds"])
    request = median_ms(lambda _detected, _decoded, fed: fed["cpu_seconds"])
    write = median_ms(lambda _detected, _decoded, fed: fed["write_cpu_seconds"])
    detect = median_ms(lambda detected, _decoded, _fed: detected["cpu_seconds"])
    return CpuPerFrame(
        decode, scale, request, write, detect - decode - scale - request - write, detect,
        client_busy=statistics.median(detected["cpu_seconds"] / detected["seconds"] for detected, *_ in rounds),
        server_busy=statistics.median(busy for *_, busy in rounds),
    )  # fmt: skip

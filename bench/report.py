"""The figures as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
from rich.console import Console
from rich.table import Table

from bench.agreement import Agreement
from bench.memory import TIMES, Memory
from bench.reading import Reading
from bench.start import Start
from bench.throughput import GOAL, Throughput

_PACKAGES = ("reelscan", "av", "numpy", "grpcio", "protobuf", "obstore", "ai-edge-litert", "moto")


def _system_facts() -> dict[str, Any]:
    """The machine and the versions that the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "ffmpeg": av.ffmpeg_version_info,
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass
class Report:
    """What was measured; None or nothing where it was not asked for, or cannot be measured here."""

    effort: str
    """`full` or `quick`."""
    system: dict[str, Any] = field(default_factory=_system_facts)
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    agreements: list[Agreement] = field(default_factory=list)
    throughputs: list[Throughput] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    memory: Memory | None = None
    starts: list[Start] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    """Why, by name."""

    @property
    def differences(self) -> list[str]:
        """What differs between outputs that should be equal."""
        return [
            f"{agreement.clip}, {agreement.model}: {difference}"
            for agreement in self.agreements
            for difference in agreement.differences
        ]

    def document(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "date": self.date,
            "effort": self.effort,
            "system": self.system,
            "outputs_agree": not self.differences,
            "agreement": [vars(agreement) for agreement in self.agreements],
            "throughput": [throughput.document() for throughput in self.throughputs],
            "bytes_read": [reading.document() for reading in self.readings],
            "memory": None if self.memory is None else self.memory.document(),
            "start": [start.document() for start in self.starts],
            "not_measured": self.not_measured,
        }

    def write(self, path: Path) -> None:
        """Write the JSON, replacing an earlier one."""
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(self.document(), indent=1) + "\n")
        temporary.replace(path)

    def show(self, console: Console) -> None:
        """Print the tables."""
        facts = self.system
        console.print(f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, FFmpeg {facts['ffmpeg']}")
        tables = (self._throughput_table, self._cpu_table, self._reading_table, self._memory_table, self._start_table)
        for table in (make() for make in tables):
            if table.row_count:
                console.print(table)
        if self.throughputs:
            busiest = max(one.other_load for one in self.throughputs)
            console.print(
                f"other programs took up to {busiest:.0%} of the machine while frames per second were measured"
            )
        for name, reason in self.not_measured.items():
            console.print(f"{name}: not measured, {reason}")

    def _throughput_table(self) -> Table:
        table = _table(
            "Frames per second, server and client on a core each",
            "clip", "model", "detect", "decode + scale", "server alone", "ratio", "range", "goal", "reached",
        )  # fmt: skip
        for one in self.throughputs:
            rates = [
                statistics.median(getattr(repetition, name) for repetition in one.repetitions)
                for name in ("detect_fps", "decode_and_scale_fps", "server_fps")
            ]
            table.add_row(
                one.clip, one.model, *(f"{rate:.0f}" for rate in rates), f"{one.ratio:.2f}",
                f"{one.ratios[0]:.2f} to {one.ratios[-1]:.2f}", f">= {GOAL:.2f}", _reached(one.document()),
            )  # fmt: skip
        return table

    def _cpu_table(self) -> Table:
        table = _table(
            "CPU milliseconds of the client a frame, and how busy each core is while detecting",
            "clip", "model", "decode", "scale", "request", "write", "rest", "detect", "client busy", "server busy",
        )  # fmt: skip
        for one in self.throughputs:
            ms = one.cpu_ms
            table.add_row(
                one.clip, one.model,
                *(f"{value:.2f}" for value in (ms.decode, ms.scale, ms.request, ms.write, ms.rest, ms.detect)),
                f"{ms.client_busy:.0%}", f"{ms.server_busy:.0%}",
            )  # fmt: skip
        return table

    def _reading_table(self) -> Table:
        table = _table(
            "Bytes read from S3 for a whole run, by byte of the object",
            "clip", "object", "chunks", "plan", "detect", "aggregate", "all", "goal", "reached",
        )  # fmt: skip
        for one in self.readings:
            parts = (one.plan_bytes, one.detect_bytes, one.aggregate_bytes, one.total_bytes, one.allowed_bytes)
            plan, detect, aggregate, total, allowed = (f"{part / one.object_bytes:.2f}" for part in parts)
            table.add_row(
                one.clip, f"{one.object_bytes / 1e6:.1f} MB", str(one.chunks), plan, detect, aggregate, total,
                f"<= {allowed}", _reached(one.document()),
            )  # fmt: skip
        return table

    def _memory_table(self) -> Table:
        table = _table(
            "Peak memory of detect, 1080p", "length", "peak", f"peak at {TIMES} times that", "ratio", "goal", "reached"
        )
        if self.memory is not None:
            document = self.memory.document()
            table.add_row(
                f"{self.memory.video_seconds:.0f} s", f"{self.memory.short_bytes / 1e6:.0f} MB",
                f"{self.memory.long_bytes / 1e6:.0f} MB", f"{self.memory.ratio:.3f}", f"<= {document['goal']:.2f}",
                _reached(document),
            )  # fmt: skip
        return table

    def _start_table(self) -> Table:
        table = _table("CPU seconds of a command's start", "command", "median", "range", "goal", "reached")
        for one in self.starts:
            document = one.document()
            table.add_row(
                one.command, f"{one.median_seconds:.2f}", f"{min(one.cpu_seconds):.2f} to {max(one.cpu_seconds):.2f}",
                f"< {document['goal']:.2f}", _reached(document),
            )  # fmt: skip
        return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _reached(document: dict[str, Any]) -> str:
    return "[green]yes[/green]" if document["reached"] else "[red]no[/red]"

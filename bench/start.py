"""CPU seconds of a step before it does anything: real commands whose first request finds nothing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from bench.cases import Setup
from bench.children import ChildError, run_command, step_environment
from local.aws import RESULTS_BUCKET, TASK_DATA_BUCKET, create_resources, embedded_aws, embedded_environment
from steps.errors import BadInputError
from steps.processes import reelscan_command

GOAL_SECONDS = 0.5

_VIDEO = ("--bucket", TASK_DATA_BUCKET, "--object", "absent.mp4")
_RUN = ("--run", f"s3://{RESULTS_BUCKET}/absent")
_COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {
    "--help": (("--help",), 0),
    "plan": (("plan", *_VIDEO, "--results", f"s3://{RESULTS_BUCKET}"), BadInputError.exit_status),
    "detect": (("detect", *_RUN, "--chunk", "0"), BadInputError.exit_status),
    "aggregate": (("aggregate", *_RUN, *_VIDEO), BadInputError.exit_status),
    "finish": (("finish", *_VIDEO), 0),
}
"""Arguments, and the status of a step that came to its first request. `finish` misses nothing, and does its work."""


@dataclass(frozen=True)
class Start:
    """The start of one command."""

    command: str
    cpu_seconds: list[float]
    """User and system time of the whole process, each time it was started."""

    @property
    def median_seconds(self) -> float:
        """The median."""
        return statistics.median(self.cpu_seconds)

    def document(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "command": self.command,
            "cpu_seconds": round(self.median_seconds, 3),
            "each": [round(seconds, 3) for seconds in self.cpu_seconds],
            "goal": GOAL_SECONDS,
            "reached": self.median_seconds < GOAL_SECONDS,
        }


def measure_starts(setup: Setup) -> list[Start]:
    """Start every step against S3 and SQS over HTTP."""
    setup.tell("start")
    with embedded_aws() as port:
        create_resources(port)
        environment = embedded_environment(port, step_environment(None, None))
        measured: dict[str, list[float]] = {name: [] for name in _COMMANDS}
        for number in range(setup.effort.starts + 1):
            for name, (arguments, status) in _COMMANDS.items():
                ran = run_command(reelscan_command(*arguments), environment)
                if ran.status != status:
                    raise ChildError(f"reelscan {name} ended with status {ran.status}: {ran.errors.strip()}")
                if number:  # the first time Python may have to compile
                    measured[name].append(ran.cpu_seconds)
    return [Start(f"reelscan {name}", seconds) for name, seconds in measured.items()]

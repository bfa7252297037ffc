"""`python -m bench`."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import click
from rich.console import Console

from bench.agreement import check_cases
from bench.cases import FULL, QUICK, Setup
from bench.children import ChildError, two_cores
from bench.memory import measure_memory
from bench.reading import measure_readings
from bench.report import Report
from bench.start import measure_starts
from bench.throughput import measure_cases
from steps.errors import ReelscanError

NAMES = ("throughput", "bytes", "memory", "start")

_DIFFERENCES_SHOWN = 20
_ONE_CORE = "processes cannot be pinned here to two cores, one for the server and one for its client"
_NO_PROC = "peak memory is read from Linux's /proc"
_WIDTH = 110
"""Of the tables where they do not go to a terminal."""


@click.command()
@click.option("--quick", is_flag=True, help="Less of everything, in about a minute: to see that it works.")
@click.option("--only", type=click.Choice(NAMES), help="Measure this alone.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/bench"),
    show_default=True,
    help="Folder of bench.json, and of clips that are kept for the next time.",
)
def bench(*, quick: bool, only: str | None, out: Path) -> None:
    """Measure detect, after comparing its outputs with those of its stages.

    Exit status 1: the outputs disagree and nothing was measured, or a measurement failed. Figures under their goal are
    shown as such.
    """
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    setup = Setup(out.absolute(), QUICK if quick else FULL, lambda line: console.print(f"[dim]{line}[/dim]"))
    try:
        report = run_bench(setup, NAMES if only is None else (only,), console)
    except (ChildError, ReelscanError) as error:
        raise click.ClickException(str(error)) from error
    report.show(console)
    console.print(f"written to {out / 'bench.json'}")
    sys.exit(1 if report.differences else 0)


def run_bench(setup: Setup, names: Collection[str], console: Console) -> Report:
    """Measure what is named, and write bench.json. Where outputs disagree nothing is measured."""
    setup.folder.mkdir(parents=True, exist_ok=True)
    report = Report(setup.effort.name)
    if "throughput" in names:
        report.agreements = check_cases(setup)
    for difference in report.differences[:_DIFFERENCES_SHOWN]:
        console.print(f"[red]outputs differ[/red]: {difference}")
    if not report.differences:
        _measure(setup, names, report)
    report.write(setup.folder / "bench.json")
    return report


def _measure(setup: Setup, names: Collection[str], report: Report) -> None:
    if "throughput" in names:
        cores = two_cores()
        if cores is None:
            report.not_measured["throughput"] = _ONE_CORE
        else:
            report.throughputs = measure_cases(setup, cores)
    if "bytes" in names:
        report.readings = measure_readings(setup)
    if "memory" in names:
        if Path("/proc/self/status").exists():
            report.memory = measure_memory(setup)
        else:
            report.not_measured["memory"] = _NO_PROC
    if "start" in names:
        report.starts = measure_starts(setup)


if __name__ == "__main__":
    bench()

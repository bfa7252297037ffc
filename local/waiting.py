"""`send --wait` on a terminal: progress on stderr while tasks are waited for, then what became of them on stdout."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from local.batch import print_batch, tally
from local.counting import Counting
from local.findings import clock
from local.sender import wait_for_tasks
from local.service import describe, found_text
from local.view import printable

if TYPE_CHECKING:
    from steps.completed import Completed
    from steps.settings import Settings

FEW_TASKS = 20
"""Up to so many, each has a line when it is done and a row at the end."""


def wait_and_print(
    task_ids: Sequence[str], settings: Settings, timeout_seconds: float, batch_id: str | None = None
) -> list[Completed]:
    """Wait for tasks and print what became of them; gives that in the order of `task_ids`. Errors: `wait_for_tasks`.

    Args:
        batch_id: which many tasks have in common, to be printed with their counts.
    """
    if len(task_ids) > FEW_TASKS:
        return _wait_for_many(task_ids, settings, timeout_seconds, batch_id)
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        shown = progress.add_task(_waiting(0, len(task_ids)), total=None)
        done = 0

        def tell(completed: Completed) -> None:
            nonlocal done
            done += 1
            progress.update(shown, description=_waiting(done, len(task_ids)))
            if len(task_ids) > 1:
                console.print(printable(describe(completed)), soft_wrap=True)

        if not console.is_terminal:
            console.print(_waiting(0, len(task_ids)))
        reported = wait_for_tasks(task_ids, settings, timeout_seconds=timeout_seconds, told=tell)
    outcomes = [reported[task_id] for task_id in task_ids]
    if len(outcomes) == 1:
        print_outcome(Console(), outcomes[0])
    else:
        Console().print(_outcomes_table(outcomes))
    return outcomes


def _wait_for_many(
    task_ids: Sequence[str], settings: Settings, timeout_seconds: float, batch_id: str | None
) -> list[Completed]:
    total = len(task_ids)
    started = time.monotonic()
    reported: dict[str, Completed] = {}
    statuses: Counter[str] = Counter()
    try:
        with Counting(Console(stderr=True), after_seconds=0) as counting:

            def show() -> None:
                done = len(reported)
                counting.update(f"waiting for {total} tasks", done, total, f"{done} done: {tally(statuses)}")

            def tell(completed: Completed) -> None:
                reported[completed.task_id] = completed
                statuses[completed.status] += 1
                show()

            show()
            wait_for_tasks(task_ids, settings, timeout_seconds=timeout_seconds, told=tell)
    finally:
        # Of a wait that ends too soon, what is known so far.
        outcomes = [reported[task_id] for task_id in task_ids if task_id in reported]
        if outcomes:
            print_batch(Console(), outcomes, total, time.monotonic() - started, batch_id)
    return outcomes


def print_outcome(console: Console, completed: Completed) -> None:
    """What became of a task, a line a fact."""
    lines = {"task": completed.task_id, "status": completed.status}
    if completed.video is not None:
        video = completed.video
        size = f"{video.codec} {video.width}x{video.height}"
        lines["video"] = f"{size}, {clock(video.duration_seconds)}, {video.frames} frames"
    if completed.frames is not None:
        lines["frames"] = f"{completed.frames.analysed} of {completed.frames.planned} analysed"
    if completed.results is not None:
        lines["found"] = found_text(completed)
    if completed.error is not None:
        lines["error"] = f"{completed.error.code}: {completed.error.message}"
    lines["seconds"] = f"{completed.wall_seconds:.1f}"
    if completed.results is not None:
        lines["results"] = completed.results
        lines["files"] = ", ".join(completed.files.values())
    for name, value in lines.items():
        console.print(printable(f"{name:9} {value}"), soft_wrap=True)


def _outcomes_table(outcomes: Sequence[Completed]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("video", "status", "frames", "found", "results"):
        table.add_column(name, overflow="fold")
    for outcome in outcomes:
        table.add_row(
            printable("" if outcome.task is None else f"s3://{outcome.task.bucket}/{outcome.task.object}"),
            outcome.status,
            "" if outcome.frames is None else f"{outcome.frames.analysed} of {outcome.frames.planned}",
            printable(found_text(outcome) if outcome.error is None else outcome.error.code),
            printable(outcome.results or ""),
        )
    return table


def _waiting(done: int, total: int) -> str:
    return f"waiting for {total} task{'s' if total > 1 else ''}" + (f", {done} done" if done else "")

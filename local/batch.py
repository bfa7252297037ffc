"""What became of more tasks than a table is good for: counts, and those that need a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from local.view import printable

if TYPE_CHECKING:
    from rich.console import Console

    from steps.completed import Completed

STATUSES = ("succeeded", "partial", "failed")
MOST_LABELS = 10
MOST_ROWS = 20


def tally(statuses: Counter[str]) -> str:
    """How many of each status: `7 succeeded, 0 partial, 1 failed`."""
    return ", ".join(f"{statuses[status]} {status}" for status in STATUSES)


def print_batch(
    console: Console, outcomes: Sequence[Completed], total: int, seconds: float, batch_id: str | None
) -> None:
    """The counts of many tasks, a line a fact, then a table of the first of those that did not succeed.

    Args:
        outcomes: of those that are reported.
        total: how many were sent.
        seconds: since they were sent.
        batch_id: which they have in common.
    """
    labels: Counter[str] = Counter()
    for outcome in outcomes:
        labels.update(outcome.detections_by_label or {})
    analysed = sum(outcome.frames.analysed for outcome in outcomes if outcome.frames is not None)
    lines = {} if batch_id is None else {"id": batch_id}
    statuses: Counter[str] = Counter(outcome.status for outcome in outcomes)
    lines["tasks"] = f"{len(outcomes)} of {total} done: {tally(statuses)}"
    lines["frames"] = f"{analysed} analysed"
    lines["found"] = _most_found(labels)
    lines["seconds"] = f"{seconds:.1f}"
    for name, value in lines.items():
        console.print(printable(f"{name:9} {value}"), soft_wrap=True)
    unwell = [outcome for outcome in outcomes if outcome.status != "succeeded"]
    if unwell:
        console.print(_unwell_table(unwell[:MOST_ROWS]))
    if len(unwell) > MOST_ROWS:
        console.print(f"and {len(unwell) - MOST_ROWS} more")


def _most_found(labels: Counter[str]) -> str:
    most = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{label} {count}" for label, count in most[:MOST_LABELS]) or "nothing found"
    return shown + (f", and {len(most) - MOST_LABELS} labels more" if len(most) > MOST_LABELS else "")


def _unwell_table(outcomes: Sequence[Completed]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("video", "status", "code", "message"):
        table.add_column(name, overflow="fold")
    for outcome in outcomes:
        place = outcome.task_id if outcome.task is None else f"s3://{outcome.task.bucket}/{outcome.task.object}"
        code, message = _why(outcome)
        table.add_row(printable(place), outcome.status, printable(code), printable(message))
    return table


def _why(outcome: Completed) -> tuple[str, str]:
    """Code and message of a task that did not succeed."""
    if outcome.error is not None:
        return outcome.error.code, outcome.error.message
    if outcome.frames is None:
        return "", ""
    codes = dict.fromkeys(missing.code for missing in outcome.frames.missing)
    return ", ".join(codes), f"{outcome.frames.analysed} of {outcome.frames.planned} frames analysed"

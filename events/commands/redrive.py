"""`reelscan redrive`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steps.errors import ERROR_CODES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from events.redriving import Choice, Counts, Redriven

_PLAIN_WIDTH = 200
"""Of the table where no terminal sets one: two ids alone are 72 characters."""


@click.command()
@click.option(
    "--code",
    "codes",
    multiple=True,
    type=click.Choice(ERROR_CODES),
    metavar="CODE",
    help="Only letters of tasks that failed with this code. Repeatable.",
)
@click.option("--task-id", "task_ids", multiple=True, metavar="ID", help="Only letters of this task. Repeatable.")
@click.option("--max", "max_letters", type=click.IntRange(min=1), metavar="N", help="Put back so many at most.")
@click.option("--dry-run", is_flag=True, help="Show which letters would be put back, and move nothing.")
@click.option(
    "--include-invalid",
    is_flag=True,
    help="Letters with the code invalid_task too, which fail again unless the service has changed.",
)
def redrive(
    *, codes: tuple[str, ...], task_ids: tuple[str, ...], max_letters: int | None, dry_run: bool, include_invalid: bool
) -> None:
    """Put dead letters, the tasks that failed, back on the task queue.

    From REELSCAN_DEAD_LETTER_QUEUE to REELSCAN_TASK_QUEUE. Letters are hidden from others while this runs, and those
    that are not put back are visible again after it.
    """
    import sys

    from rich.console import Console

    from events.redriving import Choice
    from events.redriving import redrive as put_back
    from local.view import printable
    from steps.queues import Queues
    from steps.settings import Settings

    settings = Settings.from_environment()
    choice = Choice(codes, task_ids, include_invalid, max_letters)
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    redriven: list[Redriven] = []
    try:
        counts = put_back(Queues(settings), settings, choice, redriven.append, dry_run=dry_run)
    finally:
        # Of one that is stopped or fails, what it did until then.
        if redriven:
            console.print(_table(redriven))
    console.print(printable(_summary(counts, choice, dry_run=dry_run)), soft_wrap=True)


def _table(redriven: Sequence[Redriven]) -> Table:
    from rich.table import Table

    from events.redriving import code_of, task_id_of, video_of
    from local.view import printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("new message", "old task", "code", "video", "reason"):
        table.add_column(name, overflow="fold")
    for one in redriven:
        letter = one.letter
        cells = (one.message_id or "-", task_id_of(letter) or "", code_of(letter), video_of(letter))
        table.add_row(*map(printable, (*cells, letter.attributes.get("reason", ""))))
    return table


def _summary(counts: Counts, choice: Choice, *, dry_run: bool) -> str:
    said = f"{_letters(counts.redriven)} {'would be put back' if dry_run else 'put back on the task queue'}"
    left = [
        (counts.invalid, "of invalid_task, which would fail again (--include-invalid puts them back)"),
        (counts.not_chosen, "not chosen"),
        (counts.failed_again, "of tasks that failed again meanwhile"),
        (counts.without_task_id, "without a task_id, for the reconciler to report"),
    ]
    parts = [f"{number} {why}" for number, why in left if number]
    if counts.more:
        parts.append(f"what is behind the first {choice.max_letters}")
    if parts:
        said += f"; left: {', '.join(parts)}"
    missing = [task_id for task_id in choice.task_ids if not counts.task_ids[task_id]]
    if missing and not counts.more:
        said += f"; no letter that fits was found of task {', '.join(missing)}"
    return said


def _letters(number: int) -> str:
    return f"{number} dead letter{'' if number == 1 else 's'}"

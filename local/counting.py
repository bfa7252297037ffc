"""How far something is that goes through many things: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from local.view import PLAIN_LINE_SECONDS, printable

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console


class Counting:
    """Shows one count after another. A context manager; what it shows on a terminal is gone at its end.

    Args:
        console: on stderr.
        after_seconds: nothing is shown of what is over by then.
        clock: a monotonic one.
    """

    def __init__(
        self, console: Console, *, after_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._clock = clock
        # Elsewhere a line is next due at this time.
        self._due = clock() + after_seconds
        self._was_shown = after_seconds <= 0
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def update(self, doing: str, done: int, total: int | None, detail: str) -> None:
        """Show that `done` of `total` are done; of None it is not known how many there are."""
        now = self._clock()
        is_last = done == total and self._was_shown
        if now < self._due and self._progress is None and not is_last:
            return
        self._was_shown = True
        doing, detail = printable(doing).plain, printable(detail).plain
        if self._console.is_terminal:
            if self._progress is None:
                self._start()
            assert self._progress is not None
            self._progress.update(self._task, description=doing, completed=done, total=total, detail=detail)
        else:
            self._due = now + PLAIN_LINE_SECONDS
            self._console.print(printable(f"{doing}: {detail}"), soft_wrap=True)

    def _start(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, detail="")
        self._progress.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

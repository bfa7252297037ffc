"""How a job looks on a terminal while it runs, and the tables of what it found. Progress goes to stderr."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from local.findings import Finding, clock, read_findings, spans_text
from steps.job import Observer
from steps.results import SUMMARY_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from rich.console import ConsoleOptions, RenderResult

    from steps.job import JobResult

PLAIN_LINE_SECONDS = 5.0
"""At most so often a line tells of progress where there is no terminal."""

_DOING = {"plan": "reading the video", "detect": "analysing frames", "aggregate": "writing the results"}


class JobView(Observer):
    """Shows one job after another: a bar on a terminal, lines elsewhere. A context manager.

    Args:
        console: on stderr.
        title: of the job that runs; `start` changes it.
    """

    def __init__(self, console: Console, title: str = "") -> None:
        self.step = ""
        """The step that runs: `plan`, `detect`, `aggregate`, or "" before the first."""
        self._console = console
        self._title = printable(title).plain
        self._bar: _Bar | _Lines = _Bar(console) if console.is_terminal else _Lines(console)

    def start(self, title: str) -> None:
        """Another job begins."""
        self._title = printable(title).plain
        self.step = ""

    def begin(self, step: str) -> None:
        """Show the step."""
        self.step = step
        self._bar.begin(self._title, step)

    def advance(self, done: int, total: int) -> None:
        """Show how far the step is."""
        self._bar.advance(done, total)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(printable(line), soft_wrap=True)

    def pause(self) -> None:
        """Nothing runs now: the bar goes."""
        self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


class Rate:
    """Frames per second since the first report of a step, and the time that is left at that rate."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self.per_second = 0.0
        self.left_seconds: float | None = None

    def update(self, done: int, total: int, now: float) -> None:
        """Take in a report; `now` is of a monotonic clock."""
        if self._first is None:
            self._first = (now, done)
        seconds, frames = now - self._first[0], done - self._first[1]
        if seconds > 0 and frames > 0:
            self.per_second = frames / seconds
            self.left_seconds = (total - done) / self.per_second

    def text(self) -> str:
        """`34 frames/s, 12 s left`; "" while nothing is known."""
        if self.left_seconds is None:
            return ""
        left = round(self.left_seconds)
        shown = f"{left} s" if left < 60 else f"{left // 60} min {left % 60} s"
        return f"{self.per_second:.0f} frames/s, {shown} left"


class _Bar:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._rate = Rate()
        self._step = ""

    def begin(self, title: str, step: str) -> None:
        self.close()
        self._rate, self._step = Rate(), step
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task(_describe(title, step), total=None, detail="")
        self._progress.start()

    def advance(self, done: int, total: int) -> None:
        if self._progress is None:
            return
        self._rate.update(done, total, time.monotonic())
        self._progress.update(
            self._task, completed=done, total=total, detail=_detail(self._step, done, total, self._rate)
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate = Rate()
        self._title = self._step = ""
        self._last = 0.0
        self._shown = ""

    def begin(self, title: str, step: str) -> None:
        self._rate, self._title, self._step = Rate(), title, step
        self._last, self._shown = time.monotonic(), ""
        self._print(_describe(title, step))

    def advance(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._rate.update(done, total, now)
        # The last frame is always told.
        if now - self._last >= PLAIN_LINE_SECONDS or (done == total and self._step == "detect"):
            self._last = now
            self._print(f"{_describe(self._title, self._step)}: {_detail(self._step, done, total, self._rate)}")

    def close(self) -> None:
        pass

    def _print(self, line: str) -> None:
        if line != self._shown:
            self._console.print(printable(line), soft_wrap=True)
            self._shown = line


def printable(text: str) -> Text:
    """Text from outside for a terminal: control characters are spelled out, so that they control nothing."""
    shown = (
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return Text("".join(shown))


def _describe(title: str, step: str) -> str:
    return f"{title}: {_DOING.get(step, step)}" if title else _DOING.get(step, step)


def _detail(step: str, done: int, total: int, rate: Rate) -> str:
    if step == "plan":
        return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"
    rate_text = rate.text() if step == "detect" and done < total else ""
    return f"{done} of {total} frames" + (f", {rate_text}" if rate_text else "")


def findings_table(findings: Sequence[Finding]) -> Table:
    """What was found, a row a label."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("label", overflow="fold")
    for name in ("frames", "detections", "best score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("seen at")
    for finding in findings:
        table.add_row(
            printable(finding.label),
            str(finding.frames),
            str(finding.detections),
            f"{finding.best_score:.2f} at {clock(finding.best_seconds)}",
            Phrases(spans_text(finding.spans)),
        )
    return table


class Phrases:
    """Text in lines that never end between a number and its unit: rich breaks at any kind of space."""

    def __init__(self, text: str) -> None:
        self._words = re.findall(r"[0-9.]+ s\b,?|\S+", text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max(map(len, self._words), default=0)
        return Measurement(longest, len(" ".join(self._words)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines: list[str] = []
        for word in self._words:
            if lines and len(lines[-1]) + 1 + len(word) <= options.max_width:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        yield Text("\n".join(lines), no_wrap=True)


def print_result(console: Console, result: JobResult) -> None:
    """What a job found, and the paths of its results."""
    summary, video = result.summary, result.summary.video
    console.print(
        printable(
            f"{summary.source.url}: {video.codec} {video.width}x{video.height}, {clock(video.duration_seconds)}, "
            f"{video.frames} frames, of which {summary.frames.analysed} analysed"
            + (" before: nothing had to be computed" if result.reused else "")
        ),
        soft_wrap=True,
    )
    findings = read_findings(result.store)
    if findings:
        console.print(findings_table(findings))
    else:
        console.print("Nothing was found.")
    for output, key in summary.files.items():
        console.print(printable(f"{output:12} {result.store.url}{key}"), soft_wrap=True)
    console.print(printable(f"{'summary':12} {result.store.url}{SUMMARY_KEY}"), soft_wrap=True)

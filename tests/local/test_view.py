"""How a job looks while it runs: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from local import view
from local.findings import Finding, Span
from local.view import JobView, Rate, findings_table, printable


def plain_console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=60), text


def test_without_a_terminal_each_step_is_a_line_and_the_last_frame_is_told() -> None:
    console, text = plain_console()
    with JobView(console, "clip.mp4") as shown:
        for step in ("plan", "detect", "aggregate"):
            shown.begin(step)
            for done in range(4):
                shown.advance(done, 3)
    assert text.getvalue().splitlines() == [
        "clip.mp4: reading the video",
        "clip.mp4: analysing frames",
        "clip.mp4: analysing frames: 3 of 3 frames",
        "clip.mp4: writing the results",
    ]


def test_without_a_terminal_progress_is_told_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "PLAIN_LINE_SECONDS", 0.0)
    console, text = plain_console()
    with JobView(console) as shown:
        shown.begin("plan")
        shown.advance(500_000, 2_000_000)
        shown.begin("detect")
        shown.advance(0, 10)
        shown.begin("aggregate")
        shown.advance(5, 10)
    assert text.getvalue().splitlines() == [
        "reading the video",
        "reading the video: 0.5 of 2.0 MB",
        "analysing frames",
        "analysing frames: 0 of 10 frames",
        "writing the results",
        "writing the results: 5 of 10 frames",
    ]


def test_on_a_terminal_a_bar_shows_frames_and_is_gone_at_the_end() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    with JobView(console, "clip.mp4") as shown:
        shown.begin("detect")
        shown.advance(3, 10)
        shown.note("chunk 1 was killed; trying again")
        shown.pause()
        shown.start("next.mp4")
        shown.begin("plan")
    assert "clip.mp4: analysing frames" in text.getvalue()
    assert "3 of 10 frames" in text.getvalue()
    assert "chunk 1 was killed; trying again" in text.getvalue()
    assert "next.mp4: reading the video" in text.getvalue()


def test_the_step_that_runs_is_known() -> None:
    console, _ = plain_console()
    with JobView(console) as shown:
        assert shown.step == ""
        shown.begin("detect")
        assert shown.step == "detect"
        shown.start("another")
        assert shown.step == ""


def test_the_rate_counts_from_the_first_report_so_that_frames_done_before_do_not_count() -> None:
    rate = Rate()
    rate.update(100, 300, now=10.0)
    assert rate.text() == ""
    rate.update(150, 300, now=12.0)
    assert (rate.per_second, rate.left_seconds) == (25.0, 6.0)
    assert rate.text() == "25 frames/s, 6 s left"
    rate.update(151, 3000, now=12.1)
    assert rate.text() == "24 frames/s, 1 min 57 s left"


@pytest.mark.parametrize("width", range(50, 100))
def test_a_table_breaks_no_line_between_a_number_and_its_unit(width: int) -> None:
    spans = [Span(first, first + 1.4) for first in (0.0, 7.4, 10.0, 100.0, 3600.0)]
    finding = Finding("tv", detections=28, frames=28, best_score=0.51, best_seconds=2.0, spans=spans)
    text = io.StringIO()
    Console(file=text, width=width).print(findings_table([finding, Finding("person", spans=[])]))
    lines = text.getvalue().splitlines()
    assert not [line for line in lines if re.search(r"\b\d+\.\d$", line.rstrip()) and ":" not in line.split()[-1]]
    assert not [line for line in lines if line.split()[:1] in (["s"], ["s,"])]
    assert all(len(line) <= width for line in lines)


def test_a_table_with_room_has_a_line_a_label() -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(findings_table([Finding("tv", 1, 1, 0.5, 2.0, spans=[Span(2.0, 3.0)])]))
    assert " ".join(text.getvalue().splitlines()[1].split()) == "tv 1 1 0.50 at 2.0 s 2.0 s to 3.0 s"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße 🚦.mp4", "Straße 🚦.mp4"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("right\u202eto left", "right\\u202eto left"),
        ("[bold]not markup[/bold]", "[bold]not markup[/bold]"),
    ],
)
def test_text_from_outside_controls_no_terminal(text: str, shown: str) -> None:
    assert printable(text).plain == shown
    console, written = plain_console()
    JobView(console).note(text)
    assert written.getvalue() == shown + "\n"

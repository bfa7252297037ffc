"""What was found, as people are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from local import findings
from local.findings import Span, clock, read_findings, spans_text
from steps.gzip_lines import GzipLinesWriter
from steps.results import FRAMES_KEY
from steps.store import FolderStore


def write_frames(store: FolderStore, frames: list[dict[str, float]]) -> None:
    """Frames a second apart, each with the labels and scores of `frames`."""
    with store.open_writer(FRAMES_KEY) as file:
        lines = GzipLinesWriter(file)
        for number, scores in enumerate(frames):
            detections = [{"label": label.strip("+"), "score": score} for label, score in scores.items()]
            lines.write(json.dumps({"frame": number * 30, "time_seconds": float(number), "detections": detections}))
        lines.close()


@pytest.fixture
def store(tmp_path: Any) -> FolderStore:
    return FolderStore(tmp_path)


def test_frames_in_a_row_are_one_span_and_a_gap_begins_the_next(store: FolderStore) -> None:
    write_frames(store, [{"cat": 0.5}, {"cat": 0.9, "cat+": 0.6}, {}, {"cat": 0.7}, {"dog": 0.8}])
    cat, dog = read_findings(store)
    assert (cat.label, cat.frames, cat.detections) == ("cat", 3, 4)
    assert (cat.first_seconds, cat.last_seconds) == (0.0, 3.0)
    assert (cat.best_score, cat.best_seconds) == (0.9, 1.0)
    assert cat.spans == [Span(0.0, 1.0), Span(3.0, 3.0)]
    assert (dog.label, dog.frames, dog.spans) == ("dog", 1, [Span(4.0, 4.0)])


def test_labels_in_more_frames_come_first(store: FolderStore) -> None:
    write_frames(store, [{"b": 0.5, "a": 0.5}, {"c": 0.5}, {"c": 0.5}])
    assert [finding.label for finding in read_findings(store)] == ["c", "a", "b"]


def test_a_run_without_detections_has_no_findings(store: FolderStore) -> None:
    write_frames(store, [{}, {}])
    assert read_findings(store) == []


def test_spans_are_bounded(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MAX_SPANS", 3)
    write_frames(store, [{"cat": 0.5} if number % 2 == 0 else {} for number in range(21)])
    (cat,) = read_findings(store)
    assert cat.spans == [Span(0.0, 0.0), Span(2.0, 2.0), Span(4.0, 20.0)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00.0"),
        (60.0, "1:00.0"),
        (139.4, "2:19.4"),
        (3599.99, "1:00:00.0"),
        (86_400.0, "24:00:00.0"),
    ],
)
def test_a_time_is_written_as_a_clock_shows_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("spans", "text"),
    [
        ([], ""),
        ([Span(1.0, 1.0)], "1.0 s"),
        ([Span(0.0, 1.4), Span(6.8, 18.2)], "0.0 s to 1.4 s, 6.8 s to 18.2 s"),
        ([Span(float(n), float(n)) for n in range(7)], "0.0 s, 1.0 s, 2.0 s and 4 more"),
    ],
)
def test_spans_are_listed_up_to_a_number(spans: list[Span], text: str) -> None:
    assert spans_text(spans) == text

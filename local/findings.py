"""What was found, by label: read from `frames.jsonl.gz` for people to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steps.results.frames import read_frames

if TYPE_CHECKING:
    from steps.store import Store

MAX_SPANS = 1000
"""Spans kept of a label; the memory of a long video stays bounded."""


@dataclass
class Span:
    """Analysed frames in a row that show a label. Times are of the first and the last of them, in seconds."""

    first_seconds: float
    last_seconds: float


@dataclass
class Finding:
    """What was found of one label."""

    label: str
    detections: int = 0
    frames: int = 0
    """Analysed frames that show it at least once."""
    best_score: float = 0.0
    best_seconds: float = 0.0
    """Time of the frame with the best score."""
    first_seconds: float = 0.0
    last_seconds: float = 0.0
    spans: list[Span] = field(default_factory=list)
    """At most `MAX_SPANS`; the rest is in one last span."""
    _last_number: int = -2

    def add_frame(self, number: int, time_seconds: float, scores: list[float]) -> None:
        """Take in the `number`-th analysed frame, which shows the label with these scores."""
        if not self.frames:
            self.first_seconds = time_seconds
        self.frames += 1
        self.detections += len(scores)
        self.last_seconds = time_seconds
        if max(scores) > self.best_score:
            self.best_score, self.best_seconds = max(scores), time_seconds
        if self.spans and (number == self._last_number + 1 or len(self.spans) == MAX_SPANS):
            self.spans[-1].last_seconds = time_seconds
        else:
            self.spans.append(Span(time_seconds, time_seconds))
        self._last_number = number


def read_findings(store: Store) -> list[Finding]:
    """The labels of a run, those in the most frames first.

    Raises:
        NotFoundError: it has no `frames.jsonl.gz`.
        StorageError: that cannot be read.
    """
    findings: dict[str, Finding] = {}
    for number, line in enumerate(read_frames(store)):
        scores: dict[str, list[float]] = {}
        for detection in line.record["detections"]:
            scores.setdefault(detection["label"], []).append(detection["score"])
        for label, of_label in scores.items():
            finding = findings.setdefault(label, Finding(label))
            finding.add_frame(number, line.record["time_seconds"], of_label)
    return sorted(findings.values(), key=lambda finding: (-finding.frames, finding.label))


def clock(seconds: float) -> str:
    """A time of the video for people: `6.4 s`, `3:06.4`, `1:02:03.4`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    if not minutes:
        return f"{rest:.1f} s"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def spans_text(spans: list[Span], most: int = 3) -> str:
    """Spans for people: `0.0 s to 1.4 s, 6.8 s to 18.2 s`; of many, the first `most`."""
    shown = [
        clock(span.first_seconds) if span.first_seconds == span.last_seconds
        else f"{clock(span.first_seconds)} to {clock(span.last_seconds)}"
        for span in spans[:most]
    ]  # fmt: skip
    return ", ".join(shown) + (f" and {len(spans) - most} more" if len(spans) > most else "")

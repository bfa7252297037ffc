"""Which picture was analysed for which frame: against a plain decode of the whole clip by other code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

import pytest

from tests.media.clips import BROKEN_CLIP_NAMES, WHOLE_CLIP_NAMES, ClipLibrary
from tests.media.library import Clip
from tests.media.reference import ReferenceFrame, reference_sample, source_rate
from tests.steps.analysis import WHOLE, Analysis, Analyst
from tests.steps.reading_model import checksum_read
from tests.steps.special_clips import SPECIAL_CLIP_NAMES

NAMES = (*WHOLE_CLIP_NAMES, *SPECIAL_CLIP_NAMES)
CHUNK_SECONDS = (1.0, 7.0, WHOLE)
OWN_RATE = -1.0
RATES = (0.0, 1.0, 5.0, 12.5, 29.97, OWN_RATE)

UNBROKEN = {"mpegts": "h264_closed_gop.ts", "mov": "h264_closed_gop.mp4", "matroska": "h264_closed_gop.mp4"}
"""What the broken clips were made from, by container."""


@dataclass
class Truth:
    """A clip as it is decoded from start to end, on the timeline of results."""

    clip: Clip

    @cached_property
    def frames(self) -> list[ReferenceFrame]:
        """All displayed frames. Where a file goes back in time, its second part begins where the first one ends."""
        frames, shift, last = [], Fraction(0), Fraction(-1)
        for frame in self.clip.reference:
            if frame.time_seconds + shift <= last:
                shift = last + 1 / self.clip.fps - frame.time_seconds
            last = frame.time_seconds + shift
            frames.append(replace(frame, time_seconds=last))
        return frames

    def rate(self, fps: float) -> float:
        """`fps`, or the clip's own."""
        return float(source_rate(self.frames) or 0) if fps == OWN_RATE else fps

    def sample(self, fps: float, start: float = 0, end: float | None = None) -> list[ReferenceFrame]:
        """The frames to analyse."""
        chosen = _sample_of(tuple(frame.time_seconds for frame in self.frames), fps, start, end)
        return [self.frames[number] for number in chosen]


@cache
def _sample_of(times: tuple[Fraction, ...], fps: float, start: float, end: float | None) -> list[int]:
    """Numbers of the frames to analyse; most clips have the same times, and the plain rule is slow."""
    frames = [_Moment(number, seconds) for number, seconds in enumerate(times)]
    ends = None if end is None else Fraction(repr(end))
    sample = reference_sample(frames, Fraction(repr(fps)), Fraction(repr(start)), ends)  # type: ignore[arg-type]
    return [moment.number for moment in sample]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Moment:
    number: int
    time_seconds: Fraction


@dataclass
class Analyses:
    """Analyses chunk tables that differ; equal ones give equal results, so once is enough."""

    analyst: Analyst
    known: dict[tuple[str, bytes], Analysis]

    def of(self, clip: Clip, **options: Any) -> Analysis:
        source = self.analyst.open(clip.path)
        plan = self.analyst.plan(source, **options)
        key = clip.name, self.analyst.store.get(plan.table_key).data
        if key not in self.known:
            self.known[key] = self.analyst.detect(plan, source)
        return replace(self.known[key], plan=plan)


@pytest.fixture(scope="module")
def known_analyses() -> dict[tuple[str, bytes], Analysis]:
    return {}


@pytest.fixture
def analyses(analyst: Analyst, known_analyses: dict[tuple[str, bytes], Analysis]) -> Analyses:
    return Analyses(analyst, known_analyses)


def assert_shows_what_it_says(analysis: Analysis, expected: list[ReferenceFrame]) -> None:
    """Planned frames, their pts, times and pictures are those of the independent decode."""
    assert analysis.numbers == [frame.ordinal for frame in expected]
    assert analysis.missing == []
    read = analysis.numbers_read()
    for frame, line in zip(expected, analysis.lines, strict=True):
        assert read[frame.ordinal] == frame.number_in_picture
        assert line["time_seconds"] == round(float(frame.time_seconds), 6)
        if analysis.plan.identify_by != "output_order":
            assert line["pts"] == frame.pts


@pytest.mark.parametrize("fps", RATES, ids=lambda fps: "own" if fps == OWN_RATE else f"{fps:g}")
@pytest.mark.parametrize("name", NAMES)
def test_every_planned_frame_shows_the_number_of_that_frame_under_any_chunking(
    name: str, fps: float, clips: ClipLibrary, analyses: Analyses
) -> None:
    truth = Truth(clips[name])
    fps = truth.rate(fps)
    expected = truth.sample(fps)
    texts = set()
    for chunk_seconds in CHUNK_SECONDS:
        analysis = analyses.of(truth.clip, fps=fps, chunk_seconds=chunk_seconds)
        assert_shows_what_it_says(analysis, expected)
        texts.add(analysis.text)
    # The text holds a checksum of each picture that was sent, so equal texts are equal pictures.
    assert len(texts) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_range_gives_the_same_pictures_as_the_whole(name: str, clips: ClipLibrary, analyses: Analyses) -> None:
    truth = Truth(clips[name])
    whole = {line["frame"]: checksum_read(line) for line in analyses.of(truth.clip, fps=0.0, chunk_seconds=1.0).lines}
    last = float(truth.frames[-1].time_seconds)
    start, end = (0.4 * last, 0.75 * last) if last else (0.0, 1.0)
    part = analyses.of(truth.clip, fps=0.0, start_seconds=start, end_seconds=end, chunk_seconds=1.0)
    assert_shows_what_it_says(part, truth.sample(0.0, start, end))
    assert all(checksum_read(line) == whole[line["frame"]] for line in part.lines)


@pytest.mark.parametrize("fps", [0.0, 5.0])
@pytest.mark.parametrize("name", BROKEN_CLIP_NAMES)
def test_what_cannot_be_decoded_is_listed_and_all_else_is_what_it_says(
    name: str, fps: float, clips: ClipLibrary, analyses: Analyses
) -> None:
    clip = clips[name]
    unbroken = analyses.of(clips[UNBROKEN[clip.container]], fps=0.0, chunk_seconds=1.0)
    picture_of_number = {line["frame"]: checksum_read(line) for line in unbroken.lines}

    first, *others = [analyses.of(clip, fps=fps, chunk_seconds=seconds) for seconds in CHUNK_SECONDS]

    assert all(analysis.lines == first.lines for analysis in others), "the chunking changed what was found"
    read = first.numbers_read()
    for line in first.analysed:
        number = clip.number_at(Fraction(line["time_seconds"]))
        assert read[line["frame"]] == number, "a frame that shows another picture is not listed as missing"
        assert checksum_read(line) == picture_of_number[number], "a spoilt picture is not listed as missing"
    if fps == 0.0:
        assert {number for number in clip.numbers if number not in clip.fragile} <= set(read.values())


@pytest.mark.parametrize("name", [name for name in WHOLE_CLIP_NAMES if "intra_refresh" in name])
def test_an_intra_refresh_clip_is_decoded_from_its_start(name: str, clips: ClipLibrary, analyst: Analyst) -> None:
    assert analyst.plan(analyst.open(clips[name].path), fps=5.0, chunk_seconds=1.0).access == "sequential"


def test_whole_groups_of_pictures_without_a_wanted_frame_are_jumped_over(
    clips: ClipLibrary, analyses: Analyses
) -> None:
    truth = Truth(clips["h264_open_gop.mp4"])
    analysis = analyses.of(truth.clip, fps=0.4, chunk_seconds=WHOLE)
    assert_shows_what_it_says(analysis, truth.sample(0.4))

"""Which picture was analysed for which frame: against a plain decode of the whole clip by other code."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tests.media.clips import BROKEN_CLIP_NAMES, WHOLE_CLIP_NAMES, ClipLibrary
from tests.media.library import Clip
from tests.media.reference import ReferenceFrame, reference_sample, source_rate
from tests.steps.analysis import WHOLE, Analysis, Analyst, crc_read

CHUNK_SECONDS = (1.0, 7.0, WHOLE)


def own_rate(frames: list[ReferenceFrame]) -> float:
    return float(source_rate(frames) or 0)


def sample(clip: Clip, fps: float) -> list[ReferenceFrame]:
    return reference_sample(clip.reference, Fraction(repr(fps)))


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


@pytest.mark.parametrize("fps", [0.0, 1.0, 5.0, 12.5, 29.97, None], ids=lambda fps: f"fps-{fps or 'own'}")
@pytest.mark.parametrize("name", WHOLE_CLIP_NAMES)
def test_every_planned_frame_shows_the_number_of_that_frame_under_any_chunking(
    name: str, fps: float | None, clips: ClipLibrary, analyst: Analyst
) -> None:
    clip = clips[name]
    fps = own_rate(clip.reference) if fps is None else fps
    expected = sample(clip, fps)
    texts = set()
    for chunk_seconds in CHUNK_SECONDS:
        analysis = analyst.analyse(clip.path, fps=fps, chunk_seconds=chunk_seconds)
        assert_shows_what_it_says(analysis, expected)
        texts.add(analysis.text)
    # The text holds a checksum of each picture that was sent, so equal texts are equal pictures.
    assert len(texts) == 1


@pytest.mark.parametrize("name", WHOLE_CLIP_NAMES)
def test_a_range_gives_the_same_pictures_as_the_whole(name: str, clips: ClipLibrary, analyst: Analyst) -> None:
    clip = clips[name]
    whole = {line["frame"]: crc_read(line) for line in analyst.analyse(clip.path, fps=0.0).lines}
    end = float(clip.reference[-1].time_seconds) * 0.75
    start = float(clip.reference[-1].time_seconds) * 0.4
    part = analyst.analyse(clip.path, fps=0.0, start_seconds=start, end_seconds=end, chunk_seconds=1.0)
    expected = reference_sample(clip.reference, Fraction(0), Fraction(repr(start)), Fraction(repr(end)))
    assert_shows_what_it_says(part, expected)
    assert all(crc_read(line) == whole[line["frame"]] for line in part.lines)


@pytest.mark.parametrize("fps", [0.0, 5.0])
@pytest.mark.parametrize("name", BROKEN_CLIP_NAMES)
def test_what_cannot_be_decoded_is_listed_and_all_else_is_what_it_says(
    name: str, fps: float, clips: ClipLibrary, analyst: Analyst
) -> None:
    clip = clips[name]
    analyses = [analyst.analyse(clip.path, fps=fps, chunk_seconds=seconds) for seconds in CHUNK_SECONDS]
    first = analyses[0]
    assert all(analysis.lines == first.lines for analysis in analyses), "the chunking changed what was found"
    number_of_pts = {frame.pts: frame.number_in_picture for frame in clip.reference}
    for line in first.lines:
        if "missing" not in line:
            assert number_of_pts[line["pts"]] is not None, f"{line['pts']} shows garbage and is not listed"
    read = first.numbers_read()
    for line in first.lines:
        if "missing" not in line:
            assert read[line["frame"]] == number_of_pts[line["pts"]]
    sound = [number for number in clip.numbers if number not in clip.fragile]
    if fps == 0.0:
        assert set(sound) <= set(read.values())


@pytest.mark.parametrize("name", [name for name in WHOLE_CLIP_NAMES if "intra_refresh" in name])
def test_an_intra_refresh_clip_is_decoded_from_its_start(name: str, clips: ClipLibrary, analyst: Analyst) -> None:
    assert analyst.analyse(clips[name].path, fps=5.0, chunk_seconds=1.0).plan.access == "sequential"


def test_whole_groups_of_pictures_without_a_wanted_frame_are_jumped_over(clips: ClipLibrary, analyst: Analyst) -> None:
    clip = clips["h264_open_gop.mp4"]
    analysis = analyst.analyse(clip.path, fps=0.4, chunk_seconds=WHOLE)
    assert_shows_what_it_says(analysis, sample(clip, 0.4))

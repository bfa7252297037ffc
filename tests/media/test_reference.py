"""The reference's sampling rule is the contract's."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest

from .library import ClipLibrary
from .reference import ReferenceFrame, reference_sample, source_rate


def frames_at(*times: Fraction) -> list[ReferenceFrame]:
    return [
        ReferenceFrame(n, n, time, n, "", 320, 180, "yuv420p", key_frame=False, interlaced=False, corrupt=False)
        for n, time in enumerate(times)
    ]


TEN_A_SECOND = frames_at(*(Fraction(n, 10) for n in range(20)))


def ordinals(frames: Sequence[ReferenceFrame]) -> list[int]:
    return [frame.ordinal for frame in frames]


def test_sampling_takes_the_first_frame_at_or_after_each_due_time() -> None:
    assert ordinals(reference_sample(TEN_A_SECOND, Fraction(5))) == list(range(0, 20, 2))
    assert ordinals(reference_sample(TEN_A_SECOND, Fraction(3))) == [0, 4, 7, 10, 14, 17]


@pytest.mark.parametrize("fps", [0, 10, 11])
def test_sampling_at_the_own_rate_and_above_takes_every_frame(fps: int) -> None:
    assert reference_sample(TEN_A_SECOND, Fraction(fps)) == TEN_A_SECOND


def test_sampling_keeps_to_a_half_open_range_and_a_count() -> None:
    inner = (Fraction(1, 2), Fraction(1))
    assert ordinals(reference_sample(TEN_A_SECOND, Fraction(0), *inner)) == [5, 6, 7, 8, 9]
    assert ordinals(reference_sample(TEN_A_SECOND, Fraction(4), *inner)) == [5, 8]
    assert ordinals(reference_sample(TEN_A_SECOND, Fraction(5), max_frames=3)) == [0, 2, 4]


def test_sampling_takes_a_frame_once_though_it_is_due_often() -> None:
    frames = frames_at(Fraction(0), Fraction(1, 100), Fraction(2, 100), Fraction(2), Fraction(201, 100))
    assert ordinals(reference_sample(frames, Fraction(1))) == [0, 3]


def test_sampling_allows_a_millisecond_of_rounding(clips: ClipLibrary) -> None:
    frames = clips["h264_ntsc.mkv"].reference
    rate = source_rate(frames)
    assert rate is not None
    assert Fraction("29.97") < rate < 30
    assert len(reference_sample(frames, Fraction("29.97"))) == 301


def test_a_video_of_one_frame_is_sampled_at_any_rate(clips: ClipLibrary) -> None:
    frames = clips["h264_one_frame.mp4"].reference
    assert source_rate(frames) is None
    assert reference_sample(frames, Fraction(5)) == frames

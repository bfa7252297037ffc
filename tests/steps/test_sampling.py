"""The sampling rule, against a slow and literal reading of it in other code."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.sampling import choose_frames, measured_fps
from tests.media.reference import ReferenceFrame, reference_sample

TIME_BASES = (Fraction(1, 1000), Fraction(1, 15360), Fraction(1, 90000), Fraction(1, 25), Fraction(1001, 30000))


def reference(ticks: list[int], time_base: Fraction) -> list[ReferenceFrame]:
    return [
        ReferenceFrame(
            ordinal=number, pts=tick, time_seconds=tick * time_base, number_in_picture=None, md5_of_picture="",
            width=1, height=1, pixel_format="gray", key_frame=False, interlaced=False, corrupt=False,
        )
        for number, tick in enumerate(ticks)
    ]  # fmt: skip


def chosen(ticks: list[int], time_base: Fraction, fps: Fraction, **others: object) -> list[int]:
    return choose_frames(np.array(ticks, dtype=np.int64), time_base, fps=fps, **others).tolist()  # type: ignore[arg-type]


@st.composite
def timelines(draw: st.DrawFn) -> tuple[list[int], Fraction]:
    time_base = draw(st.sampled_from(TIME_BASES))
    usual = draw(st.integers(1, int(max(1, Fraction(1, 5) / time_base))))
    gaps = draw(st.lists(st.integers(1, max(1, 3 * usual)), max_size=60))
    ticks = [0]
    for gap in gaps:
        ticks.append(ticks[-1] + gap)
    return ticks, time_base


rates = st.one_of(
    st.sampled_from([Fraction(0), Fraction(1), Fraction(5), Fraction(25, 2), Fraction(2997, 100), Fraction(30)]),
    st.fractions(min_value=Fraction(1, 20), max_value=200, max_denominator=1000),
)
seconds = st.fractions(min_value=0, max_value=12, max_denominator=1000)


@settings(max_examples=300, deadline=None)
@given(timelines(), rates, seconds, st.one_of(st.none(), seconds), st.one_of(st.none(), st.integers(1, 20)))
def test_the_chosen_frames_are_those_of_the_rule(
    timeline: tuple[list[int], Fraction], fps: Fraction, start: Fraction, end: Fraction | None, most: int | None
) -> None:
    ticks, time_base = timeline
    expected = [frame.ordinal for frame in reference_sample(reference(ticks, time_base), fps, start, end, most)]
    assert chosen(ticks, time_base, fps, start_seconds=start, end_seconds=end, max_frames=most) == expected


@given(timelines(), rates)
@settings(deadline=None)
def test_each_frame_is_taken_once_and_in_order(timeline: tuple[list[int], Fraction], fps: Fraction) -> None:
    numbers = chosen(*timeline, fps)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(2997, 100), Fraction(30), Fraction(0)])
def test_times_rounded_to_the_millisecond_lose_no_frame_at_the_videos_own_rate(fps: Fraction) -> None:
    # As in MKV at 29.97; a plain comparison keeps 190 of these 301.
    ticks = [round(number * 1001 / 30) for number in range(301)]
    assert chosen(ticks, Fraction(1, 1000), fps) == list(range(301))


def test_a_rate_just_under_the_videos_own_keeps_nearly_all_frames() -> None:
    ticks = [number * 512 for number in range(3000)]
    assert len(chosen(ticks, Fraction(1, 15360), Fraction(2999, 100))) >= 2998


def test_the_range_is_half_open() -> None:
    ticks = [number * 40 for number in range(100)]
    numbers = chosen(ticks, Fraction(1, 1000), Fraction(0), start_seconds=Fraction(1), end_seconds=Fraction(2))
    assert numbers == list(range(25, 50))


def test_a_range_behind_the_end_holds_no_frame() -> None:
    assert chosen([0, 40, 80], Fraction(1, 1000), Fraction(5), start_seconds=Fraction(100)) == []


def test_one_frame_has_no_rate_and_is_taken() -> None:
    assert measured_fps(np.array([0], dtype=np.int64), Fraction(1, 25)) is None
    assert chosen([0], Fraction(1, 25), Fraction(5)) == [0]


def test_ten_hours_of_sixty_frames_a_second_are_chosen_exactly() -> None:
    ticks = np.arange(10 * 3600 * 60, dtype=np.int64) * 1500
    numbers = choose_frames(ticks, Fraction(1, 90000), fps=Fraction(5))
    assert np.array_equal(numbers, np.arange(0, len(ticks), 12))

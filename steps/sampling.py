"""Choosing the frames that are analysed, before any cutting, so that no chunking can change them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

TOLERANCE_SECONDS = Fraction(1, 1000)
"""MKV and WebM round times to the millisecond; a tick of the time base is no measure, in AVI it is a whole frame."""


def choose_frames(
    ticks: NDArray[np.int64],
    time_base: Fraction,
    *,
    fps: Fraction,
    start_seconds: Fraction = Fraction(0),
    end_seconds: Fraction | None = None,
    max_frames: int | None = None,
) -> NDArray[np.int64]:
    """Numbers of the frames to analyse, ascending.

    With F = `fps` above 0 these are, for k = 0, 1, 2, ..., the first frame whose time is at or after
    `start + k/F - 1 ms` and before `end - 1 ms`, each taken once. With 0, or at the video's own measured rate and
    above, all frames from `start - 1 ms` to before `end - 1 ms`. All in rational arithmetic.

    Args:
        ticks: times of all displayed frames in units of `time_base` seconds from the first one, ascending; int64 [N].
        max_frames: keep only the first so many.
    """
    stop = len(ticks) if end_seconds is None else _first_at_or_after(ticks, end_seconds, time_base)
    first = _first_at_or_after(ticks, start_seconds, time_base)
    own = measured_fps(ticks, time_base)
    if fps == 0 or own is None or fps >= own:
        chosen = np.arange(first, stop, dtype=np.int64)
    else:
        last_tick = int(ticks[stop - 1]) if stop else -1
        thresholds = np.fromiter(_thresholds(start_seconds, fps, time_base, last_tick), dtype=np.int64)
        chosen = np.unique(np.searchsorted(ticks[:stop], thresholds, side="left"))
        chosen = chosen[chosen < stop]
    return chosen if max_frames is None else chosen[:max_frames]


def measured_fps(ticks: NDArray[np.int64], time_base: Fraction) -> Fraction | None:
    """(frames - 1) / (last time - first time); None where there is no such rate."""
    if len(ticks) < 2 or ticks[-1] == ticks[0]:
        return None
    return (len(ticks) - 1) / ((int(ticks[-1]) - int(ticks[0])) * time_base)


def _first_at_or_after(ticks: NDArray[np.int64], seconds: Fraction, time_base: Fraction) -> int:
    return int(np.searchsorted(ticks, _ceil((seconds - TOLERANCE_SECONDS) / time_base), side="left"))


def _thresholds(start: Fraction, fps: Fraction, time_base: Fraction, last_tick: int) -> Iterator[int]:
    # ceil(a + k*b) with integers over one denominator: exact, and quick enough for ten million frames.
    first = (start - TOLERANCE_SECONDS) / time_base
    step = 1 / (fps * time_base)
    denominator = first.denominator * step.denominator
    value = first.numerator * step.denominator
    increment = step.numerator * first.denominator
    while True:
        threshold = -(-value // denominator)
        if threshold > last_tick:
            return
        yield threshold
        value += increment


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)

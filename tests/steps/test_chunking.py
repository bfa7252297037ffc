"""Cutting at keyframes: every chosen frame in exactly one chunk, whatever the chunk size."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steps.chunking import Keys, Shown, cut, group_of_frames, runs_of

MAX_CHUNKS = 20


@st.composite
def videos(draw: st.DrawFn) -> tuple[Shown, Keys, NDArray[np.int64]]:
    groups = draw(st.lists(st.integers(1, 12), min_size=1, max_size=40))
    count = sum(groups)
    pts = np.arange(count, dtype=np.int64) * 100
    shown = Shown(pts, np.arange(count, dtype=np.int64))
    firsts = np.cumsum([0, *groups[:-1]]).astype(np.int64)
    keys = Keys(pts[firsts], firsts)
    frames = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
    return shown, keys, np.array(frames, dtype=np.int64)


sizes = st.one_of(st.none(), st.floats(0.05, 100))


@settings(max_examples=300, deadline=None)
@given(videos(), sizes, st.floats(0, 10_000), st.floats(0.1, 60), st.integers(1, MAX_CHUNKS))
def test_chunks_hold_every_chosen_frame_once_and_begin_at_keyframes(
    video: tuple[Shown, Keys, NDArray[np.int64]],
    chunk_seconds: float | None,
    work: float,
    start: float,
    max_chunks: int,
) -> None:
    shown, keys, frames = video
    groups = group_of_frames(frames, shown, keys)
    seconds = keys.pts / 1000
    parts = cut(
        frames, groups, seconds, chunk_seconds=chunk_seconds, work_seconds=work, start_of_worker_seconds=start,
        max_chunks=max_chunks,
    )  # fmt: skip
    assert np.array_equal(np.concatenate(parts), frames)
    assert all(len(part) for part in parts)
    assert len(parts) <= max_chunks
    for before, after in itertools.pairwise(parts):
        assert group_of_frames(before[-1:], shown, keys)[0] < group_of_frames(after[:1], shown, keys)[0]


@settings(max_examples=200, deadline=None)
@given(videos())
def test_runs_hold_every_frame_of_their_chunk_and_leave_whole_groups_out(
    video: tuple[Shown, Keys, NDArray[np.int64]],
) -> None:
    shown, keys, frames = video
    runs = runs_of(frames, shown, keys)
    assert np.array_equal(np.concatenate([run.frames for run in runs]), frames)
    for run in runs:
        assert keys.pts[run.key] <= shown.pts[run.frames[0]]
        assert run.last_packet == shown.packet[run.frames].max()
    for before, after in itertools.pairwise(runs):
        last_group = group_of_frames(before.frames[-1:], shown, keys)[0]
        assert after.key - last_group > 1


def test_auto_gives_each_chunk_work_for_ten_times_the_start_of_its_worker() -> None:
    pts = np.arange(1000, dtype=np.int64) * 100
    shown, keys = Shown(pts, np.arange(1000)), Keys(pts[::10], np.arange(0, 1000, 10))
    frames = np.arange(1000, dtype=np.int64)
    groups = group_of_frames(frames, shown, keys)

    def chunks(work_seconds: float) -> int:
        return len(
            cut(frames, groups, keys.pts / 1000, chunk_seconds=None, work_seconds=work_seconds,
                start_of_worker_seconds=10, max_chunks=MAX_CHUNKS)
        )  # fmt: skip

    assert [chunks(work) for work in (5, 199, 200, 1000, 1e6)] == [1, 1, 2, 10, MAX_CHUNKS]

"""Cutting the chosen frames into chunks at keyframes, and each chunk into the segments that have to be decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steps.index import NO_PTS, Packets

DECODE_SECONDS_PER_MEGAPIXEL = 0.003
"""CPU time of decoding, measured on 1080p H.264 (5.5 ms a frame)."""
ANALYSE_SECONDS_PER_FRAME = 0.02
"""Time of a model's work on one frame: a small one on a CPU, a large one on a GPU."""
WORK_PER_START = 10
"""A chunk's work is at least so many times the start of its worker."""


@dataclass(frozen=True)
class Keys:
    """The keyframes at which decoding can start, by time. Frames before the first one belong to it."""

    pts: NDArray[np.int64]
    packet: NDArray[np.int64]
    """Index of the key's packet in the order of the file."""


@dataclass(frozen=True)
class Shown:
    """The displayed frames in order of time."""

    pts: NDArray[np.int64]
    packet: NDArray[np.int64]
    """Index of the frame's packet in the order of the file."""


@dataclass(frozen=True)
class Run:
    """Consecutive chosen frames that are decoded in one go."""

    key: int
    """Index into `Keys`."""
    frames: NDArray[np.int64]
    last_packet: int
    """Index of the last packet, in the order of the file, that the frames need."""


def shown_frames(packets: Packets) -> Shown:
    """The displayed frames by pts; frame n is entry n."""
    numbers = np.flatnonzero(packets.displayed)
    order = np.argsort(packets.pts[numbers], kind="stable")
    return Shown(packets.pts[numbers][order], numbers[order])


def keys_of(packets: Packets) -> Keys:
    """The keyframes whose times ascend with their place in the file, as they do in every sound one."""
    numbers = np.flatnonzero(packets.key & (packets.displayed | packets.discarded) & (packets.pts != NO_PTS))
    pts = packets.pts[numbers]
    highest_before = np.maximum.accumulate(np.concatenate(([np.iinfo(np.int64).min], pts[:-1]))) if len(pts) else pts
    ascending = pts > highest_before
    return Keys(pts[ascending], numbers[ascending])


def group_of_frames(frames: NDArray[np.int64], shown: Shown, keys: Keys) -> NDArray[np.int64]:
    """For each frame the index of the key that it is decoded from; ascends with the frames.

    It is the last one that lies before the frame both in time and in the file: a picture that leads a keyframe lies
    behind it in the file, and one that an edit list shows before a keyframe can lie before it in the file.
    """
    by_time = np.searchsorted(keys.pts, shown.pts[frames], side="right")
    by_place = np.searchsorted(keys.packet, shown.packet[frames], side="right")
    groups = np.maximum(np.minimum(by_time, by_place) - 1, 0)
    return np.minimum.accumulate(groups[::-1])[::-1]


def cut(
    frames: NDArray[np.int64], groups: NDArray[np.int64], key_seconds: NDArray[np.float64], *,
    chunk_seconds: float | None, work_seconds: float, start_of_worker_seconds: float, max_chunks: int,
) -> list[NDArray[np.int64]]:  # fmt: skip
    """Split the chosen frames into chunks that begin at keyframes.

    Args:
        frames: numbers of the chosen frames, ascending.
        groups: the key that each is decoded from.
        key_seconds: times of the keys.
        chunk_seconds: aim for so much video a chunk; None: even shares of the frames, so that each has work for at
            least `WORK_PER_START` times the start of its worker.
    """
    starts = np.flatnonzero(np.concatenate(([True], groups[1:] != groups[:-1])))
    if chunk_seconds is None:
        wanted = max(1, min(max_chunks, int(work_seconds / (WORK_PER_START * start_of_worker_seconds))))
        share = len(frames) / wanted
        firsts = [0]
        for start in starts[1:]:
            if start >= firsts[-1] + share:
                firsts.append(int(start))
    else:
        span = float(key_seconds[groups[-1]] - key_seconds[groups[0]])
        # So wide that the last of `max_chunks` begins no earlier than the last keyframe.
        chunk_seconds = max(chunk_seconds, span / (max_chunks - 1) + 2e-3) if max_chunks > 1 else math.inf
        firsts = [0]
        for start in starts[1:]:
            if key_seconds[groups[start]] >= key_seconds[groups[firsts[-1]]] + chunk_seconds - 1e-3:
                firsts.append(int(start))
    return np.split(frames, firsts[1:])


def runs_of(frames: NDArray[np.int64], shown: Shown, keys: Keys) -> list[Run]:
    """The runs of one chunk: where whole groups of pictures lie between two chosen frames, decoding jumps over them."""
    groups = group_of_frames(frames, shown, keys)
    gaps = np.flatnonzero(np.diff(groups) > 1) + 1
    return [
        Run(int(keys_of_part[0]), part, int(shown.packet[part].max()))
        for part, keys_of_part in zip(np.split(frames, gaps), np.split(groups, gaps), strict=True)
    ]

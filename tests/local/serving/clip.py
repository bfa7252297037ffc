"""Frames of the sample clip."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np

from local.serving.backends import default_model


def sample_frames(seconds: Sequence[float], width: int, height: int) -> np.ndarray:
    """RGB frames at the given times (rising), stretched: (len(seconds), height, width, 3) uint8."""
    (path,) = default_model().parent.glob("*.mp4")
    wanted = list(seconds)
    frames = []
    with av.open(path) as clip:
        for frame in clip.decode(video=0):
            if len(frames) < len(wanted) and frame.time >= wanted[len(frames)]:
                frames.append(frame.reformat(width, height, "rgb24").to_ndarray())
    assert len(frames) == len(wanted)
    return np.stack(frames)

"""Clips with the bytes of real ones: noise, which no encoder makes small."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 25


def write_noise(
    path: Path, *, seconds: float, width: int, height: int, options: dict[str, str] | None = None,
    gop_seconds: float = 1.0, megabits: float = 4.0, grain: int = 4,
) -> None:  # fmt: skip
    """H.264 of noise in squares of `grain` pixels, at about so many megabits a second."""
    pictures = np.random.default_rng(1).integers(16, 236, (16, height // grain, width // grain), dtype=np.uint8)
    with av.open(str(path), "w", container_options=options or {}) as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = int(gop_seconds * FPS)
        stream.codec_context.bit_rate = int(megabits * 1e6)
        stream.codec_context.time_base = Fraction(1, FPS)
        for number in range(int(seconds * FPS)):
            luma = pictures[number % len(pictures)].repeat(grain, axis=0).repeat(grain, axis=1)
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            planes[:height] = luma
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

"""The clips that are measured, made once and kept in the bench's folder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SAMPLE = Path(__file__).parents[1] / "samples" / "one-by-one-person.mp4"
"""768x432, 10 frames a second, 200 frames."""
HD_FRAMES = 120
"""Frames of the 1080p scene before it is repeated: 4 s, one group of pictures, as encoders make them by default."""
HD_FPS = 30
SD_FRAMES = 200

_WIDTH, _HEIGHT = 1920, 1080
_BITS_PER_SECOND = 8_000_000
_GRAIN_LEVELS = 6.0
"""Standard deviation of the grain in the brightness, 0 to 255: what a camera shows in poor light."""
_MARGIN = 64


def hd_clip(folder: Path, frames: int, ending: str = "mp4") -> Path:
    """1080p H.264 at 8 Mbit/s: the sample's scene enlarged, panning under grain, repeated to `frames` or more."""
    scene = folder / "1080p.mp4"
    if not scene.exists():
        temporary = scene.with_suffix(".part.mp4")
        _encode_hd(temporary, HD_FRAMES)
        temporary.replace(scene)
    return repeated(scene, folder, -(-frames // HD_FRAMES), ending)


def sd_clip(folder: Path, frames: int) -> Path:
    """The sample, 432p, repeated to `frames` or more."""
    return repeated(SAMPLE, folder, -(-frames // SD_FRAMES))


def repeated(clip: Path, folder: Path, times: int, ending: str = "mp4") -> Path:
    """The same packets `times` over, in one file."""
    path = folder / f"{clip.stem}-x{times}.{ending}"
    if path.exists():
        return path
    temporary = path.with_suffix(f".part.{ending}")
    with av.open(str(clip)) as first, av.open(str(temporary), "w") as target:
        stream = target.add_stream_from_template(first.streams.video[0])
        # Without it the container shows each part's last frame for the time of two where it is rounded.
        tick = first.streams.video[0].time_base or Fraction(1)
        length = Fraction(first.streams.video[0].duration or 0) * tick
        for part in range(times):
            with av.open(str(clip)) as source:
                for packet in source.demux(video=0):
                    if packet.dts is None or packet.pts is None:
                        continue
                    offset = round(part * length / tick)
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    target.mux(packet)
    temporary.replace(path)
    return path


def _encode_hd(path: Path, frames: int) -> None:
    random = np.random.default_rng(0)
    grain = random.normal(0, _GRAIN_LEVELS, (_HEIGHT + _MARGIN, _WIDTH + _MARGIN)).round().astype(np.int16)
    with av.open(str(SAMPLE)) as sample, av.open(str(path), "w") as target:
        scene = sample.decode(video=0)
        options = {"preset": "veryfast", "bf": "2", "g": str(frames), "sc_threshold": "0"}
        stream = target.add_stream("libx264", rate=HD_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.bit_rate = _BITS_PER_SECOND
        planes: list[NDArray[np.uint8]] = []
        for number in range(frames):
            if number % 3 == 0:  # the sample has 10 frames a second
                large = next(scene).reformat(_WIDTH + 2 * _MARGIN, _HEIGHT + 2 * _MARGIN, "yuv420p")
                planes = [
                    np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]  # type: ignore[call-overload]
                    for plane in large.planes
                ]
            pan = 2 * (number % _MARGIN)
            grain_y, grain_x = random.integers(0, _MARGIN, 2)
            luma = _cut(planes[0], pan, 1) + grain[grain_y : grain_y + _HEIGHT, grain_x : grain_x + _WIDTH]
            frame = av.VideoFrame(_WIDTH, _HEIGHT, "yuv420p")
            parts = (np.clip(luma, 0, 255).astype(np.uint8), _cut(planes[1], pan, 2), _cut(planes[2], pan, 2))
            for plane, part in zip(frame.planes, parts, strict=True):
                padded = np.zeros((plane.height, plane.line_size), np.uint8)
                padded[:, : plane.width] = part
                plane.update(padded.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, HD_FPS)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def _cut(plane: NDArray[np.uint8], pan: int, subsampling: int) -> NDArray[np.uint8]:
    """The part of a plane that shows while the camera has panned by `pan` pixels to the right and half of it down."""
    left, top = pan // subsampling, pan // 2 // subsampling
    return plane[top : top + _HEIGHT // subsampling, left : left + _WIDTH // subsampling]

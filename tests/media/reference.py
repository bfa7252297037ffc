"""The truth that tests compare with: one plain decode from the first byte to the last, and the sampling rule.

Nothing here is shared with the code under test: one thread, no seeking, no skipping, no chunks.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from .picture import Luma, read_number

TOLERANCE_SECONDS = Fraction(1, 1000)
MAX_READ_ERRORS = 10_000


@dataclass(frozen=True)
class ReferenceFrame:
    """One displayed frame.

    `ordinal` counts from 0 in output order. `time_seconds` counts from the first displayed frame; in a file
    without any pts it is the ordinal over FFmpeg's rate. `number_in_picture` is read from the picture as
    displayed, and None where it shows no number. `md5_of_picture` is over the stored samples of all planes;
    `width` and `height` are the displayed ones. `corrupt` is what the decoder itself says.
    """

    ordinal: int
    pts: int | None
    time_seconds: Fraction
    number_in_picture: int | None
    md5_of_picture: str
    width: int
    height: int
    pixel_format: str
    key_frame: bool
    interlaced: bool
    corrupt: bool


def first_video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is no cover picture."""
    return next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
    """Every packet, going on after what cannot be read, and the empty one that flushes the decoder."""
    for _ in range(MAX_READ_ERRORS):
        try:
            yield from container.demux(stream)
        except av.FFmpegError:
            continue
        return


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames in output order; a packet that fails is passed over."""
    stream.codec_context.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def _planes(frame: av.VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """The bytes of the visible samples of each plane, without the padding of its rows."""
    sample_bytes = 2 if frame.format.components[0].bits > 8 else 1
    planes: tuple[Any, ...] = frame.planes  # PyAV's types leave out that a plane is a buffer
    rows = [np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size) for plane in planes]
    return [
        np.ascontiguousarray(samples[:, : plane.width * sample_bytes])
        for samples, plane in zip(rows, planes, strict=True)
    ]


def stored_luma(frame: av.VideoFrame) -> Luma:
    """The luma plane of a planar YUV frame as 8 bit."""
    bits = frame.format.components[0].bits
    luma = _planes(frame)[0]
    return luma if bits == 8 else (luma.view(np.uint16) >> (bits - 8)).astype(np.uint8)


def _displayed(stored: Luma, frame: av.VideoFrame) -> Luma:
    """A stored picture as it is to be displayed: turned and mirrored by the frame's display matrix.

    The matrix takes x, y (y down) to a x + c y, b x + d y; only quarter turns and mirrors are known here.
    """
    side_data: list[Any] = list(frame.side_data)
    matrices = [bytes(data) for data in side_data if data.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return stored
    a, b, _, c, d, *_ = struct.unpack("<9i", matrices[0])
    picture, x_sign, y_sign = (stored, a, d) if a else (stored.T, c, b)
    return picture[:: 1 if y_sign > 0 else -1, :: 1 if x_sign > 0 else -1]


def _md5(frame: av.VideoFrame) -> str:
    digest = hashlib.md5(f"{frame.format.name} {frame.width}x{frame.height}".encode(), usedforsecurity=False)
    for plane in _planes(frame):
        digest.update(plane.tobytes())
    return digest.hexdigest()


def _reference_frame(ordinal: int, frame: av.VideoFrame) -> dict[str, Any]:
    picture = _displayed(stored_luma(frame), frame)
    return {
        "ordinal": ordinal,
        "number_in_picture": read_number(picture),
        "md5_of_picture": _md5(frame),
        "width": picture.shape[1],
        "height": picture.shape[0],
        "pixel_format": frame.format.name,
        "key_frame": frame.key_frame,
        "interlaced": frame.interlaced_frame,
        "corrupt": frame.is_corrupt,
    }


def reference_frames(path: Path) -> list[ReferenceFrame]:
    """The displayed frames of a video in output order; of a broken one, those that can be decoded.

    AVI stores no times of display, and the pts that FFmpeg gives to frames of a codec that reorders them
    are those of decoding: there the n-th displayed frame has the n-th smallest.
    """
    found: list[dict[str, Any]] = []
    times: list[int | None] = []
    with av.open(str(path)) as container:
        stream = first_video_stream(container)
        for ordinal, frame in enumerate(_decode(container, stream)):
            times.append(frame.pts)
            found.append(_reference_frame(ordinal, frame))
        time_base, rate = Fraction(stream.time_base or 0), stream.average_rate
        if container.format.name == "avi":
            times.sort(key=lambda pts: -1 if pts is None else pts)
    frames = []
    for pts, fields in zip(times, found, strict=True):
        if pts is None or times[0] is None:
            time_seconds = fields["ordinal"] / Fraction(rate or 0)
        else:
            time_seconds = (pts - times[0]) * time_base
        frames.append(ReferenceFrame(pts=pts, time_seconds=time_seconds, **fields))
    return frames


def source_rate(frames: Sequence[ReferenceFrame]) -> Fraction | None:
    """Frames per second as measured, (frames - 1) / (last time - first time); None where that is undefined."""
    if len(frames) < 2 or frames[-1].time_seconds <= frames[0].time_seconds:
        return None
    return (len(frames) - 1) / (frames[-1].time_seconds - frames[0].time_seconds)


def reference_sample(
    frames: Sequence[ReferenceFrame],
    fps: Fraction,
    start_seconds: Fraction = Fraction(0),
    end_seconds: Fraction | None = None,
    max_frames: int | None = None,
) -> list[ReferenceFrame]:
    """The frames to analyse, as the rule words it: for each k, every frame is asked.

    With `fps` > 0, for k = 0, 1, 2, ... the first frame at or after start + k / fps - 1 ms and before
    end - 1 ms, each frame once. With 0, or the measured rate and above, all from start - 1 ms to before
    end - 1 ms.
    """

    def fits(frame: ReferenceFrame, due: Fraction) -> bool:
        in_time = end_seconds is None or frame.time_seconds < end_seconds - TOLERANCE_SECONDS
        return frame.time_seconds >= due - TOLERANCE_SECONDS and in_time

    own_rate = source_rate(frames)
    if fps == 0 or own_rate is None or fps >= own_rate:
        taken = [frame for frame in frames if fits(frame, start_seconds)]
    else:
        taken = []
        last = max(frame.time_seconds for frame in frames)
        k = 0
        while start_seconds + k / fps - TOLERANCE_SECONDS <= last:
            first = next((frame for frame in frames if fits(frame, start_seconds + k / fps)), None)
            if first is not None and first not in taken:
                taken.append(first)
            k += 1
    return taken if max_frames is None else taken[:max_frames]

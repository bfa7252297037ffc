"""The truth that tests compare with: one plain decode from the first byte to the last, and the sampling rule.

Nothing here is shared with the code under test: one thread, no seeking, no skipping, no chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .picture import Luma, read_number

TOLERANCE_SECONDS = Fraction(1, 1000)
MAX_ERRORS = 10_000


@dataclass(frozen=True)
class ReferenceFrame:
    """One displayed frame.

    `time_seconds` counts from the first displayed frame; without any pts it is the ordinal over the stream's
    rate. `number_in_picture` is None where the picture shows no number. `corrupt` is the decoder's own flag.
    """

    ordinal: int
    pts: int | None
    time_seconds: Fraction
    number_in_picture: int | None
    md5_of_picture: str
    width: int
    height: int
    rotation: int
    interlaced: bool
    corrupt: bool


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is no cover picture."""
    return next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
    """Every packet, going on after what cannot be read, and the empty one that flushes the decoder."""
    for _ in range(MAX_ERRORS):
        try:
            yield from container.demux(stream)
        except av.FFmpegError:
            continue
        return


def decoded_frames(path: Path) -> Iterator[av.VideoFrame]:
    """All frames that one decoding thread gives, in output order; a packet that fails is passed over."""
    with av.open(str(path)) as container:
        stream = video_stream(container)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for packet in _packets(container, stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue


def picture_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The visible samples of each plane, without the padding of its rows."""
    planes = []
    for plane in frame.planes:
        sample_bytes = 2 if frame.format.components[0].bits > 8 else 1
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        planes.append(rows[:, : plane.width * sample_bytes])
    return planes


def luma_of(frame: av.VideoFrame) -> Luma:
    """The luma plane of a planar YUV frame as 8 bit, height x width."""
    plane = picture_planes(frame)[0]
    bits = frame.format.components[0].bits
    if bits == 8:
        return plane
    return (np.ascontiguousarray(plane).view(np.uint16) >> (bits - 8)).astype(np.uint8)


def md5_of(frame: av.VideoFrame) -> str:
    digest = hashlib.md5(f"{frame.format.name} {frame.width}x{frame.height}".encode(), usedforsecurity=False)
    for plane in picture_planes(frame):
        digest.update(np.ascontiguousarray(plane))
    return digest.hexdigest()


def reference_frames(path: Path) -> list[ReferenceFrame]:
    """The displayed frames of a video in output order; of a broken one, those that can be decoded."""
    with av.open(str(path)) as container:
        stream = video_stream(container)
        time_base, rate = stream.time_base, stream.average_rate or stream.guessed_rate
    frames: list[ReferenceFrame] = []
    first_pts: int | None = None
    for ordinal, frame in enumerate(decoded_frames(path)):
        if ordinal == 0:
            first_pts = frame.pts
        if frame.pts is None or first_pts is None:
            time_seconds = ordinal / Fraction(rate)
        else:
            time_seconds = (frame.pts - first_pts) * Fraction(time_base)
        frames.append(
            ReferenceFrame(
                ordinal=ordinal,
                pts=frame.pts,
                time_seconds=time_seconds,
                number_in_picture=read_number(luma_of(frame)),
                md5_of_picture=md5_of(frame),
                width=frame.width,
                height=frame.height,
                rotation=frame.rotation,
                interlaced=frame.interlaced_frame,
                corrupt=frame.is_corrupt,
            )
        )
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
    """The frames that are to be analysed, found as the contract words it, by asking every frame for every k."""

    def before_end(frame: ReferenceFrame) -> bool:
        return end_seconds is None or frame.time_seconds < end_seconds - TOLERANCE_SECONDS

    own_rate = source_rate(frames)
    taken: list[ReferenceFrame] = []
    if fps == 0 or own_rate is None or fps >= own_rate:
        for frame in frames:
            if frame.time_seconds >= start_seconds - TOLERANCE_SECONDS and before_end(frame):
                taken.append(frame)
    else:
        last = max(frame.time_seconds for frame in frames)
        k = 0
        while (due := start_seconds + k / fps - TOLERANCE_SECONDS) <= last:
            for frame in frames:
                if frame.time_seconds >= due and before_end(frame):
                    if frame not in taken:
                        taken.append(frame)
                    break
            k += 1
    return taken if max_frames is None else taken[:max_frames]

"""Making video files whose pictures carry their frame's number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from .picture import draw_picture

SAMPLE_RATE = 48_000
AUDIO_SAMPLES = 1024


class OneWay:
    """A file that can only be written forward, as a pipe or a live stream is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)


@dataclass(frozen=True, kw_only=True)
class Video:
    """What is encoded: which pictures, at which times, by which encoder.

    `pts` are ticks of `time_base` (by default 1 / `fps`, counted from 0), one for each of `numbers`.
    """

    encoder: str
    numbers: Sequence[int]
    fps: Fraction = Fraction(30)
    width: int = 320
    height: int = 180
    pixel_format: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    pts: Sequence[int] | None = None
    time_base: Fraction | None = None
    interlaced: bool = False
    rotation: int | None = None
    hflip: bool = False

    def frames(self) -> Iterable[av.VideoFrame]:
        time_base = self.time_base or 1 / self.fps
        for index, number in enumerate(self.numbers):
            frame = picture_frame(number, self.width, self.height, self.pixel_format, interlaced=self.interlaced)
            frame.pts = index if self.pts is None else self.pts[index]
            frame.time_base = time_base
            yield frame


def picture_frame(number: int, width: int, height: int, pixel_format: str, *, interlaced: bool = False) -> av.VideoFrame:
    """A frame in one of FFmpeg's planar YUV formats, 8 or 10 bit, with neutral chroma."""
    frame = av.VideoFrame(width, height, pixel_format)
    deep = "10" in pixel_format
    luma = draw_picture(number, width, height, interlaced=interlaced)
    for index, plane in enumerate(frame.planes):
        dtype = np.uint16 if deep else np.uint8
        buffer = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        if index == 0:
            buffer[:, :width] = luma.astype(dtype) << (2 if deep else 0)
        else:
            buffer[:] = 512 if deep else 128
    return frame


def _add_video(container: Any, video: Video) -> Any:
    stream = container.add_stream(video.encoder, rate=video.fps, options=dict(video.options))
    stream.width, stream.height, stream.pix_fmt = video.width, video.height, video.pixel_format
    stream.codec_context.time_base = video.time_base or 1 / video.fps
    stream.codec_context.thread_count = 1
    if video.rotation is not None:
        stream.set_display_rotation(video.rotation, hflip=video.hflip)
    return stream


def _tone(first_sample: int) -> av.AudioFrame:
    phase = (np.arange(AUDIO_SAMPLES) + first_sample) * (2 * np.pi * 440 / SAMPLE_RATE)
    samples = (0.2 * np.sin(phase)).astype(np.float32)[None, :]
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    frame.pts, frame.time_base = first_sample, Fraction(1, SAMPLE_RATE)
    return frame


def write_video(
    path: Path,
    *videos: Video,
    muxer: str | None = None,
    options: Mapping[str, str] | None = None,
    audio: str | None = None,
    one_way: bool = False,
) -> None:
    """Encodes `videos` (a stream each, interleaved by time), with a tone of encoder `audio` beside them."""
    with path.open("wb") as file:
        target: Any = OneWay(file) if one_way else str(path)
        with av.open(target, "w", format=muxer, container_options=dict(options or {})) as container:
            pairs = [(_add_video(container, video), iter(video.frames())) for video in videos]
            sound = container.add_stream(audio, rate=SAMPLE_RATE, layout="mono") if audio else None
            waiting = [[next(frames, None), stream, frames] for stream, frames in pairs]
            sample = 0
            while any(frame is not None for frame, *_ in waiting):
                entry = min((e for e in waiting if e[0] is not None), key=lambda e: e[0].pts * e[0].time_base)
                frame, stream, frames = entry
                while sound is not None and Fraction(sample, SAMPLE_RATE) <= frame.pts * frame.time_base:
                    container.mux(sound.encode(_tone(sample)))
                    sample += AUDIO_SAMPLES
                container.mux(stream.encode(frame))
                entry[0] = next(frames, None)
            for stream in [*(stream for stream, _ in pairs), *([sound] if sound else [])]:
                container.mux(stream.encode(None))


def write_audio(path: Path, encoder: str, seconds: int, muxer: str | None = None) -> None:
    """A tone without any picture."""
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(encoder, rate=SAMPLE_RATE, layout="mono")
        for first in range(0, seconds * SAMPLE_RATE, AUDIO_SAMPLES):
            container.mux(stream.encode(_tone(first)))
        container.mux(stream.encode(None))


def remux(
    source: Path,
    path: Path,
    *,
    muxer: str | None = None,
    options: Mapping[str, str] | None = None,
    shift_seconds: Fraction = Fraction(0),
    one_way: bool = False,
    keep: Callable[[int], bool] = lambda _: True,
) -> None:
    """The streams of `source` in another container, undecoded; `keep` picks among its packets by index."""
    with av.open(str(source)) as opened, path.open("wb") as file:
        target: Any = OneWay(file) if one_way else str(path)
        with av.open(target, "w", format=muxer, container_options=dict(options or {})) as container:
            streams = {stream.index: container.add_stream_from_template(stream) for stream in opened.streams}
            for index, packet in enumerate(opened.demux()):
                if packet.dts is None and packet.size == 0 or not keep(index):
                    continue
                shift = int(shift_seconds / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
                packet.stream = streams[packet.stream_index]
                container.mux(packet)

"""Making video files whose pictures carry their frame's number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np

from .picture import Luma, draw_picture

os.environ.setdefault("SVT_LOG", "1")  # errors only: the AV1 encoder writes its settings to stderr by itself

SAMPLE_RATE = 48_000
AUDIO_SAMPLES = 1024
NEUTRAL_CHROMA = 128


class OneWay:
    """A file that can only be written forward, as a pipe or a live stream is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)


@dataclass(frozen=True, kw_only=True)
class Video:
    """What is encoded: which numbers, at which times, by which encoder.

    `pts` are ticks of `time_base`, one for each number; by default 0, 1, 2... in frames. `width` and
    `height` are those of the displayed picture, which is the stored one turned by `rotation` degrees
    counter-clockwise (0, 90, 180, 270; None writes no rotation) and mirrored left to right if `hflip`.
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

    @property
    def ticks(self) -> Fraction:
        return self.time_base or 1 / self.fps

    def frames(self) -> Iterator[av.VideoFrame]:
        for index, number in enumerate(self.numbers):
            luma = draw_picture(number, self.width, self.height, interlaced=self.interlaced)
            luma = np.rot90(luma, -(self.rotation or 0) // 90)
            frame = frame_of(luma[:, ::-1] if self.hflip else luma, self.pixel_format)
            frame.pts = index if self.pts is None else self.pts[index]
            frame.time_base = self.ticks
            yield frame


def frame_of(luma: Luma, pixel_format: str) -> av.VideoFrame:
    """A grey frame in one of FFmpeg's planar YUV formats, 8 or 10 bit."""
    height, width = luma.shape
    frame = av.VideoFrame(width, height, pixel_format)
    extra_bits = frame.format.components[0].bits - 8
    dtype: Any = np.uint16 if extra_bits else np.uint8
    planes: tuple[Any, ...] = frame.planes  # PyAV's types leave out that a plane is a buffer
    for index, plane in enumerate(planes):
        samples = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        if index == 0:
            samples[:, :width] = luma.astype(dtype) << extra_bits
        else:
            samples[:] = NEUTRAL_CHROMA << extra_bits
    return frame


def encode_picture(encoder: str, pixel_format: str, *, number: int, width: int = 320, height: int = 180) -> bytes:
    """One picture on its own, as an image file of `encoder` holds it."""
    context: Any = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, pixel_format, Fraction(1, 25)
    frame = frame_of(draw_picture(number, width, height), "yuv420p").reformat(format=pixel_format)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def _add_video(container: Any, video: Video) -> Any:
    stream = container.add_stream(video.encoder, rate=video.fps, options=dict(video.options))
    turned = video.rotation in (90, 270)
    stream.width = video.height if turned else video.width
    stream.height = video.width if turned else video.height
    stream.pix_fmt = video.pixel_format
    stream.codec_context.time_base = video.ticks
    stream.codec_context.thread_count = 1  # the same bytes on every machine
    if video.rotation is not None:
        stream.set_display_rotation(video.rotation, hflip=video.hflip)
    return stream


def _tone(first_sample: int) -> av.AudioFrame:
    phase = (np.arange(AUDIO_SAMPLES) + first_sample) * (2 * np.pi * 440 / SAMPLE_RATE)
    frame = av.AudioFrame.from_ndarray((0.2 * np.sin(phase)).astype(np.float32)[None, :], format="fltp", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    frame.pts, frame.time_base = first_sample, Fraction(1, SAMPLE_RATE)
    return frame


def write_video(
    path: Path,
    *videos: Video,
    muxer: str | None = None,
    options: Mapping[str, str] | None = None,
    audio: str | None = None,
) -> None:
    """Encodes `videos`, a stream each, with a tone of encoder `audio` interleaved; the muxer by the name's end."""
    with av.open(str(path), "w", format=muxer, container_options=dict(options or {})) as container:
        streams = [_add_video(container, video) for video in videos]
        sound: Any = container.add_stream(audio, rate=SAMPLE_RATE, layout="mono") if audio else None
        sample = 0
        for frames in zip(*(video.frames() for video in videos), strict=True):
            while sound is not None and Fraction(sample, SAMPLE_RATE) <= frames[0].pts * frames[0].time_base:
                container.mux(sound.encode(_tone(sample)))
                sample += AUDIO_SAMPLES
            for stream, frame in zip(streams, frames, strict=True):
                container.mux(stream.encode(frame))
        for stream in [*streams, *([sound] if sound else [])]:
            container.mux(stream.encode(None))


def write_audio(path: Path, encoder: str, seconds: int) -> None:
    """A tone without any picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=SAMPLE_RATE, layout="mono")
        for first in range(0, seconds * SAMPLE_RATE, AUDIO_SAMPLES):
            container.mux(stream.encode(_tone(first)))
        container.mux(stream.encode(None))


def packets_of(stream: av.VideoStream) -> Iterator[av.Packet[av.VideoStream]]:
    """The packets of a stream in the order of the file, without the empty one at the end."""
    container = cast(av.container.InputContainer, stream.container)
    return (packet for packet in container.demux(stream) if packet.size)


def packet_positions(path: Path) -> list[int]:
    """Where in the file the packets of its first video stream lie, in the order of the file."""
    with av.open(str(path)) as container:
        return [packet.pos for packet in packets_of(container.streams.video[0]) if packet.pos is not None]


def patch_packets(source: Path, path: Path, patches: Mapping[int, Callable[[bytes], bytes]]) -> None:
    """The file `source` with some packets of its first video stream replaced by others of the same size."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for index, packet in enumerate(packets_of(container.streams.video[0])):
            if index in patches:
                payload = bytes(packet)
                at = data.index(payload, packet.pos)
                data[at : at + len(payload)] = patches[index](payload)
    path.write_bytes(data)


def remux(
    source: Path,
    path: Path,
    *,
    muxer: str | None = None,
    options: Mapping[str, str] | None = None,
    source_options: Mapping[str, str] | None = None,
    shift_seconds: Fraction = Fraction(0),
    one_way: bool = False,
    with_packets: bool = True,
) -> None:
    """The first video stream of `source`, undecoded, in another container, later by `shift_seconds`.

    With `one_way` the muxer cannot go back to fill in what it learns late, such as the duration.
    """
    with av.open(str(source), options=dict(source_options or {})) as opened, path.open("wb") as file:
        target: Any = OneWay(file) if one_way else str(path)
        with av.open(target, "w", format=muxer, container_options=dict(options or {})) as container:
            stream = container.add_stream_from_template(opened.streams.video[0])
            container.start_encoding()
            for packet in packets_of(opened.streams.video[0]) if with_packets else ():
                shift = int(shift_seconds / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + shift
                packet.dts = None if packet.dts is None else packet.dts + shift
                packet.stream = stream
                container.mux(packet)

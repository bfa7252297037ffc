"""Clips that differ in how the pictures are coded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

from .library import ClipLibrary, Make, Shape
from .patches import hide_mpeg4_picture, hide_vp8_picture
from .writer import Video, patch_packets, remux, write_video

FRAMES = range(301)
FEW_FRAMES = range(90)
PAL = Fraction(25)
NTSC = Fraction(30_000, 1001)

CLOSED_GOP = "keyint=30:min-keyint=30:scenecut=0:bframes=2:open-gop=0"
NO_B_FRAMES = "keyint=30:min-keyint=30:scenecut=0:bframes=0"
OPEN_GOP = "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:b-pyramid=normal:open-gop=1:ref=4"
LONG_GOP = "keyint=250:min-keyint=250:scenecut=0:bframes=2"
INTRA_REFRESH = "keyint=40:min-keyint=40:scenecut=0:intra-refresh=1:bframes=0:ref=1"
HEVC_CLOSED_GOP = "keyint=30:min-keyint=30:scenecut=0:bframes=3:open-gop=0"
HEVC_OPEN_GOP = "keyint=30:min-keyint=30:scenecut=0:bframes=3:open-gop=1"

MPEG2 = {"g": "15", "bf": "2", "b": "1M"}
INTERLACED_MPEG2 = {**MPEG2, "flags": "+ildct+ilme"}
# In one pass libvpx takes alternate reference frames only in real time at a variable bit rate.
VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "25", "auto-alt-ref": "1", "g": "60", "b": "300k"}
VP9 |= {"minrate": "0", "maxrate": "900k"}
VP8 = {"deadline": "realtime", "cpu-used": "5", "g": "60", "b": "300k"}
# Temporal filtering and the fastest presets blur the number away in frames of the upper layers.
AV1 = {"preset": "8", "crf": "20", "g": "50", "svtav1-params": "enable-tf=0"}
VPX_FRAMES = range(200)
AV1_FRAMES = range(150)
VP8_HIDDEN = range(16, 200, 20)
MPEG4_NOT_CODED = range(24, 301, 25)
"""Each the last frame before a keyframe, so that no other frame refers to it."""


def x264(parameters: str) -> dict[str, str]:
    return {"preset": "veryfast", "x264-params": f"{parameters}:threads=1"}


def x265(parameters: str) -> dict[str, str]:
    return {"preset": "ultrafast", "x265-params": f"{parameters}:log-level=none:pools=none:frame-threads=1"}


h264 = partial(Video, encoder="libx264", numbers=FRAMES, options=x264(CLOSED_GOP))
hevc = partial(Video, encoder="libx265", numbers=FRAMES, options=x265(HEVC_CLOSED_GOP))
mpeg2 = partial(Video, encoder="mpeg2video", numbers=FRAMES, fps=PAL, options=MPEG2)
mpeg4 = partial(Video, encoder="mpeg4", numbers=FRAMES, fps=PAL)
mjpeg = partial(Video, encoder="mjpeg", numbers=range(100), fps=PAL, pixel_format="yuvj420p")


def encoded(
    container: str,
    codec: str,
    video: Video,
    notes: str,
    *,
    muxer: str | None = None,
    options: Mapping[str, str] | None = None,
    audio: str | None = None,
    numbers: Sequence[int] | None = None,
    times: Sequence[Fraction] | None = None,
) -> Shape:
    """A clip as the encoder and the muxer make it."""

    def make(_: ClipLibrary, path: Path) -> None:
        write_video(path, video, muxer=muxer, options=options, audio=audio)

    shown = video.numbers if numbers is None else numbers
    return Shape(make=make, container=container, codec=codec, numbers=shown, fps=video.fps, notes=notes, times=times)


def remuxed(source: str, muxer: str | None = None, options: Mapping[str, str] | None = None) -> Make:
    return lambda clips, path: remux(clips.path(source), path, muxer=muxer, options=options)


def _hidden_vp8(clips: ClipLibrary, path: Path) -> None:
    patch_packets(clips.path("vp8.webm"), path, dict.fromkeys(VP8_HIDDEN, hide_vp8_picture))


def _not_coded_mpeg4(clips: ClipLibrary, path: Path) -> None:
    patch_packets(clips.path("mpeg4.avi"), path, dict.fromkeys(MPEG4_NOT_CODED, hide_mpeg4_picture))


CODEC_SHAPES: dict[str, Shape] = {
    "h264_closed_gop.mp4": encoded("mov", "h264", h264(), "a keyframe a second, B-frames within"),
    "h264_open_gop.mp4": encoded(
        "mov", "h264", h264(options=x264(OPEN_GOP)), "B-frames before a keyframe in time and after it in the file"
    ),
    "h264_open_gop.ts": encoded("mpegts", "h264", h264(options=x264(OPEN_GOP)), "the same in a transport stream"),
    "h264_long_gop.mp4": encoded("mov", "h264", h264(options=x264(LONG_GOP)), "two keyframes in all"),
    "h264_intra_refresh.mp4": encoded(
        "mov", "h264", h264(options=x264(INTRA_REFRESH)), "after the first no keyframes, only recovery points"
    ),
    "h264_intra_refresh.ts": encoded(
        "mpegts", "h264", h264(options=x264(INTRA_REFRESH)), "the same in a transport stream"
    ),
    "h264_interlaced.mp4": encoded(
        "mov", "h264", h264(fps=PAL, interlaced=True, options=x264(CLOSED_GOP + ":tff=1")), "MBAFF, top field first"
    ),
    "h264_odd_size.mp4": encoded(
        "mov", "h264", h264(numbers=FEW_FRAMES, width=179, height=101, pixel_format="yuv444p"), "4:4:4, odd both ways"
    ),
    "h264_one_frame.mp4": encoded("mov", "h264", h264(numbers=[4711]), "a video of one frame, with no rate of its own"),
    "hevc_closed_gop.mp4": encoded("mov", "hevc", hevc(), "8 bit"),
    "hevc_10_bit.mp4": encoded("mov", "hevc", hevc(pixel_format="yuv420p10le"), "10 bit"),
    "hevc_open_gop.mp4": encoded(
        "mov", "hevc", hevc(options=x265(HEVC_OPEN_GOP)), "CRA pictures, with leading pictures that refer back"
    ),
    "hevc_open_gop.ts": encoded("mpegts", "hevc", hevc(options=x265(HEVC_OPEN_GOP)), "the same in a transport stream"),
    "vp9.webm": encoded(
        "matroska", "vp9", Video(encoder="libvpx-vp9", numbers=VPX_FRAMES, options=VP9), "alt-refs in superframes"
    ),
    "vp9_odd_size.webm": encoded(
        "matroska",
        "vp9",
        Video(encoder="libvpx-vp9", numbers=FEW_FRAMES, width=179, height=101, options=VP9),
        "4:2:0, odd both ways",
    ),
    "vp8.webm": encoded(
        "matroska", "vp8", Video(encoder="libvpx", numbers=VPX_FRAMES, options=VP8), "every packet shows a frame"
    ),
    "vp8_alt_ref.webm": Shape(
        make=_hidden_vp8,
        container="matroska",
        codec="vp8",
        numbers=[number for number in VPX_FRAMES if number not in VP8_HIDDEN],
        times=[Fraction(number, 30) for number in VPX_FRAMES if number not in VP8_HIDDEN],
        fps=Fraction(30),
        notes="packets of their own that show no frame, as alternate reference frames are",
    ),
    "av1.mp4": encoded(
        "mov", "av1", Video(encoder="libsvtav1", numbers=AV1_FRAMES, options=AV1), "a keyframe each 50 frames"
    ),
    "av1.mkv": encoded(
        "matroska", "av1", Video(encoder="libsvtav1", numbers=AV1_FRAMES, options=AV1), "a keyframe each 50 frames"
    ),
    "mpeg2_open_gop.ts": encoded("mpegts", "mpeg2video", mpeg2(), "open GOP with B-frames"),
    "mpeg2_program_stream.mpg": encoded("mpeg", "mpeg2video", mpeg2(), "open GOP, program stream", muxer="vob"),
    "mpeg2_interlaced.ts": encoded(
        "mpegts", "mpeg2video", mpeg2(interlaced=True, options=INTERLACED_MPEG2), "interlaced DCT and motion"
    ),
    "mpeg4.avi": encoded("avi", "mpeg4", mpeg4(options={"g": "25", "b": "400k"}), "no B-frames"),
    "mpeg4_b_frames.avi": encoded("avi", "mpeg4", mpeg4(options={"g": "25", "bf": "2", "b": "400k"}), "with B-frames"),
    "mpeg4_not_coded.avi": Shape(
        make=_not_coded_mpeg4,
        container="avi",
        codec="mpeg4",
        numbers=[number for number in FRAMES if number not in MPEG4_NOT_CODED],
        times=[number / PAL for number in FRAMES if number not in MPEG4_NOT_CODED],
        fps=PAL,
        notes="packets whose picture is 'not coded': they show nothing new, and the decoder gives no frame",
    ),
    "mjpeg.avi": encoded("avi", "mjpeg", mjpeg(), "keyframes only"),
    "mjpeg_odd_size.avi": encoded("avi", "mjpeg", mjpeg(width=179, height=101), "4:2:0, odd both ways"),
    "h264.avi": encoded("avi", "h264", h264(fps=PAL, options=x264(NO_B_FRAMES)), "no B-frames"),
    "h264_b_frames.avi": encoded(
        "avi", "h264", h264(fps=PAL), "AVI holds decoding times only: packets' pts are not those of display"
    ),
}
"""By file name. The containers and codecs are FFmpeg's names."""

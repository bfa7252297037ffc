"""Clips that differ in the container, in their times, and in what lies beside the pictures."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from .codec_clips import FRAMES, NTSC, PAL, VPX_FRAMES, encoded, h264, mpeg2, remuxed
from .library import ClipLibrary, Shape
from .patches import edit_list, edit_moov, forget_cluster_sizes, replace_box
from .writer import encode_picture, packets_of, remux, write_video

DAY_AND_2_HOURS = Fraction(26 * 3600)
TS_WRAP = Fraction(1 << 33, 90_000)
"""Seconds after which the 33-bit clock of a transport stream starts again."""

VARIABLE_TIME_BASE = Fraction(1, 15_000)
MOVIE_TICKS = 1000
MEDIA_TICKS = 15_360
B_FRAME_DELAY = 1024
"""Media time of the first displayed frame of the H.264 clips in MOV, in ticks: two frames."""

CUT_FRAMES = 75


def _variable_times() -> list[int]:
    """Irregular steps between 20 ms and 2.7 s, in ticks of 1/15,000 s, the same at each call."""
    choices = [300, 450, 900, 1500, 3000, 9000, 40_000]
    steps = np.random.default_rng(7).choice(choices, 200, p=[0.1, 0.1, 0.2, 0.2, 0.25, 0.1, 0.05])
    return [0, *(int(tick) for tick in np.cumsum(steps))]


VARIABLE_TIMES = _variable_times()
VARIABLE_SECONDS = [tick * VARIABLE_TIME_BASE for tick in VARIABLE_TIMES]

mov_h264 = partial(Shape, container="mov", codec="h264", numbers=FRAMES, fps=Fraction(30))
ts_h264 = partial(Shape, container="mpegts", codec="h264", numbers=FRAMES, fps=Fraction(30))


def _with_edits(entries: list[tuple[int, int]], clips: ClipLibrary, path: Path) -> None:
    """The closed-GOP clip with the edit list `entries`."""
    data = clips.path("h264_moov_at_end.mov").read_bytes()
    edit = partial(replace_box, kinds=(b"trak", b"edts"), box=edit_list(entries))
    path.write_bytes(edit_moov(data, edit))


def _frame_at(number: int) -> int:
    return B_FRAME_DELAY + number * MEDIA_TICKS // 30


def _two_videos(_: ClipLibrary, path: Path) -> None:
    write_video(path, h264(), h264(numbers=range(1000, 1301), width=160, height=90))


def _cover_picture(clips: ClipLibrary, path: Path) -> None:
    with av.open(str(clips.path("h264_closed_gop.mp4"))) as source, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        cover = container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.start_encoding()
        picture = av.Packet(encode_picture("mjpeg", "yuvj420p", number=9999, width=64, height=64))
        picture.stream, picture.pts, picture.dts, picture.is_keyframe = cover, 0, 0, True
        container.mux(picture)
        for packet in packets_of(source.streams.video[0]):
            packet.stream = video
            container.mux(packet)


def _live(clips: ClipLibrary, path: Path) -> None:
    remux(clips.path("vp9.webm"), path, muxer="webm", options={"live": "1"}, one_way=True)
    path.write_bytes(forget_cluster_sizes(path.read_bytes()))


def _concatenated(clips: ClipLibrary, path: Path) -> None:
    path.write_bytes(clips.path("h264_closed_gop.ts").read_bytes() * 2)


CONTAINER_SHAPES: dict[str, Shape] = {
    "h264_moov_at_end.mov": mov_h264(
        make=remuxed("h264_closed_gop.mp4", "mov"), notes="QuickTime with its index at the end"
    ),
    "h264_faststart.mov": mov_h264(
        make=remuxed("h264_closed_gop.mp4", "mov", {"movflags": "faststart"}), notes="QuickTime with its index in front"
    ),
    "h264_fragmented.mp4": mov_h264(
        make=remuxed("h264_closed_gop.mp4", "mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        notes="a fragment for each GOP and no index over them all",
    ),
    "h264_closed_gop.ts": encoded("mpegts", "h264", h264(), "transport stream"),
    "h264_interlaced.ts": Shape(
        make=remuxed("h264_interlaced.mp4"),
        container="mpegts",
        codec="h264",
        numbers=FRAMES,
        fps=PAL,
        notes="MBAFF in a transport stream",
    ),
    "h264_ntsc.mkv": encoded("matroska", "h264", h264(fps=NTSC), "30000/1001 a second, times rounded to milliseconds"),
    "h264_no_duration.mkv": Shape(
        make=lambda clips, path: remux(clips.path("h264_closed_gop.mp4"), path, muxer="matroska", one_way=True),
        container="matroska",
        codec="h264",
        numbers=FRAMES,
        fps=Fraction(30),
        notes="written to a pipe: no duration, no index",
    ),
    "vp9_live.webm": Shape(
        make=_live,
        container="matroska",
        codec="vp9",
        numbers=VPX_FRAMES,
        fps=Fraction(30),
        notes="no duration, no index, clusters of unknown size",
    ),
    "h264_raw.h264": Shape(
        make=remuxed("h264.avi", "h264"),
        container="h264",
        codec="h264",
        numbers=FRAMES,
        fps=PAL,
        notes="no container and no times at all; 25 frames a second is what FFmpeg takes",
    ),
    "h264_variable_rate.mp4": encoded(
        "mov",
        "h264",
        h264(numbers=range(201), pts=VARIABLE_TIMES, time_base=VARIABLE_TIME_BASE),
        "irregular steps from 20 ms to 2.7 s",
        options={"video_track_timescale": "15000"},
        times=VARIABLE_SECONDS,
    ),
    "h264_variable_rate.mkv": Shape(
        make=remuxed("h264_variable_rate.mp4"),
        container="matroska",
        codec="h264",
        numbers=range(201),
        fps=Fraction(30),
        times=VARIABLE_SECONDS,
        notes="the same, rounded to milliseconds",
    ),
    "h264_edit_list.mp4": encoded(
        "mov",
        "h264",
        h264(pts=range(-CUT_FRAMES, 301 - CUT_FRAMES)),
        "an edit list that starts in mid-GOP: 75 frames are in the file and not displayed",
        numbers=range(CUT_FRAMES, 301),
    ),
    "h264_edit_list_end.mov": Shape(
        make=partial(_with_edits, [(5 * MOVIE_TICKS, _frame_at(0))]),
        container="mov",
        codec="h264",
        numbers=range(150),
        fps=Fraction(30),
        notes="an edit list that ends after 5 of 10 seconds",
    ),
    "h264_edit_list_two_parts.mov": Shape(
        make=partial(_with_edits, [(3 * MOVIE_TICKS, _frame_at(75)), (3 * MOVIE_TICKS, _frame_at(195))]),
        container="mov",
        codec="h264",
        numbers=[*range(75, 165), *range(195, 285)],
        fps=Fraction(30),
        notes="two parts, each from mid-GOP: discarded packets share their pts with kept ones",
    ),
    "h264_delayed.mp4": encoded("mov", "h264", h264(pts=range(60, 361)), "an empty edit: starts 2 s into the movie"),
    **{
        f"h264_rotation_{rotation}.mp4": encoded(
            "mov",
            "h264",
            h264(numbers=range(60), rotation=rotation),
            f"displayed turned {rotation} degrees counter-clockwise; upright as displayed",
        )
        for rotation in (90, 180, 270)
    },
    "h264_mirrored.mp4": encoded(
        "mov", "h264", h264(numbers=range(60), rotation=0, hflip=True), "displayed mirrored left to right"
    ),
    "h264_late_start.ts": ts_h264(
        make=lambda clips, path: remux(clips.path("h264_closed_gop.ts"), path, shift_seconds=DAY_AND_2_HOURS),
        notes="starts at 26 hours",
    ),
    "h264_wrapping.ts": ts_h264(
        make=lambda clips, path: remux(clips.path("h264_open_gop.ts"), path, shift_seconds=TS_WRAP - 6),
        notes="the clock starts again from 0 after 6 s",
    ),
    "h264_wrapping_late.ts": encoded(
        "mpegts",
        "h264",
        h264(numbers=range(160), fps=Fraction(2), pts=[int(2 * TS_WRAP) - 140 + index for index in range(160)]),
        "the clock starts again after 70 s: FFmpeg corrects a wrap within a minute of the start in another way",
    ),
    "h264_concatenated.ts": Shape(
        make=_concatenated,
        container="mpegts",
        codec="h264",
        numbers=[*FRAMES, *FRAMES],
        fps=Fraction(30),
        times=[Fraction(number, 30) for number in FRAMES] * 2,
        notes="two recordings in one file: the times jump back and repeat",
    ),
    "h264_with_audio.mp4": encoded("mov", "h264", h264(), "interleaved with AAC", audio="aac"),
    "mpeg2_with_audio.ts": encoded("mpegts", "mpeg2video", mpeg2(), "interleaved with MPEG audio", audio="mp2"),
    "h264_two_videos.mp4": mov_h264(make=_two_videos, notes="a second, smaller video track with numbers from 1,000"),
    "h264_cover_picture.mp4": mov_h264(make=_cover_picture, notes="a second video stream that is a cover picture"),
}
"""By file name. The containers and codecs are FFmpeg's names."""

"""The catalogue of clips: every shape of video that has to come out exact, by name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from .patches import Box, TS_PACKET, damage, edit_list, edit_moov
from .writer import Video, remux, write_video

NTSC = Fraction(30_000, 1001)
Make = Callable[["ClipLibrary", Path], None]


@dataclass(frozen=True)
class Shape:
    """How one clip is made and what it shows.

    `numbers` are those of the displayed frames in order. Where something is broken, frames whose number
    lies in `fragile` may be missing or unreadable; all others must be there.
    """

    make: Make
    container: str
    codec: str
    numbers: Sequence[int]
    fps: Fraction
    notes: str
    fragile: range = range(0)


@dataclass(frozen=True)
class Clip:
    name: str
    path: Path
    shape: Shape


class ClipLibrary:
    """Clips by name, each made when first asked for and kept in `folder`, which processes may share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, name: str) -> Clip:
        shape = SHAPES[name]
        path = self._folder / name
        if not path.exists():
            with (self._folder / f"{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    unfinished = self._folder / f"{os.getpid()}.tmp.{name}"
                    shape.make(self, unfinished)
                    unfinished.rename(path)
        return Clip(name, path, shape)

    def path(self, name: str) -> Path:
        return self[name].path

SHAPES: dict[str, Shape] = {}


def _add(name, make, codec, numbers, fps, notes, fragile=range(0)):
    container = {"mp4": "mov", "mov": "mov", "mkv": "matroska", "webm": "matroska", "ts": "mpegts", "mpg": "mpeg", "avi": "avi", "h264": "h264"}[name.rpartition(".")[2]]
    SHAPES[name] = Shape(make, container, codec, numbers, Fraction(fps), notes, fragile)


def _encode(video, **kw):
    return lambda library, path: write_video(path, video, **kw)

def _remux(source, **kw):
    return lambda library, path: remux(library.path(source), path, **kw)

def _patch(source, f):
    return lambda library, path: path.write_bytes(f(library.path(source).read_bytes()))


def x264(params, **kw):
    return {"preset": "veryfast", "x264-params": params+":threads=1", **kw}

def x265(params, **kw):
    return {"preset": "ultrafast", "x265-params": params+":log-level=none:pools=none:frame-threads=1", **kw}

N = range(301)
CLOSED = "keyint=30:min-keyint=30:scenecut=0:bframes=2:open-gop=0"
OPEN = "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:b-pyramid=normal:open-gop=1:ref=4"
LONG = "keyint=250:min-keyint=250:scenecut=0:bframes=2"
REFRESH = "keyint=40:min-keyint=40:scenecut=0:intra-refresh=1:bframes=0:ref=1"

def V(e, numbers=N, **k):
    return Video(encoder=e, numbers=numbers, **k)

_add("h264_closed_gop.mp4", _encode(V("libx264", options=x264(CLOSED))), "h264", N, 30, "")
_add("h264_moov_at_end.mov", _remux("h264_closed_gop.mp4", muxer="mov"), "h264", N, 30, "")
_add("h264_faststart.mov", _remux("h264_closed_gop.mp4", muxer="mov", options={"movflags": "faststart"}), "h264", N, 30, "")
_add("h264_open_gop.mp4", _encode(V("libx264", options=x264(OPEN))), "h264", N, 30, "")
_add("h264_open_gop.ts", _encode(V("libx264", options=x264(OPEN))), "h264", N, 30, "")
_add("h264_closed_gop.ts", _encode(V("libx264", options=x264(CLOSED))), "h264", N, 30, "")
_add("h264_long_gop.mp4", _encode(V("libx264", options=x264(LONG))), "h264", N, 30, "")
_add("h264_intra_refresh.mp4", _encode(V("libx264", options=x264(REFRESH))), "h264", N, 30, "")
_add("h264_intra_refresh_b.mp4", _encode(V("libx264", options=x264(REFRESH.replace("bframes=0","bframes=2")))), "h264", N, 30, "")
_add("h264_intra_refresh.ts", _encode(V("libx264", options=x264(REFRESH))), "h264", N, 30, "")
_add("hevc.mp4", _encode(V("libx265", options=x265("keyint=30:min-keyint=30:scenecut=0:bframes=3:open-gop=0"))), "hevc", N, 30, "")
_add("hevc_10_bit.mp4", _encode(V("libx265", pixel_format="yuv420p10le", options=x265("keyint=30:min-keyint=30:scenecut=0:bframes=3:open-gop=0"))), "hevc", N, 30, "")
_add("hevc_open_gop.mp4", _encode(V("libx265", options=x265("keyint=30:min-keyint=30:scenecut=0:bframes=3:open-gop=1"))), "hevc", N, 30, "")
_add("hevc_open_gop.ts", _encode(V("libx265", options=x265("keyint=30:min-keyint=30:scenecut=0:bframes=3:open-gop=1"))), "hevc", N, 30, "")
N9 = range(200)
VPX = {"deadline": "good", "cpu-used": "5", "lag-in-frames": "20", "auto-alt-ref": "1", "g": "50", "b": "300k"}
_add("vp9.webm", _encode(V("libvpx-vp9", N9, options=VPX)), "vp9", N9, 30, "")
_add("vp8.webm", _encode(V("libvpx", N9, options=VPX)), "vp8", N9, 30, "")
AV1 = {"preset": "11", "g": "50", "crf": "30", "svtav1-params": "enable-tf=0"}
_add("av1.mp4", _encode(V("libsvtav1", N9, options=AV1)), "av1", N9, 30, "")
_add("av1.mkv", _encode(V("libsvtav1", N9, options=AV1)), "av1", N9, 30, "")
M2 = {"g": "15", "bf": "2", "b": "1M"}
_add("mpeg2_open_gop.ts", _encode(V("mpeg2video", fps=Fraction(25), options=M2)), "mpeg2video", N, 25, "")
_add("mpeg2_program_stream.mpg", _encode(V("mpeg2video", fps=Fraction(25), options=M2), muxer="vob"), "mpeg2video", N, 25, "")
_add("mpeg4_b_frames.avi", _encode(V("mpeg4", fps=Fraction(25), options={"g": "25", "bf": "2"})), "mpeg4", N, 25, "")
_add("mpeg4.avi", _encode(V("mpeg4", fps=Fraction(25), options={"g": "25", "bf": "0"})), "mpeg4", N, 25, "")
_add("mjpeg.avi", _encode(V("mjpeg", range(100), pixel_format="yuvj420p", fps=Fraction(25))), "mjpeg", range(100), 25, "")
_add("h264.avi", _encode(V("libx264", fps=Fraction(25), options=x264(CLOSED.replace("bframes=2","bframes=0")))), "h264", N, 25, "")
_add("h264_b_frames.avi", _encode(V("libx264", fps=Fraction(25), options=x264(CLOSED))), "h264", N, 25, "")
_add("h264_ntsc.mkv", _encode(V("libx264", fps=NTSC, options=x264(CLOSED))), "h264", N, NTSC, "")
def vfr():
    rng = np.random.default_rng(7)
    steps = rng.choice([300, 450, 900, 1500, 3000, 9000, 40000], 200, p=[.1,.1,.2,.2,.25,.1,.05])
    return [0, *(int(x) for x in np.cumsum(steps))]
_add("h264_variable_rate.mp4", _encode(V("libx264", range(201), pts=vfr(), time_base=Fraction(1,15000), options=x264(CLOSED)), options={"video_track_timescale": "15000"}), "h264", range(201), 30, "")
_add("h264_variable_rate.mkv", _remux("h264_variable_rate.mp4"), "h264", range(201), 30, "")
_add("h264_edit_list.mp4", _encode(V("libx264", pts=range(-75, 226), options=x264(CLOSED))), "h264", range(75, 301), 30, "")
_add("h264_delayed.mp4", _encode(V("libx264", pts=range(60, 361), options=x264(CLOSED))), "h264", N, 30, "")
for rot in (90, 180, 270):
    _add(f"h264_rotation_{rot}.mp4", _encode(V("libx264", range(60), rotation=rot, options=x264(CLOSED))), "h264", range(60), 30, "")
_add("h264_flipped.mp4", _encode(V("libx264", range(60), rotation=0, hflip=True, options=x264(CLOSED))), "h264", range(60), 30, "")
_add("h264_odd_size.mp4", _encode(V("libx264", range(90), width=179, height=101, pixel_format="yuv444p", options=x264(CLOSED))), "h264", range(90), 30, "")
_add("vp9_odd_size.webm", _encode(V("libvpx-vp9", range(90), width=179, height=101, options=VPX)), "vp9", range(90), 30, "")
_add("mpeg2_interlaced.ts", _encode(V("mpeg2video", fps=Fraction(25), interlaced=True, options={**M2, "flags": "+ildct+ilme"})), "mpeg2video", N, 25, "")
_add("h264_interlaced.mp4", _encode(V("libx264", fps=Fraction(25), height=192, interlaced=True, options=x264(CLOSED+":tff=1"))), "h264", N, 25, "")
_add("h264_interlaced.ts", _remux("h264_interlaced.mp4"), "h264", N, 25, "")
_add("h264_from_mid_gop.ts", _patch("h264_open_gop.ts", lambda d: d[len(d)//7//188*188:]), "h264", N, 30, "", N)
_add("mpeg2_from_mid_gop.ts", _patch("mpeg2_open_gop.ts", lambda d: d[len(d)//7//188*188:]), "mpeg2video", N, 25, "", N)
_add("h264_late_start.ts", _remux("h264_closed_gop.ts", shift_seconds=Fraction(26*3600)), "h264", N, 30, "")
WRAP = Fraction(1<<33, 90000)
_add("h264_wrapping.ts", _remux("h264_open_gop.ts", shift_seconds=WRAP-6), "h264", N, 30, "")
_add("h264_wrapping_late.ts", _encode(V("libx264", range(160), fps=Fraction(2), pts=[int(2*WRAP)-140 + i for i in range(160)], options=x264(CLOSED))), "h264", range(160), 2, "")
_add("vp9_live.webm", _remux("vp9.webm", one_way=True, muxer="webm", options={"live": "1"}), "vp9", N9, 30, "")
_add("h264_no_duration.mkv", _remux("h264_closed_gop.mp4", one_way=True, muxer="matroska"), "h264", N, 30, "")
_add("h264_fragmented.mp4", _remux("h264_closed_gop.mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}), "h264", N, 30, "")
_add("h264_concatenated.ts", lambda l, p: p.write_bytes(l.path("h264_closed_gop.ts").read_bytes()*2), "h264", [*N, *N], 30, "")
_add("h264_raw.h264", _remux("h264_closed_gop.mp4", muxer="h264"), "h264", N, 30, "")
def broken(d): return damage(d, len(d)*40//100, len(d)*42//100)
for s in ("h264_closed_gop.mp4", "h264_closed_gop.ts", "h264_ntsc.mkv"):
    _add("h264_broken_middle."+s[-3:].strip("."), _patch(s, broken), "h264", N, 30, "", range(90,150))
_add("h264_truncated.ts", _patch("h264_closed_gop.ts", lambda d: d[:len(d)*6//10]), "h264", N, 30, "", range(150,301))
_add("h264_truncated.mov", _patch("h264_faststart.mov", lambda d: d[:len(d)*6//10]), "h264", N, 30, "", range(150,301))
_add("h264_with_audio.mp4", _encode(V("libx264", options=x264(CLOSED)), audio="aac"), "h264", N, 30, "")
_add("mpeg2_with_audio.ts", _encode(V("mpeg2video", fps=Fraction(25), options=M2), audio="mp2"), "mpeg2video", N, 25, "")
_add("two_videos.mp4", lambda l, p: write_video(p, V("libx264", options=x264(CLOSED)), V("libx264", range(1000, 1301), width=160, height=90, options=x264(CLOSED))), "h264", N, 30, "")
def cover(l, p):
    import av
    from .writer import picture_frame
    c = av.CodecContext.create("mjpeg", "w"); c.width, c.height, c.pix_fmt, c.time_base = 320, 180, "yuvj420p", Fraction(1, 25)
    jpeg = bytes(c.encode(picture_frame(9999, 320, 180, "yuvj420p"))[0])
    with av.open(str(l.path("h264_closed_gop.mp4"))) as i, av.open(str(p), "w") as o:
        s = o.add_stream_from_template(i.streams.video[0])
        t = o.add_stream("mjpeg", rate=25); t.width, t.height, t.pix_fmt = 320, 180, "yuvj420p"
        t.disposition = av.stream.Disposition.attached_pic
        o.start_encoding()
        k = av.Packet(jpeg); k.stream = t; k.pts = k.dts = 0; k.is_keyframe = True; o.mux(k)
        for k in i.demux(video=0):
            if k.dts is not None: k.stream = s; o.mux(k)
_add("cover_picture.mp4", cover, "h264", N, 30, "")

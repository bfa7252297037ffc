"""Clips that lack a part: cut, overwritten, begun in the middle."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

from .codec_clips import FRAMES, PAL
from .container_clips import mov_h264, ts_h264
from .library import ClipLibrary, Shape
from .patches import TS_PACKET, damage
from .writer import packet_positions

FIRST_DAMAGED, LAST_DAMAGED = 115, 122
FRAGILE_MIDDLE = range(FIRST_DAMAGED - 3, 150)
"""From the damage, less the reordering of B-frames, to the next whole keyframe."""
FIRST_CUT = 200
FRAGILE_TAIL = range(FIRST_CUT - 3, 301)
MID_GOP_PACKET = 45
NEXT_KEYFRAME = 60


def _broken_middle(source: str, clips: ClipLibrary, path: Path) -> None:
    """Overwrites packets from before a keyframe to after it."""
    whole = clips.path(source)
    positions = packet_positions(whole)
    path.write_bytes(damage(whole.read_bytes(), positions[FIRST_DAMAGED] + 16, positions[LAST_DAMAGED]))


def _truncated(source: str, clips: ClipLibrary, path: Path) -> None:
    """Cuts in the middle of a packet."""
    whole = clips.path(source)
    positions = packet_positions(whole)
    path.write_bytes(whole.read_bytes()[: (positions[FIRST_CUT] + positions[FIRST_CUT + 1]) // 2])


def _from_mid_gop(source: str, clips: ClipLibrary, path: Path) -> None:
    whole = clips.path(source)
    start = packet_positions(whole)[MID_GOP_PACKET]
    path.write_bytes(whole.read_bytes()[start // TS_PACKET * TS_PACKET :])


mkv_h264 = partial(Shape, container="matroska", codec="h264", numbers=FRAMES, fps=Fraction(30))

DAMAGED_SHAPES: dict[str, Shape] = {
    "h264_from_mid_gop.ts": ts_h264(
        make=partial(_from_mid_gop, "h264_open_gop.ts"),
        numbers=range(NEXT_KEYFRAME, 301),
        notes="begins in mid-GOP: the first packets can't be decoded and are no displayed frames",
    ),
    "mpeg2_from_mid_gop.ts": Shape(
        make=partial(_from_mid_gop, "mpeg2_open_gop.ts"),
        container="mpegts",
        codec="mpeg2video",
        numbers=range(NEXT_KEYFRAME, 301),
        fps=PAL,
        notes="begins in mid-GOP, with B-frames that refer to what is not there",
    ),
    "h264_broken_middle.mp4": mov_h264(
        make=partial(_broken_middle, "h264_closed_gop.mp4"),
        fragile=FRAGILE_MIDDLE,
        notes="seven packets overwritten, a keyframe among them; the index is whole",
    ),
    "h264_broken_middle.ts": ts_h264(
        make=partial(_broken_middle, "h264_closed_gop.ts"),
        fragile=FRAGILE_MIDDLE,
        notes="seven packets overwritten, a keyframe among them",
    ),
    "h264_broken_middle.mkv": mkv_h264(
        make=partial(_broken_middle, "h264_no_duration.mkv"),
        fragile=FRAGILE_MIDDLE,
        notes="seven packets overwritten, a keyframe among them; the demuxer goes on at the next cluster",
    ),
    "h264_truncated.ts": ts_h264(
        make=partial(_truncated, "h264_closed_gop.ts"), fragile=FRAGILE_TAIL, notes="ends in mid-packet"
    ),
    "h264_truncated.mov": mov_h264(
        make=partial(_truncated, "h264_faststart.mov"),
        fragile=FRAGILE_TAIL,
        notes="ends in mid-packet, with an index that promises more",
    ),
    "h264_truncated.mkv": mkv_h264(
        make=partial(_truncated, "h264_no_duration.mkv"), fragile=FRAGILE_TAIL, notes="ends in mid-packet"
    ),
}
"""By file name. The containers and codecs are FFmpeg's names."""

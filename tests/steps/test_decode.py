"""The two ways of decoding a chunk: the fast one for sound files, the careful one that no damage deceives."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from steps import index
from steps.decode import ChunkDecoder, Damage
from steps.errors import ObjectChangedError, TimeLimitError, UnsupportedError
from steps.first_pictures import FirstPictures
from steps.plan import Chunk, Plan, load_segments
from steps.source import Source
from tests.media.clips import WHOLE_CLIP_NAMES
from tests.media.library import Clip, ClipLibrary
from tests.media.reference import _md5 as md5_of
from tests.media.writer import patch_packets
from tests.steps.analysis import WHOLE, Analyst
from tests.steps.special_clips import SPECIAL_CLIP_NAMES

FAR_SECONDS = 600
CAREFULLY_DECODED = (
    "h264_open_gop.mp4",
    "h264_open_gop.ts",
    "h264_intra_refresh.mp4",
    "h264_interlaced.ts",
    "h264_one_frame.mp4",
    "h264_edit_list.mp4",
    "h264_edit_list_two_parts.mov",
    "h264_edit_list_swapped.mov",
    "h264_from_mid_gop.ts",
    "h264_fields.ts",
    "h264_b_frames.avi",
    "h264_concatenated.ts",
    "hevc_open_gop.mp4",
    "mpeg2_open_gop.ts",
    "mpeg2_from_mid_gop.ts",
    "mpeg4_not_coded.avi",
    "mpeg4_packed.avi",
    "mjpeg.avi",
    "vp8_alt_ref.webm",
    "vp9.webm",
    "av1.mkv",
)


class Shown(NamedTuple):
    number: int
    md5: str | None


class Decoding(NamedTuple):
    """A planned video that can be decoded chunk by chunk."""

    analyst: Analyst
    source: Source
    plan: Plan

    def decoder(self, chunk: Chunk, seconds: float = FAR_SECONDS) -> ChunkDecoder:
        segments = load_segments(self.analyst.store, self.plan, chunk)
        deadline = time.monotonic() + seconds
        return ChunkDecoder(self.source, self.plan, chunk, segments, self.analyst.settings, deadline=deadline)

    def shown(self, *, careful: bool) -> list[Shown]:
        return [shown for chunk in self.plan.chunks for shown in self.shown_of(chunk, careful=careful)]

    def shown_of(self, chunk: Chunk, *, careful: bool) -> Iterator[Shown]:
        for frame in self.decoder(chunk).frames(careful=careful):
            yield Shown(frame.number, None if frame.picture is None else md5_of(frame.picture))


def plan_of(analyst: Analyst, clip: Clip, *, fps: float = 0.0, chunk_seconds: float = 1.0) -> Decoding:
    source = analyst.open(clip.path)
    return Decoding(analyst, source, analyst.plan(source, fps=fps, chunk_seconds=chunk_seconds))


def reference_of(clip: Clip) -> list[Shown]:
    return [Shown(frame.ordinal, frame.md5_of_picture) for frame in clip.reference]


@pytest.mark.parametrize("name", [*WHOLE_CLIP_NAMES, *SPECIAL_CLIP_NAMES])
def test_a_sound_clip_is_decoded_the_fast_way_to_the_last_bit(name: str, clips: ClipLibrary, analyst: Analyst) -> None:
    clip = clips[name]
    decoding = plan_of(analyst, clip, fps=12.5)
    shown = decoding.shown(careful=False)
    assert len(shown) == decoding.plan.planned_frames
    assert set(shown) <= set(reference_of(clip))


@pytest.mark.parametrize("name", CAREFULLY_DECODED)
def test_the_careful_way_finds_no_damage_in_a_sound_clip(name: str, clips: ClipLibrary, analyst: Analyst) -> None:
    clip = clips[name]
    assert plan_of(analyst, clip, chunk_seconds=4.0).shown(careful=True) == reference_of(clip)


@pytest.mark.parametrize("name", ["h264_broken_middle.mp4", "h264_broken_middle.ts", "h264_broken_middle.mkv"])
def test_damage_is_noticed_before_the_chunk_is_done(name: str, clips: ClipLibrary, analyst: Analyst) -> None:
    decoding = plan_of(analyst, clips[name], chunk_seconds=WHOLE)
    with pytest.raises(Damage):
        decoding.shown(careful=False)


def test_damage_in_one_chunk_leaves_the_others_to_the_fast_way(clips: ClipLibrary, analyst: Analyst) -> None:
    decoding = plan_of(analyst, clips["h264_broken_middle.mp4"])
    damaged = []
    for chunk in decoding.plan.chunks:
        try:
            list(decoding.shown_of(chunk, careful=False))
        except Damage:
            damaged.append(chunk.name)
    assert damaged == ["90-149"]  # the keyframe between is among what is overwritten


@pytest.mark.parametrize("group", range(1, 9))
@pytest.mark.parametrize("name", ["h264_closed_gop.mp4", "h264_no_duration.mkv"])
def test_damage_in_the_last_packet_is_noticed_by_any_number_of_threads(
    name: str, group: int, clips: ClipLibrary, analyst: Analyst, tmp_path: Path
) -> None:
    """Its picture comes out while a thread still works on it, unless all are waited for."""
    broken = tmp_path / name
    last = 30 * group + 29
    noise = random.Random(group).randbytes(40)
    patch_packets(clips.path(name), broken, {last: lambda packet: packet[:60] + noise + packet[60 + len(noise) :]})
    source = analyst.open(broken)
    plan = analyst.plan(source, fps=0.0, chunk_seconds=1.0, end_seconds=(last + 1) / 30)
    settings = analyst.settings.model_copy(update={"decode_threads": 4})
    decoding = Decoding(dataclasses.replace(analyst, settings=settings), source, plan)
    with pytest.raises(Damage):
        list(decoding.shown_of(plan.chunks[-1], careful=False))


def test_keyframes_that_are_no_place_to_start_are_passed_over(
    clips: ClipLibrary, analyst: Analyst, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream may begin with keyframes that are, so that the plan takes all of them for such."""
    monkeypatch.setattr(FirstPictures, "_check_second_key", lambda pictures, packet: None)
    clip = clips["h264_intra_refresh.mp4"]
    decoding = plan_of(analyst, clip)
    second = decoding.plan.chunks[1]

    with pytest.raises(Damage, match="no place to start"):
        list(decoding.shown_of(second, careful=False))
    shown = list(decoding.shown_of(second, careful=True))

    assert shown == reference_of(clip)[second.first_frame : second.last_frame + 1]


def test_pictures_that_come_out_of_turn_are_not_taken_for_others(
    clips: ClipLibrary, analyst: Analyst, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an AVI file of whose reordering FFmpeg knows nothing when it is indexed."""
    monkeypatch.setattr(index, "_DISPLAY_TIMES_MENDED", ("h264",))
    clip = clips["h264_b_frames.avi"]
    decoding = plan_of(analyst, clip)
    assert decoding.plan.identify_by == "pts"

    with pytest.raises(Damage, match="out of turn"):
        decoding.shown(careful=False)
    shown = decoding.shown(careful=True)

    assert {frame for frame in shown if frame.md5 is not None} <= set(reference_of(clip))
    assert len(shown) == 301


def test_only_what_a_chunk_needs_is_read(clips: ClipLibrary, analyst: Analyst) -> None:
    decoding = plan_of(analyst, clips["h264_interlaced.ts"])
    decoder = decoding.decoder(decoding.plan.chunks[-1])
    list(decoder.frames())
    assert 0 < decoder.bytes_read < decoding.source.identity.size / 2


def test_a_video_that_is_not_the_planned_one_is_refused(clips: ClipLibrary, analyst: Analyst) -> None:
    decoding = plan_of(analyst, clips["h264_closed_gop.mp4"])
    other = decoding._replace(source=analyst.open(clips["h264_open_gop.mp4"].path))
    with pytest.raises(ObjectChangedError, match="is not the version that was planned"):
        other.decoder(decoding.plan.chunks[0])


@pytest.mark.parametrize("name", ["h264_closed_gop.mp4", "h264_closed_gop.ts"])
def test_a_keyframe_that_is_not_found_again_is_told(name: str, clips: ClipLibrary, analyst: Analyst) -> None:
    decoding = plan_of(analyst, clips[name])
    chunk = decoding.plan.chunks[2]
    segments = load_segments(analyst.store, decoding.plan, chunk)
    moved = [segments[0].model_copy(update={"key_pts": (segments[0].key_pts or 0) + 1})]
    decoder = ChunkDecoder(
        decoding.source, decoding.plan, chunk, moved, analyst.settings, deadline=time.monotonic() + FAR_SECONDS
    )
    with pytest.raises(UnsupportedError, match="cannot be found again"):
        list(decoder.frames())


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("name", ["h264_closed_gop.mp4", "h264_raw.h264"])
def test_decoding_ends_at_its_deadline(name: str, careful: bool, clips: ClipLibrary, analyst: Analyst) -> None:
    decoding = plan_of(analyst, clips[name], chunk_seconds=WHOLE)
    with pytest.raises(TimeLimitError, match="time limit"):
        list(decoding.decoder(decoding.plan.chunks[0], seconds=-1).frames(careful=careful))

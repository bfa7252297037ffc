"""The clips are what their names say: a clip that lost its shape would let everything built on it pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from .clips import BROKEN_CLIP_NAMES, CLIP_NAMES, WHOLE_CLIP_NAMES
from .library import ClipLibrary
from .patches import CLUSTER_ID, ebml_number, edit_list_entries, parse_boxes, ts_presentation_times
from .picture import read_number
from .reference import ReferenceFrame, first_video_stream, stored_luma
from .writer import packets_of

MILLISECOND = Fraction(1, 1000)
CUES_ID = b"\x1c\x53\xbb\x6b"
Packet = tuple[int | None, bool, bool]


def packets(path: Path) -> list[Packet]:
    """(pts, is a keyframe, is discarded) of the video packets in the order of the file."""
    with av.open(str(path)) as container:
        return [(p.pts, p.is_keyframe, p.is_discard) for p in packets_of(first_video_stream(container))]


def payloads(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in packets_of(first_video_stream(container))]


def leading_packets(found: Sequence[Packet]) -> int:
    """How many packets lie behind a keyframe in the file and before it in time."""
    leading, key_pts = 0, None
    for pts, is_key, _ in found:
        if is_key:
            key_pts = pts
        elif key_pts is not None and pts is not None and pts < key_pts:
            leading += 1
    return leading


def numbers(frames: Sequence[ReferenceFrame]) -> list[int | None]:
    return [frame.number_in_picture for frame in frames]


# --- every clip against its full decode ---


@pytest.mark.parametrize("name", WHOLE_CLIP_NAMES)
def test_a_whole_clip_displays_its_frames_at_their_times(clips: ClipLibrary, name: str) -> None:
    clip = clips[name]
    assert numbers(clip.reference) == list(clip.numbers)
    for frame, seconds in zip(clip.reference, clip.times, strict=True):
        assert abs(frame.time_seconds - seconds) <= MILLISECOND


@pytest.mark.parametrize("name", BROKEN_CLIP_NAMES)
def test_a_broken_clip_lacks_nothing_outside_its_broken_part(clips: ClipLibrary, name: str) -> None:
    clip = clips[name]
    shown = numbers(clip.reference)
    assert [n for n in shown if n is not None and n not in clip.fragile] == [
        n for n in clip.numbers if n not in clip.fragile
    ]
    for frame in clip.reference:
        due = clip.number_at(frame.time_seconds)
        assert due in clip.fragile or frame.number_in_picture == due
    assert shown != list(clip.numbers)


@pytest.mark.parametrize("name", CLIP_NAMES)
def test_a_clip_has_the_container_and_the_codec_of_its_name(clips: ClipLibrary, name: str) -> None:
    clip = clips[name]
    with av.open(str(clip.path)) as container:
        assert clip.container in container.format.name.split(",")
        assert first_video_stream(container).codec_context.codec.canonical_name == clip.codec


# --- how the pictures are coded ---


@pytest.mark.parametrize(
    "name",
    [*(name for name in CLIP_NAMES if "open_gop" in name), "mpeg2_program_stream.mpg", "mpeg4_b_frames.avi"],
)
def test_an_open_gop_has_packets_before_its_keyframe_in_time(clips: ClipLibrary, name: str) -> None:
    assert leading_packets(packets(clips[name].path)) >= 10


@pytest.mark.parametrize("name", ["h264_closed_gop.mp4", "hevc_closed_gop.mp4"])
def test_a_closed_gop_has_b_frames_and_none_before_its_keyframe(clips: ClipLibrary, name: str) -> None:
    found = packets(clips[name].path)
    assert leading_packets(found) == 0
    assert sum(is_key for _, is_key, _ in found) == 11
    assert any(later < earlier for (earlier, *_), (later, *_) in pairwise(found))  # type: ignore[operator]


def test_a_long_gop_has_one_keyframe_in_250_frames(clips: ClipLibrary) -> None:
    assert [n for n, (_, is_key, _) in enumerate(packets(clips["h264_long_gop.mp4"].path)) if is_key] == [0, 250]


@pytest.mark.parametrize("name", ["h264_intra_refresh.mp4", "h264_intra_refresh.ts"])
def test_intra_refresh_marks_recovery_points_that_are_no_key_pictures(clips: ClipLibrary, name: str) -> None:
    clip = clips[name]
    assert sum(is_key for _, is_key, _ in packets(clip.path)) == 8
    assert [frame.ordinal for frame in clip.reference if frame.key_frame] == [0]


@pytest.mark.parametrize(
    ("name", "pixel_format", "size"),
    [
        ("hevc_10_bit.mp4", "yuv420p10le", (320, 180)),
        ("h264_odd_size.mp4", "yuv444p", (179, 101)),
        ("vp9_odd_size.webm", "yuv420p", (179, 101)),
        ("mjpeg_odd_size.avi", "yuvj420p", (179, 101)),
    ],
)
def test_pixel_format_and_size_are_as_asked(
    clips: ClipLibrary, name: str, pixel_format: str, size: tuple[int, int]
) -> None:
    assert {(f.pixel_format, (f.width, f.height)) for f in clips[name].reference} == {(pixel_format, size)}


@pytest.mark.parametrize("name", [name for name in CLIP_NAMES if "interlaced" in name])
def test_an_interlaced_clip_says_so_of_every_frame(clips: ClipLibrary, name: str) -> None:
    assert all(frame.interlaced for frame in clips[name].reference)


def test_vp9_alternate_reference_frames_share_a_packet_with_a_shown_one(clips: ClipLibrary) -> None:
    found = payloads(clips["vp9.webm"].path)
    markers = [packet[-1] for packet in found]
    sizes = [(marker & 7) + 1 for marker in markers]
    index_bytes = [2 + frames * ((marker >> 3 & 3) + 1) for marker, frames in zip(markers, sizes, strict=True)]
    superframes = [
        packet
        for packet, marker, size in zip(found, markers, index_bytes, strict=True)
        if marker & 0xE0 == 0xC0 and len(packet) > size and packet[-size] == marker
    ]
    assert superframes


@pytest.mark.parametrize(("name", "hidden"), [("vp8_alt_ref.webm", 10), ("mpeg4_not_coded.avi", 12)])
def test_some_packets_show_no_frame(clips: ClipLibrary, name: str, hidden: int) -> None:
    clip = clips[name]
    found = packets(clip.path)
    assert len(found) - len(clip.reference) == hidden
    assert {frame.pts for frame in clip.reference} < {pts for pts, *_ in found}


def test_avi_gives_reordered_frames_times_that_do_not_grow(clips: ClipLibrary) -> None:
    with av.open(str(clips["h264_b_frames.avi"].path)) as container:
        times = [frame.pts or 0 for frame in container.decode(video=0)]
    assert times != sorted(times)


# --- containers ---


def test_the_index_lies_behind_in_front_and_in_fragments(clips: ClipLibrary) -> None:
    order = {
        name: [
            box.kind for box in parse_boxes(clips[name].path.read_bytes()) if box.kind in {b"moov", b"moof", b"mdat"}
        ]
        for name in ("h264_moov_at_end.mov", "h264_faststart.mov", "h264_fragmented.mp4")
    }
    assert order["h264_moov_at_end.mov"] == [b"mdat", b"moov"]
    assert order["h264_faststart.mov"] == [b"moov", b"mdat"]
    assert order["h264_fragmented.mp4"][:3] == [b"moov", b"moof", b"mdat"]
    assert order["h264_fragmented.mp4"].count(b"moof") >= 10


@pytest.mark.parametrize("name", ["h264_no_duration.mkv", "vp9_live.webm"])
def test_a_streamed_matroska_has_no_duration_and_no_index(clips: ClipLibrary, name: str) -> None:
    with av.open(str(clips[name].path)) as container:
        assert container.duration is None
    assert CUES_ID not in clips[name].path.read_bytes()


def test_a_live_webm_has_clusters_of_unknown_size(clips: ClipLibrary) -> None:
    data = clips["vp9_live.webm"].path.read_bytes()
    sizes = [ebml_number(data, match.end()) for match in re.finditer(re.escape(CLUSTER_ID), data)]
    assert len(sizes) >= 2
    assert all(size == (1 << 7 * width) - 1 for size, width in sizes)


def test_raw_h264_has_no_times(clips: ClipLibrary) -> None:
    assert {pts for pts, *_ in packets(clips["h264_raw.h264"].path)} == {None}


@pytest.mark.parametrize("name", ["h264_with_audio.mp4", "mpeg2_with_audio.ts"])
def test_audio_is_interleaved(clips: ClipLibrary, name: str) -> None:
    with av.open(str(clips[name].path)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.size]
    assert sum(a != b for a, b in pairwise(kinds)) > 50


def test_the_second_video_stream_shows_other_numbers(clips: ClipLibrary) -> None:
    with av.open(str(clips["h264_two_videos.mp4"].path)) as container:
        first, second = container.streams.video
        assert container.streams.best("video") == first
        frame = next(container.decode(second))
    assert read_number(stored_luma(frame)) == 1000


def test_the_cover_picture_is_a_stream_of_its_own(clips: ClipLibrary) -> None:
    with av.open(str(clips["h264_cover_picture.mp4"].path)) as container:
        _, cover = container.streams.video
        assert cover.disposition & av.stream.Disposition.attached_pic


# --- times ---


def test_variable_steps_are_irregular(clips: ClipLibrary) -> None:
    steps = {later - earlier for earlier, later in pairwise(clips["h264_variable_rate.mp4"].times)}
    assert len(steps) == 7
    assert max(steps) > 100 * min(steps)


def test_matroska_rounds_times_to_the_millisecond(clips: ClipLibrary) -> None:
    assert clips["h264_ntsc.mkv"].reference[1].time_seconds == 33 * MILLISECOND


def _edits(path: Path) -> list[tuple[int, int]]:
    moov = next(box for box in parse_boxes(path.read_bytes()) if box.kind == b"moov")
    return edit_list_entries(moov)


def test_an_edit_list_discards_pictures_that_are_in_the_file(clips: ClipLibrary) -> None:
    clip = clips["h264_edit_list.mp4"]
    found = packets(clip.path)
    discarded = [packet for packet in found if packet[2]]
    assert len(found) - len(discarded) == len(clip.reference) == 226
    assert discarded[0][1]  # the keyframe that the first displayed frames need
    assert not found[len(discarded)][1]
    assert _edits(clip.path)[0][1] > 0


def test_an_edit_list_ends_before_the_pictures_do(clips: ClipLibrary) -> None:
    assert len(packets(clips["h264_edit_list_end.mov"].path)) > len(clips["h264_edit_list_end.mov"].reference)


def test_two_edits_give_discarded_and_kept_packets_of_one_time(clips: ClipLibrary) -> None:
    clip = clips["h264_edit_list_two_parts.mov"]
    found = packets(clip.path)
    discarded, kept = ({pts for pts, _, discard in found if discard is wanted} for wanted in (True, False))
    assert len(_edits(clip.path)) == 2
    assert discarded & kept


def test_an_empty_edit_delays_the_start(clips: ClipLibrary) -> None:
    path = clips["h264_delayed.mp4"].path
    assert _edits(path)[0] == (2000, -1)
    with av.open(str(path)) as container:
        assert container.start_time == 2 * av.time_base


def _pictures_as_stored(path: Path) -> tuple[int, set[int | None]]:
    """The rotation in the metadata, and the numbers read without heeding it."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return frames[0].rotation, {read_number(stored_luma(frame)) for frame in frames}


@pytest.mark.parametrize(("degrees", "rotation"), [(90, 90), (180, -180), (270, -90)])
def test_a_rotated_clip_is_upright_only_as_displayed(clips: ClipLibrary, degrees: int, rotation: int) -> None:
    clip = clips[f"h264_rotation_{degrees}.mp4"]
    assert _pictures_as_stored(clip.path)[0] == rotation
    assert not _pictures_as_stored(clip.path)[1] & set(clip.numbers)
    assert {(frame.width, frame.height) for frame in clip.reference} == {(320, 180)}


def test_a_mirrored_clip_is_readable_only_as_displayed(clips: ClipLibrary) -> None:
    stored = _pictures_as_stored(clips["h264_mirrored.mp4"].path)[1]
    assert stored != set(clips["h264_mirrored.mp4"].numbers)


def test_a_late_start_is_at_26_hours(clips: ClipLibrary) -> None:
    assert min(ts_presentation_times(clips["h264_late_start.ts"].path.read_bytes())) >= 26 * 3600 * 90_000


@pytest.mark.parametrize(("name", "seconds"), [("h264_wrapping.ts", (5, 7)), ("h264_wrapping_late.ts", (60, 80))])
def test_the_clock_wraps_in_mid_file(clips: ClipLibrary, name: str, seconds: tuple[int, int]) -> None:
    times = list(ts_presentation_times(clips[name].path.read_bytes()))
    assert len(times) == len(clips[name].numbers)
    before = [pts for pts in times if pts > 1 << 32]
    after = [pts for pts in times if pts <= 1 << 32]
    assert before
    assert min(after) < 90_000
    assert seconds[0] < (2**33 - min(before)) / 90_000 < seconds[1]


def test_concatenated_streams_repeat_their_times(clips: ClipLibrary) -> None:
    found = [pts for pts, *_ in packets(clips["h264_concatenated.ts"].path)]
    assert found[:301] == found[301:]


@pytest.mark.parametrize("name", ["h264_from_mid_gop.ts", "mpeg2_from_mid_gop.ts"])
def test_a_stream_from_mid_gop_begins_with_what_is_not_displayed(clips: ClipLibrary, name: str) -> None:
    clip = clips[name]
    found = packets(clip.path)
    assert not found[0][1]
    assert len(found) > len(clip.reference)


@pytest.mark.parametrize("name", [name for name in CLIP_NAMES if "truncated" in name])
def test_a_truncated_clip_ends_early(clips: ClipLibrary, name: str) -> None:
    assert len(clips[name].reference) < 250

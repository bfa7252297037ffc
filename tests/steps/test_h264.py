"""What the headers of H.264 say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from steps.bits import BitReader
from steps.h264 import Headers, HoleFinder, pair_fields
from tests.media.library import ClipLibrary
from tests.media.writer import packets_of
from tests.steps.special_clips import FIELD_FRAMES, FIELD_GOP

H264_CLIPS = [
    "h264_open_gop.mp4",
    "h264_open_gop.ts",
    "h264_odd_size.mp4",
    "h264_interlaced.ts",
    "h264_intra_refresh.mp4",
    "h264_ntsc.mkv",
    "h264_raw.h264",
    "h264_variable_rate.mp4",
    "h264_fields.mp4",
]


def extradata_and_packets(path: Path) -> tuple[bytes | None, list[Any]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.extradata, list(packets_of(stream))


def holes_without(path: Path, gone: set[int], *, step: int | None = None) -> tuple[list[int], int]:
    """Where holes are found when packets are gone, and how many packets there are. `step` closes holes in time."""
    extradata, packets = extradata_and_packets(path)
    finder = HoleFinder(extradata)
    kept = [packet for number, packet in enumerate(packets) if number not in gone]
    for number, packet in enumerate(kept):
        if step is not None:
            packet.dts = number * step
        finder.see(packet)
    return finder.behind_holes, len(packets)


def reference_frames_of(path: Path) -> Iterator[int]:
    """Places of the packets whose pictures others may refer to."""
    extradata, packets = extradata_and_packets(path)
    headers = Headers(extradata)
    for number, packet in enumerate(packets):
        picture = headers.picture_of(memoryview(packet))
        assert picture is not None
        if picture.is_reference and not picture.is_idr:
            yield number


@pytest.mark.parametrize("name", H264_CLIPS)
def test_the_header_of_every_picture_is_read(name: str, clips: ClipLibrary) -> None:
    extradata, packets = extradata_and_packets(clips.path(name))
    headers = Headers(extradata)
    pictures = [headers.picture_of(memoryview(packet)) for packet in packets]
    assert all(pictures)
    assert headers.may_have_fields == ("interlaced" in name or "fields" in name)
    if name not in ("h264_intra_refresh.mp4", "h264_open_gop.mp4", "h264_open_gop.ts"):
        is_idr = [picture is not None and picture.is_idr for picture in pictures]
        assert is_idr == [packet.is_keyframe for packet in packets]


@pytest.mark.parametrize("name", H264_CLIPS)
def test_a_whole_video_has_no_hole(name: str, clips: ClipLibrary) -> None:
    assert holes_without(clips.path(name), set())[0] == []


@pytest.mark.parametrize("name", ["h264_open_gop.ts", "h264_closed_gop.mp4", "h264_ntsc.mkv"])
def test_a_missing_picture_that_others_refer_to_is_a_hole(name: str, clips: ClipLibrary) -> None:
    path = clips.path(name)
    places = list(reference_frames_of(path))
    place = places[len(places) // 2]
    assert holes_without(path, {place})[0] == [place]


def test_a_missing_picture_that_nothing_refers_to_is_none(clips: ClipLibrary) -> None:
    path = clips.path("h264_closed_gop.mp4")
    references = set(reference_frames_of(path))
    _, packets = extradata_and_packets(path)
    plain = next(number for number, packet in enumerate(packets) if number not in references and not packet.is_keyframe)
    assert holes_without(path, {plain})[0] == []


def test_numbers_that_skip_without_a_hole_in_time_are_none(clips: ClipLibrary) -> None:
    path = clips.path("h264_closed_gop.mp4")
    places = list(reference_frames_of(path))
    assert holes_without(path, set(range(places[5], places[8])), step=512)[0] == []


@pytest.mark.parametrize("name", ["h264_fields.ts", "h264_fields.mp4", "h264_fields.h264"])
def test_two_fields_are_one_packet_with_the_second_behind_the_first(name: str, clips: ClipLibrary) -> None:
    extradata, packets = extradata_and_packets(clips.path(name))
    paired = list(pair_fields(iter(packets), extradata))
    assert len(packets) == 2 * len(FIELD_FRAMES)
    assert [(packet, packet.opaque) for packet in paired] == list(zip(packets[::2], packets[1::2], strict=True))


def test_a_field_whose_other_is_lost_stays_alone(clips: ClipLibrary) -> None:
    extradata, packets = extradata_and_packets(clips.path("h264_fields.ts"))
    lost = 2 * FIELD_GOP + 7
    paired = list(pair_fields(iter([*packets[:lost], *packets[lost + 1 :]]), extradata))
    assert len(paired) == len(FIELD_FRAMES)
    assert [number for number, packet in enumerate(paired) if packet.opaque is None] == [lost // 2]


@pytest.mark.parametrize("name", ["h264_interlaced.ts", "h264_open_gop.mp4", "h264_fields.mkv"])
def test_pictures_that_are_whole_stay_as_they_are(name: str, clips: ClipLibrary) -> None:
    extradata, packets = extradata_and_packets(clips.path(name))
    assert list(pair_fields(iter(packets), extradata)) == packets
    assert all(packet.opaque is None for packet in packets)


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x01", b"\x00\x00\x01\x65", b"\xff" * 50, b"\x00" * 50])
def test_bytes_that_are_no_picture_are_none(data: bytes) -> None:
    assert Headers(None).picture_of(memoryview(data)) is None
    assert Headers(b"\x01\x64\x00\x0d\xff\xe1\x00\x04\x67\x64\x00").picture_of(memoryview(data)) is None


def test_codes_of_any_length_are_read() -> None:
    values = [0, 1, 2, 3, 7, 8, 254, 255, 256, 65534]
    text = "".join("0" * (len(f"{value + 1:b}") - 1) + f"{value + 1:b}" for value in values)
    bits = BitReader(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8)))
    assert [bits.read_unsigned() for _ in values] == values
    assert not bits.is_over
    bits.read(64)
    assert bits.is_over


def test_signed_codes_alternate() -> None:
    bits = BitReader(0b1_010_011_00100_00101_0000000.to_bytes(3))
    assert [bits.read_signed() for _ in range(5)] == [0, 1, -1, 2, -2]

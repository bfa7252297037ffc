"""Packets of which nothing is shown."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from steps.hidden import HiddenPackets
from tests.media.codec_clips import MPEG4_NOT_CODED, VP8_HIDDEN
from tests.media.library import ClipLibrary
from tests.media.writer import packets_of

VOP = b"\x00\x00\x01\xb6"


def hidden_in(path: Path, codec: str, *, with_extradata: bool = True) -> tuple[list[int], HiddenPackets]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        hiding = HiddenPackets(codec, stream.codec_context.extradata if with_extradata else None)
        return [number for number, packet in enumerate(packets_of(stream)) if hiding.is_hidden(packet)], hiding


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("vp8_alt_ref.webm", "vp8", list(VP8_HIDDEN)),
        ("vp8.webm", "vp8", []),
        ("mpeg4_not_coded.avi", "mpeg4", list(MPEG4_NOT_CODED)),
        ("mpeg4.avi", "mpeg4", []),
        ("mpeg4_b_frames.avi", "mpeg4", []),
        ("h264_open_gop.mp4", "h264", []),
        ("vp9.webm", "vp9", []),
    ],
)
def test_the_packets_that_show_nothing_are_told(name: str, codec: str, expected: list[int], clips: ClipLibrary) -> None:
    numbers, hiding = hidden_in(clips.path(name), codec)
    assert numbers == expected
    assert not hiding.is_packed


def test_headers_within_the_packets_do_as_well(clips: ClipLibrary) -> None:
    assert hidden_in(clips.path("mpeg4_not_coded.avi"), "mpeg4", with_extradata=False)[0] == list(MPEG4_NOT_CODED)


def test_a_placeholder_of_a_packed_stream_shows_the_picture_that_was_kept(clips: ClipLibrary) -> None:
    numbers, hiding = hidden_in(clips.path("mpeg4_packed.avi"), "mpeg4")
    assert hiding.is_packed
    assert numbers == []


def layer(fields: str) -> bytes:
    bits = fields + "1" * (-len(fields) % 8)
    return b"\x00\x00\x01\x20" + int(bits, 2).to_bytes(len(bits) // 8)


def vop(seconds: int, increment_bits: int, *, coded: bool) -> bytes:
    bits = "01" + "1" * seconds + "0" + "1" + "0" * increment_bits + "1" + str(int(coded))
    bits += "1" * (-len(bits) % 8)
    return VOP + int(bits, 2).to_bytes(len(bits) // 8) + b"\xaa" * 20


class Data(bytes):
    """Stands for a packet."""


START = "0" + "00000001"
RESOLUTION_25, RESOLUTION_30000 = f"{25:016b}", f"{30000:016b}"
LAYERS = {
    "plain": (START + "0" + "0001" + "0" + "00" + "1" + RESOLUTION_25, 5),
    "with a version": (START + "1" + "0001001" + "0001" + "0" + "00" + "1" + RESOLUTION_25, 5),
    "with a shape of pixels": (START + "0" + "1111" + "1" * 16 + "0" + "00" + "1" + RESOLUTION_25, 5),
    "with control parameters": (START + "0" + "0001" + "1" + "010" + "0" + "00" + "1" + RESOLUTION_25, 5),
    "with buffer parameters": (START + "0" + "0001" + "1" + "011" + "1" + "1" * 79 + "00" + "1" + RESOLUTION_25, 5),
    "of thirty thousand ticks": (START + "0" + "0001" + "0" + "00" + "1" + RESOLUTION_30000, 15),
    "of one tick": (START + "0" + "0001" + "0" + "00" + "1" + f"{1:016b}", 1),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("seconds", [0, 1, 9])
def test_any_header_of_a_layer_is_understood(name: str, seconds: int) -> None:
    fields, increment_bits = LAYERS[name]
    hiding = HiddenPackets("mpeg4", layer(fields))
    assert not hiding.is_hidden(Data(vop(seconds, increment_bits, coded=True)))  # type: ignore[arg-type]
    assert hiding.is_hidden(Data(vop(seconds, increment_bits, coded=False)))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", VOP, VOP + b"\xff", VOP + b"\xff" * 100, b"\x00\x00\x01\x20", b"\x00" * 40])
def test_bytes_that_cannot_be_read_hide_nothing(data: bytes) -> None:
    assert not HiddenPackets("mpeg4", None).is_hidden(Data(data))  # type: ignore[arg-type]
    assert not HiddenPackets("mpeg4", layer(LAYERS["plain"][0])).is_hidden(Data(data))  # type: ignore[arg-type]

"""Clips that no encoder or muxer here makes by itself: pictures in two fields, packed MPEG-4, odd transport streams."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av

from tests.media.clips import SHAPES
from tests.media.codec_clips import FRAMES, PAL
from tests.media.container_clips import MOVIE_TICKS, _frame_at, _with_edits
from tests.media.library import ClipLibrary, Shape
from tests.media.patches import TS_PACKET, VOP_START_CODE, hide_mpeg4_picture
from tests.media.picture import draw_number
from tests.media.writer import packets_of, remux

FIELD_FRAMES = range(60)
FIELD_GOP = 10
FIELD_WIDTH, FIELD_HEIGHT = 64, 32
_MACROBLOCK = 16
_CHROMA_BYTES = 2 * 64


class _Bits:
    """Writes the bits of an H.264 NAL unit (ISO 14496-10, 7.2 and 9.1)."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._count = 0

    def add(self, *codes: str) -> None:
        for code in codes:
            self._text.append(code)
            self._count += len(code)

    def add_unsigned(self, *values: int) -> None:
        for value in values:
            code = f"{value + 1:b}"
            self.add("0" * (len(code) - 1) + code)

    def align(self) -> None:
        self.add("0" * (-self._count % 8))

    def add_bytes(self, data: bytes) -> None:
        self.add(f"{int.from_bytes(data):0{8 * len(data)}b}")

    def to_unit(self, header: int) -> bytes:
        """With the stop bit, and with bytes that keep start codes from arising."""
        self.add("1")
        self.align()
        text = "".join(self._text)
        unit = bytearray([header])
        zeros = 0
        for byte in int(text, 2).to_bytes(len(text) // 8):
            if zeros == 2 and byte <= 3:
                unit.append(3)
                zeros = 0
            unit.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\x00\x00\x00\x01" + bytes(unit)


def _parameter_sets() -> bytes:
    sequence = _Bits()
    sequence.add(f"{77:08b}", f"{0:08b}", f"{30:08b}")  # Main profile, level 3
    sequence.add_unsigned(0, 0, 2, 4)  # id, 4 bits of frame_num, shown in order of decoding, 4 reference frames
    sequence.add("0")
    sequence.add_unsigned(FIELD_WIDTH // _MACROBLOCK - 1, FIELD_HEIGHT // 2 // _MACROBLOCK - 1)
    sequence.add("0", "0", "1", "0", "0")  # fields allowed, no MBAFF, 8x8 inference, no cropping, no VUI
    picture = _Bits()
    picture.add_unsigned(0, 0)
    picture.add("0", "0")
    picture.add_unsigned(0, 0, 0)
    picture.add("0", "00")
    picture.add_unsigned(0, 0, 0)  # signed zeros are written alike
    picture.add("0", "0", "0")
    return sequence.to_unit(0x67) + picture.to_unit(0x68)


def _field(number: int, frame_number: int, *, bottom: bool) -> bytes:
    """One field of a picture as an intra slice of raw samples."""
    idr = frame_number == 0 and not bottom
    lines = draw_number(number, FIELD_WIDTH, FIELD_HEIGHT)[int(bottom) :: 2]
    bits = _Bits()
    bits.add_unsigned(0, 7, 0)  # first macroblock, intra slices only, parameter set
    bits.add(f"{frame_number:04b}", "1", str(int(bottom)))
    if idr:
        bits.add_unsigned(0)
    bits.add("00" if idr else "0")  # how references are kept
    bits.add_unsigned(0)
    for top in range(0, FIELD_HEIGHT // 2, _MACROBLOCK):
        for left in range(0, FIELD_WIDTH, _MACROBLOCK):
            bits.add_unsigned(25)  # I_PCM
            bits.align()
            samples = lines[top : top + _MACROBLOCK, left : left + _MACROBLOCK]
            bits.add_bytes(samples.tobytes() + bytes([128]) * _CHROMA_BYTES)
    delimiter = b"\x00\x00\x00\x01\x09\xf0"
    return delimiter + (_parameter_sets() if idr else b"") + bits.to_unit(0x65 if idr else 0x61)


def _fields(_: ClipLibrary, path: Path, *, together: bool = False) -> None:
    """Pictures of two fields, each with a packet of its own, or `together` in one."""
    pairs = [
        [_field(number, number % FIELD_GOP, bottom=False), _field(number, number % FIELD_GOP, bottom=True)]
        for number in FIELD_FRAMES
    ]
    raw = b"".join(first + second for first, second in pairs)
    if path.suffix == ".h264":
        path.write_bytes(raw)
        return
    with av.open(io.BytesIO(raw), format="h264") as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.time_base = 1 / (2 * PAL)
        container.start_encoding()
        for number, pair in enumerate(pairs):
            for index, data in enumerate([b"".join(pair)] if together else pair):
                packet: Any = av.Packet(data)
                packet.stream, packet.time_base = stream, 1 / (2 * PAL)
                packet.pts = packet.dts = 2 * number + index
                packet.duration = 2 if together else 1
                packet.is_keyframe = number % FIELD_GOP == 0 and index == 0
                container.mux(packet)


def _packed_mpeg4(clips: ClipLibrary, path: Path) -> None:
    """As DivX and Xvid did: a B-frame in the packet of the picture before, and a placeholder where it belongs."""
    with (
        av.open(str(clips.path("mpeg4_b_frames.avi"))) as source,
        av.open(str(path), "w", format="avi") as container,
    ):
        stream: Any = container.add_stream_from_template(source.streams.video[0])
        stream.codec_context.extradata = _as_divx(source.streams.video[0].codec_context.extradata or b"")
        container.start_encoding()
        for number, data in enumerate(
            _pack([_as_divx(bytes(packet)) for packet in packets_of(source.streams.video[0])])
        ):
            packet: Any = av.Packet(data)
            packet.stream, packet.time_base = stream, 1 / PAL
            packet.pts = packet.dts = number
            packet.is_keyframe = _coding_type(data) == "I"
            container.mux(packet)


def _as_divx(data: bytes) -> bytes:
    start = data.find(b"Lavc")
    name = b"DivX503b1393p"
    return data if start < 0 else data[:start] + name + data[start + len(name) :]


def _coding_type(data: bytes) -> str:
    return "IPBS"[data[data.index(VOP_START_CODE) + len(VOP_START_CODE)] >> 6]


def _pack(packets: Sequence[bytes]) -> list[bytes]:
    coded = next(packet for packet in packets if _coding_type(packet) == "P")
    placeholder = hide_mpeg4_picture(coded)[coded.index(VOP_START_CODE) :][:9]
    packed: list[bytes] = []
    behind = list(packets)
    while behind:
        first = behind.pop(0)
        leading: list[bytes] = []
        while behind and _coding_type(behind[0]) == "B":
            leading.append(behind.pop(0))
        packed.append(first + b"".join(leading[:1]))
        packed += [*leading[1:], placeholder] if leading else []
    return packed


def _spaced(before: int, behind: int, clips: ClipLibrary, path: Path) -> None:
    """A transport stream with so many bytes before and behind each packet."""
    data = clips.path("h264_open_gop.ts").read_bytes()
    packets = (data[at : at + TS_PACKET] for at in range(0, len(data), TS_PACKET))
    path.write_bytes(
        b"".join(
            number.to_bytes(4)[:before] + packet + number.to_bytes(16)[:behind] for number, packet in enumerate(packets)
        )
    )


def _earlier_second(clips: ClipLibrary, path: Path) -> None:
    later = path.with_name(f"later_{path.name}")
    remux(clips.path("h264_closed_gop.ts"), later, shift_seconds=Fraction(30))
    path.write_bytes(later.read_bytes() + clips.path("h264_closed_gop.ts").read_bytes())
    later.unlink()


def _edited(*first_numbers: int) -> Shape:
    entries = [(2 * MOVIE_TICKS, _frame_at(number)) for number in first_numbers]
    return Shape(
        make=partial(_with_edits, entries),
        container="mov",
        codec="h264",
        numbers=[number for first in first_numbers for number in range(first, first + 60)],
        fps=Fraction(30),
        notes="an edit list that goes back",
    )


_in_fields = partial(Shape, codec="h264", numbers=FIELD_FRAMES, fps=PAL)
_in_stream = partial(Shape, container="mpegts", codec="h264", numbers=FRAMES, fps=Fraction(30))

SPECIAL_SHAPES: dict[str, Shape] = {
    "h264_fields.ts": _in_fields(make=_fields, container="mpegts", notes="a packet for each field, each with its time"),
    "h264_fields_together.ts": _in_fields(
        make=partial(_fields, together=True), container="mpegts", notes="two fields with one time"
    ),
    "h264_fields.mkv": _in_fields(
        make=partial(_fields, together=True), container="matroska", notes="two fields in one packet"
    ),
    "h264_fields.mp4": _in_fields(make=_fields, container="mov", notes="a packet for each field"),
    "h264_fields.h264": _in_fields(make=_fields, container="h264", notes="fields without any times"),
    "mpeg4_packed.avi": Shape(
        make=_packed_mpeg4, container="avi", codec="mpeg4", numbers=FRAMES, fps=PAL, notes="two pictures in a packet"
    ),
    "h264_time_codes.m2ts": _in_stream(make=partial(_spaced, 4, 0), notes="192 bytes a packet"),
    "h264_error_correction.ts": _in_stream(make=partial(_spaced, 0, 16), notes="204 bytes a packet"),
    "h264_earlier_second.ts": Shape(
        make=_earlier_second,
        container="mpegts",
        codec="h264",
        numbers=[*FRAMES, *FRAMES],
        fps=Fraction(30),
        notes="two recordings in one file, the second with earlier times: by more than a minute would be a clock wrap",
    ),
    "h264_edit_list_swapped.mov": _edited(190, 75),
    "h264_edit_list_twice.mov": _edited(75, 75, 15),
}
SPECIAL_CLIP_NAMES: tuple[str, ...] = tuple(SPECIAL_SHAPES)


def all_clips(folder: Path) -> ClipLibrary:
    """These clips and those of the catalogue."""
    return ClipLibrary(folder, {**SHAPES, **SPECIAL_SHAPES})

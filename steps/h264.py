"""What the headers of H.264 (ISO 14496-10) tell and FFmpeg's demuxers do not: lost pictures, second fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from steps.bits import BitReader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_SLICE, _IDR_SLICE, _SEQUENCE, _PICTURE = 1, 5, 7, 8
_WITH_CHROMA_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""Values of profile_idc whose sequence parameter sets say more of the samples."""
_HEAD_BYTES = 2048
"""Of a packet: these nearly always hold the header of its first slice."""
_SLICE_HEADER_BYTES = 24
_MOST_CODE_BYTES = 4096


class Sequence(NamedTuple):
    """What of a sequence parameter set is needed to read slice headers."""

    frame_number_bits: int
    may_skip_numbers: bool
    """gaps_in_frame_num_value_allowed_flag"""
    may_have_fields: bool
    has_separate_planes: bool


class Picture(NamedTuple):
    """What the header of a picture's first slice says."""

    sequence: Sequence
    is_idr: bool
    is_reference: bool
    frame_number: int
    is_field: bool
    is_bottom_field: bool


class Headers:
    """The parameter sets in force, and slice headers read with them."""

    def __init__(self, extradata: bytes | None) -> None:
        """Args: `extradata`: avcC (ISO 14496-15) or start codes; None where the packets hold all."""
        self._sequences: dict[int, Sequence] = {}
        self._sequence_of_picture: dict[int, int] = {}
        self.length_bytes = 0
        """Of the length before each NAL unit of a packet; 0 where start codes stand between them."""
        data = extradata or b""
        if data[:1] == b"\x01" and len(data) > 6:
            self.length_bytes = (data[4] & 3) + 1
            units = _units_of_configuration(data)
        else:
            units = _units_between_start_codes(data)
        for unit in units:
            self._take_parameters(unit)

    @property
    def may_have_fields(self) -> bool:
        """Whether a picture may be coded as two fields."""
        return any(sequence.may_have_fields for sequence in self._sequences.values())

    def picture_of(self, packet: memoryview) -> Picture | None:
        """What the first slice in a packet says; None if that cannot be read."""
        for size in (_HEAD_BYTES, len(packet)):
            data = bytes(packet[:size])
            for unit in self._units(data):
                if unit[0] & 0x1F in (_SLICE, _IDR_SLICE):
                    return self._read_picture(unit)
                self._take_parameters(unit)
            if size >= len(packet):
                break
        return None

    def _units(self, data: bytes) -> Iterator[bytes]:
        return _units_with_lengths(data, self.length_bytes) if self.length_bytes else _units_between_start_codes(data)

    def _take_parameters(self, unit: bytes) -> None:
        kind = unit[0] & 0x1F
        if kind == _SEQUENCE:
            number, sequence = _read_sequence(BitReader(_payload(unit[1:_MOST_CODE_BYTES])))
            self._sequences[number] = sequence
        elif kind == _PICTURE:
            bits = BitReader(_payload(unit[1:16]))
            self._sequence_of_picture[bits.read_unsigned()] = bits.read_unsigned()

    def _read_picture(self, unit: bytes) -> Picture | None:
        bits = BitReader(_payload(unit[1 : 1 + _SLICE_HEADER_BYTES]))
        bits.read_unsigned()  # first_mb_in_slice
        bits.read_unsigned()  # slice_type
        sequence = self._sequences.get(self._sequence_of_picture.get(bits.read_unsigned(), -1))
        if sequence is None:
            return None
        if sequence.has_separate_planes:
            bits.read(2)
        frame_number = bits.read(sequence.frame_number_bits)
        is_field = bool(sequence.may_have_fields and bits.read(1))
        is_bottom_field = bool(is_field and bits.read(1))
        if bits.is_over:
            return None
        is_idr, is_reference = unit[0] & 0x1F == _IDR_SLICE, bool(unit[0] & 0x60)
        return Picture(sequence, is_idr, is_reference, frame_number, is_field, is_bottom_field)


class HoleFinder:
    """Finds where pictures that others refer to are missing: the numbers of frames skip, and so does the time.

    Not every such place is damage. Encoders that leave out frames keep to the numbers (7.4.3, frame_num), but some
    relays thin streams out without saying so; then it happens all the time.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self.behind_holes: list[int] = []
        """Places in the order of the file of the packets right behind a hole."""
        self._headers = Headers(extradata)
        self._count = 0
        self._before: Packet[VideoStream] | None = None
        self._step: int | None = None

    def see(self, packet: Packet[VideoStream]) -> None:
        """The next packet in the order of the file."""
        before, self._before = self._before, packet
        if packet.is_keyframe:
            # Only keyframes bring parameter sets, so that the others need not be looked at.
            self._headers.picture_of(memoryview(packet))
        if before is not None and before.dts is not None and packet.dts is not None:
            step = packet.dts - before.dts
            if self._step is not None and 2 * step > 3 * self._step and self._skips(before, packet):
                self.behind_holes.append(self._count)
            self._step = step
        self._count += 1

    def _skips(self, before: Packet[VideoStream], behind: Packet[VideoStream]) -> bool:
        first = self._headers.picture_of(memoryview(before))
        second = self._headers.picture_of(memoryview(behind))
        if first is None or second is None or second.is_idr or second.sequence.may_skip_numbers:
            return False
        expected = first.frame_number + 1 if first.is_reference else first.frame_number
        return (expected - second.frame_number) % (1 << second.sequence.frame_number_bits) > 1


def pair_fields(packets: Iterator[Packet[VideoStream]], extradata: bytes | None) -> Iterator[Packet[VideoStream]]:
    """Packets, one a frame: where two fields have a packet each, the first one with the second as its `opaque`.

    Transport streams part them so, and FFmpeg gives one picture for both, with the time of the first.
    """
    headers = Headers(extradata)
    waiting: tuple[Packet[VideoStream], Picture] | None = None
    for packet in packets:
        picture = headers.picture_of(memoryview(packet)) if packet.is_keyframe or headers.may_have_fields else None
        if waiting is not None:
            first, first_field = waiting
            waiting = None
            if picture is not None and _completes(picture, first_field):
                first.opaque = packet
                yield first
                continue
            yield first
        if picture is not None and picture.is_field:
            waiting = packet, picture
        else:
            yield packet
    if waiting is not None:
        yield waiting[0]


def empty_packet(extradata: bytes | None) -> bytes:
    """A packet without a picture: an access unit delimiter alone (7.3.2.4), in the form that the extradata says."""
    delimiter = b"\x09\xf0"
    length_bytes = Headers(extradata).length_bytes
    return (len(delimiter).to_bytes(length_bytes) if length_bytes else b"\x00\x00\x00\x01") + delimiter


def _completes(second: Picture, first: Picture) -> bool:
    return (
        second.is_field
        and second.is_bottom_field != first.is_bottom_field
        and second.frame_number == first.frame_number
        and second.is_reference == first.is_reference
        and not second.is_idr
    )


def _units_of_configuration(data: bytes) -> Iterator[bytes]:
    """The parameter sets in an AVCDecoderConfigurationRecord (ISO 14496-15, 5.3.3.1)."""
    at = 5
    for count_mask in (0x1F, 0xFF):
        if at >= len(data):
            return
        count, at = data[at] & count_mask, at + 1
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2])
            unit, at = data[at + 2 : at + 2 + size], at + 2 + size
            if unit:
                yield unit


def _units_with_lengths(data: bytes, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes])
        at += length_bytes
        if size:
            yield data[at : at + size]
        at += size


def _units_between_start_codes(data: bytes) -> Iterator[bytes]:
    start = data.find(b"\x00\x00\x01")
    while start >= 0:
        start += 3
        end = data.find(b"\x00\x00\x01", start)
        unit = data[start:] if end < 0 else data[start:end]
        if unit:
            yield unit
        start = end


def _payload(unit: bytes) -> bytes:
    """A NAL unit's bytes without those that keep start codes from arising (7.4.1)."""
    return unit.replace(b"\x00\x00\x03", b"\x00\x00")


def _read_sequence(bits: BitReader) -> tuple[int, Sequence]:
    """Number and content of a sequence parameter set (7.3.2.1.1)."""
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    number = bits.read_unsigned()
    has_separate_planes = False
    if profile in _WITH_CHROMA_FORMAT:
        chroma_format = bits.read_unsigned()
        if chroma_format == 3:
            has_separate_planes = bool(bits.read(1))
        bits.read_unsigned()  # bit depths
        bits.read_unsigned()
        bits.read(1)
        if bits.read(1):
            for index in range(8 if chroma_format != 3 else 12):
                if bits.read(1):
                    _pass_scaling_list(bits, 16 if index < 6 else 64)
    frame_number_bits = bits.read_unsigned() + 4
    order_type = bits.read_unsigned()
    if order_type == 0:
        bits.read_unsigned()
    elif order_type == 1:
        bits.read(1)
        bits.read_signed()
        bits.read_signed()
        for _ in range(min(255, bits.read_unsigned())):
            bits.read_signed()
    bits.read_unsigned()  # max_num_ref_frames
    may_skip_numbers = bool(bits.read(1))
    bits.read_unsigned()  # width and height
    bits.read_unsigned()
    may_have_fields = not bits.read(1)
    return number, Sequence(min(16, frame_number_bits), may_skip_numbers, may_have_fields, has_separate_planes)


def _pass_scaling_list(bits: BitReader, size: int) -> None:
    scale = 8
    for _ in range(size):
        scale = (scale + bits.read_signed()) % 256
        if scale == 0:
            return

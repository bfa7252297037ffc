"""What the headers of H.264 (ISO 14496-10) tell of a packet and FFmpeg does not: lost pictures, second fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from steps.bits import BitReader

_SLICE, _IDR_SLICE, _SEQUENCE, _PICTURE = 1, 5, 7, 8
_WITH_CHROMA_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_HEAD_BYTES = 2048
"""Of a packet, which nearly always hold the first slice's header."""
_SLICE_HEADER_BYTES = 24


class Sequence(NamedTuple):
    """Of a sequence parameter set, what slice headers need to be read."""

    frame_number_bits: int
    may_leave_out_frames: bool
    """gaps_in_frame_num_value_allowed_flag"""
    may_have_fields: bool
    has_separate_colour_planes: bool


class Picture(NamedTuple):
    """Of the header of a picture's first slice."""

    is_idr: bool
    is_reference: bool
    frame_number: int
    is_field: bool
    is_bottom_field: bool


class Headers:
    """The parameter sets in force, and the slice headers read with them."""

    def __init__(self, extradata: bytes | None) -> None:
        """Args: `extradata`: avcC (ISO 14496-15) or Annex B; None where packets hold all."""
        self._sequences: dict[int, Sequence] = {}
        self._sequence_of_picture: dict[int, int] = {}
        self._length_bytes = 0
        """Of the length before each NAL unit; 0 where start codes stand between them."""
        data = extradata or b""
        if data[:1] == b"\x01" and len(data) > 6:
            self._length_bytes = (data[4] & 3) + 1
            for unit in _units_of_configuration(data):
                self._take_parameters(unit)
        else:
            for unit in _units_between_start_codes(data):
                self._take_parameters(unit)

    @property
    def may_have_fields(self) -> bool:
        """Whether a picture may be coded as two fields."""
        return any(sequence.may_have_fields for sequence in self._sequences.values())

    def picture_of(self, packet: bytes | memoryview) -> Picture | None:
        """The picture that a packet begins with; None if that cannot be read."""
        for size in (_HEAD_BYTES, len(packet)):
            data = bytes(packet[:size])
            units = _units_with_lengths(data, self._length_bytes) if self._length_bytes else _units_between_start_codes(data)
            for unit in units:
                kind = unit[0] & 0x1F
                if kind in (_SLICE, _IDR_SLICE):
                    return self._picture(unit)
                self._take_parameters(unit)
            if size >= len(packet):
                return None
        return None

    def _take_parameters(self, unit: bytes) -> None:
        kind = unit[0] & 0x1F if unit else 0
        if kind == _SEQUENCE and len(unit) > 4:
            number, sequence = _read_sequence(unit)
            self._sequences[number] = sequence
        elif kind == _PICTURE:
            bits = BitReader(_payload(unit[1:17]))
            number = bits.read_unsigned()
            self._sequence_of_picture[number] = bits.read_unsigned()

    def _picture(self, unit: bytes) -> Picture | None:
        bits = BitReader(_payload(unit[1 : 1 + _SLICE_HEADER_BYTES]))
        bits.read_unsigned()  # first_mb_in_slice
        bits.read_unsigned()  # slice_type
        sequence = self._sequences.get(self._sequence_of_picture.get(bits.read_unsigned(), -1))
        if sequence is None:
            return None
        if sequence.has_separate_colour_planes:
            bits.read(2)
        frame_number = bits.read(sequence.frame_number_bits)
        is_field = bool(sequence.may_have_fields and bits.read(1))
        is_bottom_field = bool(is_field and bits.read(1))
        is_reference = bool(unit[0] & 0x60)
        return Picture(unit[0] & 0x1F == _IDR_SLICE, is_reference, frame_number, is_field, is_bottom_field)

    def sequence_of(self, number: int) -> Sequence | None: ...

"""Packets of which no picture is ever shown, by what lies in them: nothing that FFmpeg's demuxers tell says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from steps.bits import BitReader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream


class HiddenPackets:
    """Tells them apart from the others. Packets are shown to it in the order of the file, none left out.

    VP8: alternate reference frames have packets of their own (RFC 6386, 9.1: show_frame is bit 4 of the first byte).

    MPEG-4: a picture that is "not coded" stands for no change, and FFmpeg gives none for it (ISO 14496-2, 6.2.5:
    vop_coded = 0). In files of DivX and Xvid that pack bitstreams, a packet may hold two pictures, the second a B-frame
    that is shown later; FFmpeg keeps it and gives it for the packet that follows, whatever that holds.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        """Args: `extradata`: the codec's headers, where the container has them apart from the packets."""
        self._codec = codec
        self._increment_bits: int | None = None
        self._has_kept_picture = False
        self.is_packed = False
        """Whether MPEG-4 packets may hold two pictures: then times of packets are not those of pictures."""
        if codec == "mpeg4" and extradata:
            self._read_mpeg4_headers(extradata)

    def is_hidden(self, packet: Packet[VideoStream]) -> bool:
        """Whether no picture is shown for this packet, though others may refer to one in it."""
        if self._codec == "vp8":
            return packet.size > 0 and not memoryview(packet)[0] & 0x10
        if self._codec == "mpeg4":
            return self._is_hidden_mpeg4(bytes(packet))
        return False

    def _is_hidden_mpeg4(self, data: bytes) -> bool:
        self._read_mpeg4_headers(data)
        pictures = [match.end() for match in _PICTURE.finditer(data)]
        if self._has_kept_picture:
            hidden = False
        else:
            hidden = bool(pictures) and not self._is_coded(data, pictures[0])
            pictures = pictures[1:]
        # vop_coding_type is I (0) or B (2).
        self._has_kept_picture = self.is_packed and bool(pictures) and not data[pictures[0]] & 0x40
        return hidden

    def _read_mpeg4_headers(self, data: bytes) -> None:
        first_picture = _PICTURE.search(data)
        headers = data[: first_picture.start()] if first_picture else data
        if layer := _LAYER.search(headers):
            self._increment_bits = (
                _increment_bits(BitReader(headers[layer.end() : layer.end() + _HEADER_BYTES])) or self._increment_bits
            )
        if made_by := _DIVX.search(headers):
            self.is_packed = made_by[1] == b"p"

    def _is_coded(self, data: bytes, start: int) -> bool:
        if self._increment_bits is None:
            return True
        bits = BitReader(data[start : start + _HEADER_BYTES])
        bits.read(2)  # vop_coding_type
        while bits.read(1):  # modulo_time_base
            pass
        bits.read(1 + self._increment_bits + 1)  # marker, vop_time_increment, marker
        return bits.is_over or bool(bits.read(1))


_HEADER_BYTES = 64
_PICTURE = re.compile(rb"\x00\x00\x01\xb6(?=.)", re.DOTALL)
_LAYER = re.compile(rb"\x00\x00\x01[\x20-\x2f]")
_DIVX = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+(p?)")


def _increment_bits(bits: BitReader) -> int | None:
    """Bits of vop_time_increment, from a video object layer (6.2.3); None if it is cut off."""
    bits.read(1 + 8)  # random_accessible_vol, video_object_type_indication
    version = 1
    if bits.read(1):
        version = bits.read(4)
        bits.read(3)
    if bits.read(4) == 15:  # aspect_ratio_info: extended
        bits.read(16)
    if bits.read(1):  # vol_control_parameters
        bits.read(2 + 1)
        if bits.read(1):
            bits.read(79)
    if bits.read(2) == 3 and version != 1:  # video_object_layer_shape: grey-scale
        bits.read(4)
    bits.read(1)
    resolution = bits.read(16)
    return None if bits.is_over else max(1, (resolution - 1).bit_length())

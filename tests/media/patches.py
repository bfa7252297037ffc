"""Changes to the bytes of finished files, for what no encoder or muxer can be asked for."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

TS_PACKET = 188
TS_SYNC = 0x47
CONTAINER_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"}
CLUSTER_ID = b"\x1f\x43\xb6\x75"
VP8_SHOW_FRAME = 0x10
VOP_START_CODE = b"\x00\x00\x01\xb6"


@dataclass
class Box:
    """A box of an MP4 or MOV file: a container of `children`, or a leaf with a `payload`."""

    kind: bytes
    payload: bytes = b""
    children: list[Box] = field(default_factory=list)

    def find(self, *kinds: bytes) -> Box:
        """The first descendant along `kinds`."""
        box = self
        for kind in kinds:
            box = next(child for child in box.children if child.kind == kind)
        return box

    def to_bytes(self) -> bytes:
        body = b"".join(child.to_bytes() for child in self.children) if self.children else self.payload
        return struct.pack(">I4s", len(body) + 8, self.kind) + body


def parse_boxes(data: bytes) -> list[Box]:
    """The boxes of an MP4 or MOV file whose sizes all fit in 32 bits."""
    boxes, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        boxes.append(Box(kind, children=parse_boxes(body)) if kind in CONTAINER_BOXES else Box(kind, body))
        at += size
    return boxes


def edit_moov(data: bytes, edit: Callable[[Box], None]) -> bytes:
    """The file with `edit` done to its moov, which must be the last box, so that no chunk offset moves."""
    boxes = parse_boxes(data)
    if boxes[-1].kind != b"moov":
        raise ValueError("the moov box is not the last one")
    edit(boxes[-1])
    return b"".join(box.to_bytes() for box in boxes)


def replace_box(root: Box, kinds: Sequence[bytes], box: Box) -> None:
    """Puts `box` in place of the first descendant of `root` along `kinds`."""
    parent, old = root.find(*kinds[:-1]), root.find(*kinds)
    parent.children[parent.children.index(old)] = box


def edit_list(entries: Sequence[tuple[int, int]]) -> Box:
    """An edts box of (duration in movie ticks, first media time in media ticks, or -1 for nothing shown)."""
    payload = struct.pack(">II", 0, len(entries))
    for duration, media_time in entries:
        payload += struct.pack(">IiI", duration, media_time, 0x10000)
    return Box(b"edts", children=[Box(b"elst", payload)])


def edit_list_entries(moov: Box) -> list[tuple[int, int]]:
    """The entries of the first track's edit list, as `edit_list` takes them."""
    payload = moov.find(b"trak", b"edts", b"elst").payload
    (count,) = struct.unpack_from(">I", payload, 4)
    return [struct.unpack_from(">Ii", payload, 8 + 12 * index) for index in range(count)]


def damage(data: bytes, first: int, last: int) -> bytes:
    """The bytes from `first` up to `last` overwritten with noise, the same at each call."""
    noise = np.random.default_rng(1).integers(0, 256, last - first, dtype=np.uint8).tobytes()
    return data[:first] + noise + data[last:]


def hide_vp8_picture(packet: bytes) -> bytes:
    """A VP8 packet made one that is decoded and not shown (RFC 6386, section 9.1)."""
    return bytes([packet[0] & ~VP8_SHOW_FRAME]) + packet[1:]


def hide_mpeg4_picture(packet: bytes, time_increment_bits: int = 5) -> bytes:
    """An MPEG-4 packet whose picture is made 'not coded' (ISO/IEC 14496-2, vop_coded = 0).

    `time_increment_bits` hold one less than the ticks a second that the encoder uses: 5 for 25.
    """
    start = packet.index(VOP_START_CODE) + len(VOP_START_CODE)
    header = f"{int.from_bytes(packet[start : start + 8]):064b}"
    bit = header.index("0", 2) + 1 + 1 + time_increment_bits + 1  # whole seconds, marker, increment, marker
    flag = 0x80 >> bit % 8
    at = start + bit // 8
    if not packet[at] & flag:
        raise ValueError("the picture is not coded already, or its header is longer")
    return packet[:at] + bytes([packet[at] & ~flag]) + packet[at + 1 :]


def _exp_golomb(value: int) -> str:
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def sequence_parameter_set(width: int, height: int) -> bytes:
    """An H.264 SPS (baseline, level 5.1) that claims `width` x `height` pixels, multiples of 16."""
    bits = "".join(f"{byte:08b}" for byte in (66, 0, 51))
    fields = (0, 0, 2, 1)  # id, frame number bits, order type (output in decoding order), reference frames
    bits += "".join(map(_exp_golomb, fields)) + "0"  # no gaps in frame numbers
    bits += _exp_golomb(width // 16 - 1) + _exp_golomb(height // 16 - 1)
    bits += "11001"  # frames only, direct 8x8, no cropping, no VUI, stop bit
    bits += "0" * (-len(bits) % 8)
    payload = bytearray([0x67])
    zeros = 0
    for byte in (int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)):
        if zeros >= 2 and byte <= 3:
            payload.append(3)  # emulation prevention
            zeros = 0
        payload.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(payload)


def claim_size(moov: Box, width: int, height: int, *, everywhere: bool) -> None:
    """Makes the first H.264 track claim a size: in its SPS, and with `everywhere` in the boxes' headers too."""
    track = moov.find(b"trak")
    description = track.find(b"mdia", b"minf", b"stbl", b"stsd")
    entries = description.payload
    at = entries.index(b"avcC") - 4
    (size,) = struct.unpack_from(">I", entries, at)
    configuration = entries[at + 8 : at + size]
    (sps_size,) = struct.unpack_from(">H", configuration, 6)
    sps = sequence_parameter_set(width, height)
    configuration = configuration[:6] + struct.pack(">H", len(sps)) + sps + configuration[8 + sps_size :]
    entry = bytearray(entries[8:at] + Box(b"avcC", configuration).to_bytes() + entries[at + size :])
    struct.pack_into(">I", entry, 0, len(entry))
    if everywhere:
        struct.pack_into(">HH", entry, 32, width, height)
        header = track.find(b"tkhd")
        header.payload = header.payload[:-8] + struct.pack(">II", width << 16, height << 16)
    description.payload = entries[:8] + bytes(entry)


def claim_avi_size(data: bytes, width: int, height: int) -> bytes:
    """An MJPEG AVI file whose headers and pictures all claim a size."""
    patched = bytearray(data)
    struct.pack_into("<II", patched, patched.index(b"avih") + 8 + 32, width, height)
    struct.pack_into("<ii", patched, patched.index(b"strf") + 8 + 4, width, height)
    start_of_frame = b"\xff\xc0\x00\x11\x08"
    at = patched.find(start_of_frame)
    while at >= 0:
        struct.pack_into(">HH", patched, at + len(start_of_frame), height, width)
        at = patched.find(start_of_frame, at + 1)
    return bytes(patched)


def ebml_number(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length number of Matroska with its length marker taken off, and how many bytes it takes."""
    width = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + width]) & ((1 << 7 * width) - 1), width


def forget_cluster_sizes(data: bytes) -> bytes:
    """A Matroska file whose clusters are of unknown size (all bits set), as live senders write them."""
    patched = bytearray(data)
    size, width = ebml_number(data, 4)
    at = 4 + width + size  # behind the EBML header
    at += 4 + ebml_number(data, at + 4)[1]  # into the segment
    while at < len(data):
        _, id_width = ebml_number(data, at)
        size, width = ebml_number(data, at + id_width)
        if data[at : at + id_width] == CLUSTER_ID:
            patched[at + id_width : at + id_width + width] = bytes([0xFF >> (width - 1)]) + b"\xff" * (width - 1)
        at += id_width + width + size
    return bytes(patched)


def ts_presentation_times(data: bytes) -> Iterator[int]:
    """The 33-bit PTS of every PES packet of a transport stream, as written, in the order of the file."""
    for at in range(0, len(data) - TS_PACKET + 1, TS_PACKET):
        packet = data[at : at + TS_PACKET]
        starts, adapted = packet[1] & 0x40, packet[3] & 0x20
        payload = packet[5 + packet[4] if adapted else 4 :]
        if packet[0] == TS_SYNC and starts and payload[:3] == b"\x00\x00\x01" and payload[7] & 0x80:
            high, middle, low = payload[9] >> 1 & 7, *struct.unpack_from(">HH", payload, 10)
            yield high << 30 | middle >> 1 << 15 | low >> 1

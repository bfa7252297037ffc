"""Changes to the bytes of finished files: what no muxer can be asked for."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

TS_PACKET = 188
CONTAINER_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"}


@dataclass
class Box:
    """An ISO media box: a container of `children`, or a leaf with a `payload`."""

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


def edit_list(entries: Sequence[tuple[int, int]]) -> Box:
    """An edts box of (duration in movie ticks, first media time in media ticks, -1 for an empty edit)."""
    payload = struct.pack(">II", 0, len(entries))
    for duration, media_time in entries:
        payload += struct.pack(">IiI", duration, media_time, 0x10000)
    return Box(b"edts", children=[Box(b"elst", payload)])


def damage(data: bytes, first: int, last: int, *, seed: int = 1) -> bytes:
    """The bytes from `first` up to `last` overwritten with noise."""
    noise = np.random.default_rng(seed).integers(0, 256, last - first, dtype=np.uint8).tobytes()
    return data[:first] + noise + data[last:]


def ts_packets(data: bytes) -> Iterable[bytes]:
    return (data[at : at + TS_PACKET] for at in range(0, len(data) - TS_PACKET + 1, TS_PACKET))

"""Transport streams (ISO 13818-1): the size of their packets, and where packets of the picture were lost.

FFmpeg reads on over a loss and gives what is left of a picture as if it were whole: the mark that it sets on such data
does not come through its parser. So losses are found here, in the bytes that pass by while the index is read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SYNC = 0x47
PACKET_BYTES = 188
PACKET_STRIDES = (188, 192, 204)
"""Plain; with a time code of 4 bytes before each packet (Blu-ray); with 16 bytes of error correction behind it."""
_RECOGNISED_SHARE = 0.5
_EXAMINED_BYTES = 64 << 10
_TRANSPORT_ERROR, _STARTS, _ADAPTATION, _PAYLOAD, _COUNTER = 0x80, 0x40, 0x20, 0x10, 0x0F
_DISCONTINUITY = 0x80
_HEADER_BYTES = 6


class Loss(NamedTuple):
    """A place where packets of the picture are missing or spoilt. Positions are FFmpeg's, as a frame's `pos`."""

    before: int
    """Position of the last packet of the picture before the loss."""
    after: int | None
    """Position of the first one behind it; None at the end of the file."""
    ends_before: bool
    """Whether a frame ends with the packet before."""
    starts_after: bool
    """Whether a frame starts with the packet behind."""


class Grid(NamedTuple):
    """Where packets begin: each `stride` bytes (188, 192 or 204), `offset` being the first such place in the file."""

    stride: int
    offset: int

    def last_before(self, position: int) -> int:
        """The last place at or before a position where what follows may be left out and reading goes on in step."""
        # FFmpeg goes on from a packet's end by what lies between packets, be it before or behind them.
        return position - (position - self.offset + self.stride - PACKET_BYTES) % self.stride


def packet_grid(start: bytes) -> Grid | None:
    """The grid of a transport stream; None if it is none.

    Args:
        start: the first bytes of the file. Some of them may be damaged.
    """
    start = start[:_EXAMINED_BYTES]
    places = np.flatnonzero(np.frombuffer(start, dtype=np.uint8) == SYNC)
    best, best_share = None, _RECOGNISED_SHARE
    for stride in PACKET_STRIDES:
        hits = np.bincount(places % stride, minlength=stride)
        offset = int(hits.argmax())
        share = int(hits[offset]) / max(1, len(start) // stride)
        if share > best_share:
            best, best_share = Grid(stride, offset), share
    return best


class LossFinder:
    """Finds the losses of one stream (PID) in the bytes of a file, given to it in order.

    It reads as FFmpeg does, so that both see the same packets: from where one ends to the next byte 0x47 (after a loss
    of step that may be a chance byte). A packet is lost where the continuity counter of the PID does not go up by one
    (2.4.3.3; not for a packet without payload, nor where the discontinuity indicator excuses it), where step was lost
    since the packet before, or where the packet says so itself (transport error). A packet sent twice, as the standard
    allows, counts as one lost: FFmpeg takes its bytes twice.
    """

    def __init__(self) -> None:
        self.losses: list[Loss] = []
        self._pid: int | None = None
        self._stride = PACKET_BYTES
        self._data = b""
        self._data_position = 0
        """Position in the file of the first byte not dealt with. It may lie behind what has been read so far."""
        self._is_transport_stream = True
        self._lost_step = False
        self._last_in_step: set[int] = set()
        """Positions of the packets, of whatever PID, after which step was lost: their own ends may be spoilt."""
        self._last_counter: int | None = None
        self._last_packet = b""
        self._last_position = 0

    def feed(self, position: int, data: bytes) -> None:
        """Take the file's bytes from `position` on. Bytes given before are passed over."""
        awaited = self._data_position + len(self._data)
        if position == awaited == 0:
            grid = packet_grid(data)
            self._is_transport_stream = grid is not None
            self._stride = grid.stride if grid else PACKET_BYTES
        if not self._is_transport_stream:
            return
        if position > awaited:
            # What was jumped over is not known to be lost.
            self._data, self._data_position, self._last_counter = b"", position, None
            awaited = position
        self._data += data[awaited - position :]
        if self._pid is not None:
            self._advance()

    def watch(self, pid: int) -> None:
        """Begin with what was fed so far; until then it is held in memory."""
        self._pid = pid
        self._advance()

    def end(self) -> None:
        """The file ends here: a packet that was begun is a loss."""
        if self._data and self._last_packet:
            self.losses.append(Loss(self._last_position, None, _is_filled_up(self._last_packet), False))
        self._data = b""

    def _advance(self) -> None:
        data, at = self._data, 0
        while True:
            count = (len(data) - at - PACKET_BYTES) // self._stride + 1
            if count < 1:
                break
            packets = np.lib.stride_tricks.as_strided(
                np.frombuffer(data, dtype=np.uint8, offset=at),
                (count, PACKET_BYTES),
                (self._stride, 1),
                writeable=False,
            )
            out_of_step = np.flatnonzero(packets[:, 0] != SYNC)
            in_step = int(out_of_step[0]) if len(out_of_step) else count
            if in_step:
                self._check(packets[:in_step], self._data_position + at)
            at += in_step * self._stride
            if in_step < count:
                self._lost_step = True
                self._last_in_step.add(self._position(self._data_position + at, -1))
                found = data.find(SYNC, max(0, at - (self._stride - PACKET_BYTES)))
                at = len(data) if found < 0 else found
        self._data, self._data_position = data[at:], self._data_position + at

    def _check(self, packets: NDArray[np.uint8], position: int) -> None:
        """Look for losses in packets that follow one another from `position` of the file on; uint8 [N, 188]."""
        header = packets[:, :_HEADER_BYTES].astype(np.int32)
        rows = np.flatnonzero(((header[:, 1] & 0x1F) << 8 | header[:, 2]) == self._pid)
        if not len(rows):
            return
        header = header[rows]
        flags, counter = header[:, 3], header[:, 3] & _COUNTER
        previous = np.empty_like(counter)
        previous[1:] = counter[:-1]
        previous[0] = counter[0] - 1 if self._last_counter is None else self._last_counter
        expected = (previous + ((flags & _PAYLOAD) != 0)) & _COUNTER
        excused = ((flags & _ADAPTATION) != 0) & (header[:, 4] > 0) & ((header[:, 5] & _DISCONTINUITY) != 0)
        broken = (counter != expected) & ~excused
        broken[0] = self._last_counter is not None and (broken[0] or self._lost_step)
        spoilt = (header[:, 1] & _TRANSPORT_ERROR) != 0
        for row in np.flatnonzero(broken | spoilt):
            here = self._position(position, rows[row])
            if spoilt[row]:
                self.losses.append(Loss(here, here, False, False))
            if broken[row]:
                before, place = self._last_packet, self._last_position
                if row:
                    before, place = packets[rows[row - 1]].tobytes(), self._position(position, rows[row - 1])
                ends_before = place not in self._last_in_step and _is_filled_up(before)
                self.losses.append(Loss(place, here, ends_before, bool(header[row, 1] & _STARTS)))
        self._lost_step = False
        self._last_in_step.clear()
        self._last_counter = int(counter[-1])
        self._last_packet = packets[rows[-1]].tobytes()
        self._last_position = self._position(position, rows[-1])

    def _position(self, first: int, row: int | np.int64) -> int:
        # FFmpeg goes back from a packet's end by the distance between packets, not by their size.
        return first + int(row) * self._stride - (self._stride - PACKET_BYTES)


def _is_filled_up(packet: bytes) -> bool:
    """Whether a packet is stuffed to its size, which is how the end of a frame is carried (2.4.3.5)."""
    if not packet[3] & _ADAPTATION:
        return False
    length = packet[4]
    if length == 0:
        return True
    flags, needed = packet[5], 1
    needed += 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    for present in (flags & 0x02, flags & 0x01):
        if present and 5 + needed <= 4 + length:
            needed += 1 + packet[5 + needed]
    return length > needed


def damaged_packets(losses: list[Loss], positions: NDArray[np.int64]) -> tuple[NDArray[np.bool_], list[int]]:
    """Which of the packets that FFmpeg made of a stream lack a part (bool [N]), and which follow upon lost ones.

    Args:
        positions: where in the file each begins, in the order of the file; -1 for one that begins together with the one
            before.
    """
    damaged = np.zeros(len(positions), dtype=np.bool_)
    behind: list[int] = []
    starts = np.maximum.accumulate(positions)
    for loss in losses:
        first = int(np.searchsorted(starts, loss.before, side="right")) - 1
        end = len(starts)
        if loss.after is not None:
            end = int(np.searchsorted(starts, loss.after, side="left" if loss.starts_after else "right"))
        behind.append(end)
        if loss.ends_before and (loss.starts_after or loss.after is None):
            first += 1
        elif first >= 0:
            # Several frames may share one place: which of them was hit is not known. What is left of a frame whose
            # start is gone was added to the frame before.
            first = int(np.searchsorted(starts, starts[first], side="left"))
        damaged[max(first, 0) : end] = True
    return damaged, [number for number in behind if number < len(positions)]

"""Groups of pictures: the packets between keyframes, so that each group can be decoded by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream


GroupPackets = Iterator[tuple["Packet[VideoStream]", bool]]
"""The packets to decode for one group, each with whether its own picture belongs to the group.

They go from one keyframe to before the next, and then come that one and the pictures that lead it: those lie behind it
in the file, are shown before it, and may need the group before. So the ends of two groups overlap.
"""


class Groups:
    """Splits packets into groups. Each group has to be read to its end before the next one is asked for."""

    def __init__(self, packets: Iterator[Packet[VideoStream]]) -> None:
        self._packets = packets
        self._waiting: deque[Packet[VideoStream]] = deque()
        self._highest_key_pts: int | None = None

    def __iter__(self) -> Iterator[GroupPackets]:
        while self._waiting or self._fill():
            yield self._group()

    def _group(self) -> GroupPackets:
        # Those that wait begin this group; the ones that will wait behind it begin the next.
        again, self._waiting = self._waiting, deque()
        first = again.popleft()
        if _is_key(first):
            self._highest_key_pts = first.pts
        yield first, True
        leads_first = True
        while again or self._fill():
            packet = again.popleft() if again else self._waiting.pop()
            if not self._waiting:
                leads_first = leads_first and _leads(packet, first)
                starts = self._starts_a_group(packet)
                if starts:
                    self._waiting.append(packet)
                yield packet, not starts and not leads_first
            elif _leads(packet, self._waiting[0]):
                self._waiting.append(packet)
                yield packet, True
            else:
                self._waiting.append(packet)
                self._waiting.extend(again)
                return

    def _fill(self) -> bool:
        packet = next(self._packets, None)
        if packet is not None:
            self._waiting.append(packet)
        return packet is not None

    def _starts_a_group(self, packet: Packet[VideoStream]) -> bool:
        # An edit list may go back to a keyframe of an earlier time; that is no place to cut.
        return _is_key(packet) and (self._highest_key_pts is None or (packet.pts or 0) > self._highest_key_pts)


def _is_key(packet: Packet[VideoStream]) -> bool:
    return packet.is_keyframe and packet.pts is not None


def _leads(packet: Packet[VideoStream], key: Packet[VideoStream]) -> bool:
    return _is_key(key) and packet.pts is not None and packet.pts < (key.pts or 0) and not packet.is_keyframe

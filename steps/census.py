"""Which decoded pictures can be trusted, where a chunk shows signs of damage, and which frame a picture is."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


_MOST_LATE = 32
"""Pictures that may come out before one whose turn it was."""


class Census:
    """What one thread made of every packet of a chunk, and so which wanted pictures can be trusted, by their pts.

    A picture can be trusted if no packet from the last sound keyframe of its group up to its own is damaged: one that
    the demuxer or the plan says is, that the decoder refuses, whose picture is marked corrupt, comes out of turn, or is
    wanted and does not come out at all.
    """

    def __init__(self, wanted_pts: Collection[int], damaged_pts: Collection[int]) -> None:
        """Args: `damaged_pts`: of packets that are known to be damaged."""
        self._wanted = wanted_pts
        self._known_damage = damaged_pts
        self.trusted: set[int] = set()
        self.has_unclean_key = False
        """Whether a keyframe without a sign of damage is no place to start, as in the middle of an intra refresh."""
        self.begin_group()

    def begin_group(self) -> None:
        """What comes now is decoded without what came before."""
        self._packets = 0
        self._counts = True
        self._place: dict[int, int] = {}
        """Place in the order of decoding of each packet whose picture belongs to the group, by pts."""
        self._next_key: tuple[int, int] | None = None
        """Place and pts of the next group's keyframe, of which the last pictures of this one are made too."""
        self._keys: list[tuple[int, int, bool]] = []
        """Place, pts and whether it is displayed, of each key packet that belongs to the group."""
        self._damaged: list[int] = []
        self._came_out: dict[int, bool] = {}
        """Whether it was a keyframe, for the pts of each sound picture."""
        self._highest_pts: int | None = None

    def see_packet(self, packet: Packet[VideoStream], *, belongs: bool, hidden: bool, damaged: bool) -> None:
        """`packet` goes into the decoder.

        Args:
            belongs: whether its picture is one of the group.
            hidden: whether no picture of it is shown, by what lies in it.
            damaged: whether the demuxer says that it is.
        """
        pts = packet.pts
        if pts is not None and belongs:
            displayed = not packet.is_discard and not hidden
            if packet.is_keyframe:
                self._keys.append((self._packets, pts, displayed))
            if displayed:
                self._place.setdefault(pts, self._packets)
        elif pts is not None and packet.is_keyframe and not packet.is_discard:
            self._next_key = self._packets, pts
        self._packets += 1
        # What leads the group's own keyframe lacks what it is made of, which says nothing of the rest.
        self._counts = belongs or packet.is_keyframe
        if damaged or (pts in self._known_damage and not packet.is_discard):
            self._mark_last()

    def see_result(self, frames: Iterable[VideoFrame], sound: bool) -> None:
        """`frames` came out of the decoder then. Not `sound`: it refused the packet."""
        if not sound:
            self._mark_last()
        for frame in frames:
            if frame.pts is None:
                continue
            if frame.is_corrupt or (self._highest_pts is not None and frame.pts <= self._highest_pts):
                place = self._place_of(frame.pts)
                if place is not None:
                    self._damaged.append(place)
            else:
                self._came_out[frame.pts] = frame.key_frame
                self._highest_pts = frame.pts

    def end_group(self) -> None:
        """All of the group has been seen."""
        if self._keys:
            place, pts, displayed = self._keys[0]
            is_clean = not displayed or self._came_out.get(pts, False) or place in self._damaged
            self.has_unclean_key = self.has_unclean_key or not is_clean
        wanted = [pts for pts in self._place if pts in self._wanted]
        self._damaged += [self._place[pts] for pts in wanted if pts not in self._came_out]
        if self._next_key and self._next_key[1] not in self._came_out:
            self._damaged.append(self._next_key[0])
        self._damaged.sort()
        keys = [
            (place, pts) for place, pts, displayed in self._keys
            if not displayed or self._came_out.get(pts, False)
        ]  # fmt: skip
        self.trusted.update(pts for pts in wanted if pts in self._came_out and self._is_whole(pts, keys))

    def _mark_last(self) -> None:
        if self._counts:
            self._damaged.append(self._packets - 1)

    def _place_of(self, pts: int) -> int | None:
        if self._next_key and pts == self._next_key[1]:
            return self._next_key[0]
        return self._place.get(pts)

    def _is_whole(self, pts: int, sound_keys: list[tuple[int, int]]) -> bool:
        """Whether nothing that the picture is made of is damaged."""
        place = self._place[pts]
        # Pictures that lead a keyframe are decoded behind it but made of what came before it too.
        number = bisect.bisect_right(sound_keys, (place, pts)) - 1
        while number >= 0 and sound_keys[number][1] > pts:
            number -= 1
        since = sound_keys[number][0] if number >= 0 else 0
        first = bisect.bisect_left(self._damaged, since)
        return first == len(self._damaged) or self._damaged[first] > place


class Counter:
    """Says which displayed frame a picture is where pts do not, and whether it shows what it should."""

    def __init__(self, displayed_pts: Sequence[int | None] | None, damaged: Collection[int] = ()) -> None:
        """Args:
        displayed_pts: of all displayed frames in order; None where they have none.
        damaged: numbers of frames that are known to be damaged.
        """
        self._displayed_pts = displayed_pts
        self._damaged = frozenset(damaged)
        self._next = 0
        self.trusted = True
        """Whether the last picture asked about is what its number says."""

    def number_of(self, frame: VideoFrame, *, sound: bool) -> int | None:
        """Number of the frame; None for a picture that the plan does not know."""
        number = self._next
        if self._displayed_pts is None:
            # One picture lost shifts all that follow, and nothing tells how many were.
            self.trusted = self.trusted and sound
        else:
            if frame.pts in self._displayed_pts[max(0, self._next - _MOST_LATE) : self._next]:
                # Its turn is over; the same time may come again much later.
                return None
            try:
                number = self._displayed_pts.index(frame.pts, self._next)
            except ValueError:
                return None
            sound = sound and number not in self._damaged
            unbroken = number == self._next and self.trusted
            self.trusted = sound and (unbroken or bool(frame.key_frame))
        self._next = number + 1
        return number

"""Decoding exactly the frames of a chunk.

The fast way decodes with all threads, skips pictures that nothing refers to, and jumps over groups of pictures in which
no frame is wanted. It trusts what comes out only while there is no sign of damage: a packet that the plan knows to be
damaged, a decoding error, a packet or picture marked corrupt, a keyframe that is none, pictures out of turn, a wanted
picture that does not come out. At the first such sign the chunk starts again the careful way: one thread (threads
conceal damage differently), each group of pictures by itself, twice through: first to learn which packets are damaged,
then to give out the pictures. Everything from a damaged packet to the next sound keyframe is not to be trusted, though
decoders go on giving pictures, most of them unmarked; it is `not_decodable`. So what a frame shows, and whether it is
listed as missing, does not depend on where its chunk begins and ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import av.error

from steps.access import ChunkAccess, is_key_of, is_last_of
from steps.census import Census, Counter
from steps.groups import GroupPackets, Groups
from steps.hidden import HiddenPackets

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from steps.container import VideoFile
    from steps.plan import Chunk, Plan, Segment
    from steps.settings import Settings
    from steps.source import Source

_MOST_WAITING = 64
_MOST_DRAINS = 64


class Damage(Exception):
    """The chunk shows a sign of damage and has to be decoded the careful way."""


class DecodedFrame(NamedTuple):
    """An analysed frame. `picture` is None where it cannot be decoded."""

    number: int
    pts: int | None
    time_seconds: float
    picture: VideoFrame | None


class ChunkDecoder:
    """Gives the wanted frames of one chunk in order. Use one for each attempt at a chunk."""

    def __init__(
        self, source: Source, plan: Plan, chunk: Chunk, segments: list[Segment], settings: Settings, *, deadline: float
    ) -> None:
        """Args: `deadline`: `time.monotonic()` after which it gives up with TimeLimitError.

        Raises:
            ObjectChangedError: `source` is not what was planned.
        """
        self._plan = plan
        self._segments = segments
        self._access = ChunkAccess(source, plan, chunk, settings, deadline=deadline)

    @property
    def bytes_read(self) -> int:
        """Bytes of the video read so far."""
        return self._access.bytes_read

    def frames(self, *, careful: bool = False) -> Iterator[DecodedFrame]:
        """The wanted frames, ascending.

        Raises:
            Damage: there is a sign of damage; what was given out so far must be dropped. Never if `careful`.
            BadInputError, OutsideError: the video cannot be read.
        """
        if self._plan.identify_by != "pts":
            return self._by_count(careful)
        return self._carefully_by_pts() if careful else self._quickly_by_pts()

    def _refuse_known_damage(self) -> None:
        if any(segment.damaged for segment in self._segments):
            raise Damage("the plan knows of damaged packets")

    # By pts, the fast way

    def _quickly_by_pts(self) -> Iterator[DecodedFrame]:
        self._refuse_known_damage()
        file, packets = self._access.start(self._segments[0], one_thread=False)
        try:
            packet = next(packets, None)
            for number, segment in enumerate(self._segments):
                if number:
                    packet = _skip_to_key(packets, segment)
                    file.flush()
                yield from self._decode_segment(file, segment, packet, packets)
        finally:
            file.close()

    def _decode_segment(
        self, file: VideoFile, segment: Segment, packet: Packet[VideoStream] | None,
        packets: Iterator[Packet[VideoStream]],
    ) -> Iterator[DecodedFrame]:  # fmt: skip
        wanted = _Wanted(self._plan, segment)
        turn = _Turn(segment)
        while packet is not None:
            if file.says_damaged(packet):
                raise Damage(f"the packet with pts {packet.pts} is damaged")
            _skip_unless_wanted(file, packet, wanted.pts)
            last = is_last_of(packet, segment)
            for frame in _decode_or_damage(file, packet, drain=last):
                turn.check(frame)
                yield from wanted.take(frame)
            if last:
                break
            packet = next(packets, None)
        wanted.expect_none_left()

    # By pts, the careful way

    def _carefully_by_pts(self) -> Iterator[DecodedFrame]:
        by_group = True
        census = self._take_census(by_group)
        if census.has_unclean_key:
            by_group = False
            census = self._take_census(by_group)
        wanted = _Wanted(self._plan, *self._segments, only=census.trusted)
        yield from wanted.ready()
        for frame in self._all_pictures(wanted.pts, by_group, None):
            yield from wanted.take(frame)
        yield from wanted.give_up()

    def _take_census(self, by_group: bool) -> Census:
        wanted = _Wanted(self._plan, *self._segments).pts
        census = Census(wanted, frozenset(pts for segment in self._segments for pts in segment.damaged))
        for _ in self._all_pictures(wanted, by_group, census):
            pass
        return census

    def _all_pictures(self, wanted: frozenset[int], by_group: bool, census: Census | None) -> Iterator[VideoFrame]:
        """All that one thread makes of the chunk, whatever happens on the way; to each group its own pictures.

        Each group is decoded to its end, by itself, so that neither damage before it nor where the chunk begins and
        ends make a difference. Without `by_group` all is decoded from the start of the file, as one group.
        """
        file, packets = self._access.start(self._segments[0], one_thread=True, from_start=not by_group)
        hidden = HiddenPackets(self._plan.video.codec, file.extradata)
        groups: Iterable[GroupPackets] = Groups(packets) if by_group else [self._as_one_group(packets)]
        left = len(wanted)
        try:
            for group in groups:
                pts_of_group: set[int] = set()
                if census:
                    census.begin_group()
                for packet, belongs in itertools.chain(group, itertools.repeat((None, False), _MOST_DRAINS)):
                    if packet is not None:
                        if belongs and packet.pts is not None and not packet.is_discard:
                            pts_of_group.add(packet.pts)
                        if census:
                            census.see_packet(
                                packet,
                                belongs=belongs,
                                hidden=hidden.is_hidden(packet),
                                damaged=file.says_damaged(packet),
                            )
                        _skip_unless_wanted(file, packet, wanted)
                    frames, sound = _decode_anyway(file, packet)
                    if census:
                        census.see_result(frames, sound)
                    yield from (frame for frame in frames if frame.pts in pts_of_group)
                    if packet is None and sound and not frames:
                        break
                if census:
                    census.end_group()
                file.flush()
                left -= len(pts_of_group & wanted)
                if left <= 0:
                    break
        finally:
            file.close()

    def _as_one_group(self, packets: Iterator[Packet[VideoStream]]) -> GroupPackets:
        for packet in packets:
            yield packet, True
            if is_last_of(packet, self._segments[-1]):
                return

    # By counting, where pts do not tell frames apart

    def _by_count(self, careful: bool) -> Iterator[DecodedFrame]:
        if not careful:
            self._refuse_known_damage()
        segment = self._segments[0]
        counter = Counter(segment.displayed_pts, segment.damaged)
        position = 0
        for frame, sound in self._counted_pictures(careful):
            number = counter.number_of(frame, sound=sound and not frame.is_corrupt)
            if not careful and not counter.trusted:
                raise Damage("pictures are missing or damaged")
            while number is not None and position < len(segment.frames) and segment.frames[position] < number:
                yield self._counted(segment, position, None)
                position += 1
            if position < len(segment.frames) and segment.frames[position] == number:
                yield self._counted(segment, position, frame if counter.trusted else None)
                position += 1
            if position == len(segment.frames):
                return
        if not careful:
            raise Damage("pictures are missing at the end")
        for rest in range(position, len(segment.frames)):
            yield self._counted(segment, rest, None)

    def _counted_pictures(self, careful: bool) -> Iterator[tuple[VideoFrame, bool]]:
        file, packets = self._access.start(self._segments[0], one_thread=careful)
        sound = True
        try:
            for packet in itertools.chain(packets, itertools.repeat(None, _MOST_DRAINS)):
                frames, decoded = _decode_anyway(file, packet)
                sound = sound and decoded and not (packet is not None and file.says_damaged(packet))
                for frame in frames:
                    yield frame, sound
                    sound = True
                if packet is None and decoded and not frames:
                    break
        finally:
            file.close()

    def _counted(self, segment: Segment, position: int, frame: VideoFrame | None) -> DecodedFrame:
        ticks = 0 if segment.ticks is None else segment.ticks[position]
        seconds = float(ticks * self._plan.video.time_base_fraction)
        return DecodedFrame(segment.frames[position], segment.pts[position], round(seconds, 6), frame)


class _Wanted:
    """Puts the pictures that come out into the order of the frames that are wanted."""

    def __init__(self, plan: Plan, *segments: Segment, only: set[int] | None = None) -> None:
        """Args: `only`: the pts that can be trusted; None trusts all."""
        self._video = plan.video
        self._queue = [
            (number, pts) for segment in segments for number, pts in zip(segment.frames, segment.pts, strict=True)
            if pts is not None
        ]  # fmt: skip
        self.pts = frozenset(pts for _, pts in self._queue)
        self._only = only
        self._next = 0
        self._arrived: dict[int, VideoFrame] = {}

    def take(self, frame: VideoFrame) -> Iterator[DecodedFrame]:
        """What can be given out now that `frame` is there. Raises Damage if a frame is overdue."""
        if frame.pts in self.pts and (self._only is None or frame.pts in self._only):
            self._arrived[frame.pts] = frame
            yield from self.ready()
            if self._only is None and len(self._arrived) > _MOST_WAITING:
                raise Damage(f"the picture with pts {self._queue[self._next][1]} did not come out")

    def ready(self) -> Iterator[DecodedFrame]:
        """What can be given out."""
        while self._next < len(self._queue):
            number, pts = self._queue[self._next]
            picture = self._arrived.pop(pts, None)
            if picture is None and (self._only is None or pts in self._only):
                return
            self._next += 1
            yield self._decoded(number, pts, picture)

    def give_up(self) -> Iterator[DecodedFrame]:
        """Everything that is left, as not decodable."""
        while self._next < len(self._queue):
            number, pts = self._queue[self._next]
            self._next += 1
            yield self._decoded(number, pts, self._arrived.pop(pts, None))

    def expect_none_left(self) -> None:
        """Raise Damage if a frame did not come out."""
        if self._next < len(self._queue):
            raise Damage(f"the picture with pts {self._queue[self._next][1]} did not come out")

    def _decoded(self, number: int, pts: int, picture: VideoFrame | None) -> DecodedFrame:
        return DecodedFrame(number, pts, round(float(self._video.time_seconds(pts)), 6), picture)


class _Turn:
    """Checks that the pictures of a segment begin with its keyframe and come out in order of time."""

    def __init__(self, segment: Segment) -> None:
        self._key_pts = segment.key_pts if segment.key_displayed else None
        self._last_pts: int | None = None

    def check(self, frame: VideoFrame) -> None:
        """Raise Damage if `frame` should not be the next one."""
        if frame.pts is None:
            return
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise Damage(f"the picture with pts {frame.pts} came out of turn")
        self._last_pts = frame.pts
        if self._key_pts is not None and frame.pts >= self._key_pts:
            if frame.pts != self._key_pts or not frame.key_frame:
                raise Damage(f"the keyframe with pts {self._key_pts} is no place to start")
            self._key_pts = None


def _skip_to_key(packets: Iterator[Packet[VideoStream]], segment: Segment) -> Packet[VideoStream]:
    for packet in packets:
        if is_key_of(packet, segment):
            return packet
    raise Damage(f"the key packet with pts {segment.key_pts} did not come")


def _skip_unless_wanted(file: VideoFile, packet: Packet[VideoStream], wanted: Collection[int]) -> None:
    """Let the decoder pass over the packet if it is not wanted and nothing refers to it."""
    skip: Literal["NONREF", "DEFAULT"] = "NONREF" if packet.is_discard or packet.pts not in wanted else "DEFAULT"
    context = file.stream.codec_context
    if context.skip_frame != skip:
        context.skip_frame = skip


def _decode_or_damage(file: VideoFile, packet: Packet[VideoStream], *, drain: bool) -> Iterator[VideoFrame]:
    try:
        frames = file.decode(packet)
        if drain:
            frames += file.decode(None)
    except av.error.FFmpegError as error:
        raise Damage(str(error)) from error
    for frame in frames:
        if frame.is_corrupt:
            raise Damage(f"the picture with pts {frame.pts} is damaged")
        yield frame


def _decode_anyway(file: VideoFile, packet: Packet[VideoStream] | None) -> tuple[list[VideoFrame], bool]:
    try:
        return file.decode(packet), True
    except av.error.EOFError:
        return [], True
    except av.error.FFmpegError:
        return [], False

"""Decoding exactly the frames of a chunk.

The fast way decodes with all threads, skips pictures that nothing refers to, and jumps over groups of pictures in which
no frame is wanted. It trusts what comes out only while there is no sign of damage: a packet that the plan knows to be
damaged, a decoding error, a packet or picture marked corrupt, a keyframe that is none, pictures out of turn, a wanted
picture that does not come out. At the first such sign the chunk starts again the careful way: one thread (threads conceal damage differently), nothing skipped, twice through: first to learn
which packets are damaged, then to give out the pictures. Everything from a damaged packet to the next sound keyframe is
not to be trusted, though decoders go on giving pictures, most of them unmarked; it is `not_decodable`. So what a frame
shows, and whether it is listed as missing, does not depend on where its chunk begins.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import av.error

from steps.census import Census, Counter
from steps.container import VideoFile
from steps.errors import ObjectChangedError, TimeLimitError, UnsupportedError
from steps.hidden import HiddenPackets
from steps.source import SourceReader, SplicedReader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from steps.plan import Chunk, Plan, Segment
    from steps.settings import Settings
    from steps.source import Source

SEEK_BACK_SECONDS = (0, 2, 8)
"""How far before the key to seek, one after the other, while seeking lands behind it."""
_MOST_WAITING = 64
_MOST_DRAINS = 64
_LIMIT_FACTOR = 4
_LIMIT_BYTES = 64 << 20


class Damage(Exception):  # noqa: N818 - a sign that changes the way of decoding, not an error
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
        """Args: `deadline`: `time.monotonic()` after which it gives up with TimeLimitError."""
        if source.identity != plan.source:
            raise ObjectChangedError(
                f"{source.identity.url}: is not the version that was planned (ETag {source.identity.etag}, planned "
                f"{plan.source.etag}); send the task again"
            )
        self._source = source
        self._plan = plan
        self._chunk = chunk
        self._segments = segments
        self._settings = settings
        self._deadline = deadline
        self._readers: list[SourceReader] = []

    @property
    def bytes_read(self) -> int:
        """Bytes of the video read so far."""
        return sum(reader.bytes_read for reader in self._readers)

    def frames(self, *, careful: bool = False) -> Iterator[DecodedFrame]:
        """The wanted frames, ascending.

        Raises:
            Damage: there is a sign of damage; what was given out so far must be dropped. Never if `careful`.
            BadInputError, OutsideError: the video cannot be read.
        """
        if self._plan.identify_by == "pts":
            return self._carefully_by_pts() if careful else self._quickly_by_pts()
        return self._by_count(careful)

    # By pts, the fast way

    def _quickly_by_pts(self) -> Iterator[DecodedFrame]:
        self._refuse_known_damage()
        file, packets = self._start(careful=False)
        try:
            packet = next(packets, None)
            for number, segment in enumerate(self._segments):
                if number:
                    packet = self._skip_to_key(packets, segment)
                    file.stream.codec_context.flush_buffers()
                yield from self._decode_segment(file, segment, packet, packets)
        finally:
            file.close()

    def _skip_to_key(self, packets: Iterator[Packet[VideoStream]], segment: Segment) -> Packet[VideoStream] | None:
        for packet in packets:
            self._check_deadline()
            if _is_key_of(packet, segment):
                return packet
        raise Damage(f"the key packet with pts {segment.key_pts} did not come")

    def _decode_segment(
        self, file: VideoFile, segment: Segment, packet: Packet[VideoStream] | None,
        packets: Iterator[Packet[VideoStream]],
    ) -> Iterator[DecodedFrame]:  # fmt: skip
        wanted = _Wanted(self._plan, segment)
        context = file.stream.codec_context
        key_unchecked = segment.key_pts is not None and segment.key_displayed
        last_pts_out: int | None = None
        skipping = False
        while packet is not None:
            if packet.is_corrupt:
                raise Damage(f"the packet with pts {packet.pts} is damaged")
            skip = packet.is_discard or packet.pts not in wanted.numbers
            if skip != skipping:
                context.skip_frame = "NONREF" if skip else "DEFAULT"
                skipping = skip
            last = _is_last_of(packet, segment)
            for frame in self._decode_or_damage(file, packet, drain=last):
                if frame.pts is not None:
                    if last_pts_out is not None and frame.pts <= last_pts_out:
                        raise Damage(f"the picture with pts {frame.pts} came out of turn")
                    last_pts_out = frame.pts
                if key_unchecked and frame.pts is not None and segment.key_pts is not None and frame.pts >= segment.key_pts:
                    if frame.pts != segment.key_pts or not frame.key_frame:
                        raise Damage(f"the keyframe with pts {segment.key_pts} is no place to start")
                    key_unchecked = False
                yield from wanted.take(frame)
            if last:
                break
            self._check_deadline()
            packet = next(packets, None)
        wanted.expect_none_left()

    def _decode_or_damage(self, file: VideoFile, packet: Packet[VideoStream], *, drain: bool) -> Iterator[VideoFrame]:
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

    # By pts, the careful way

    def _carefully_by_pts(self) -> Iterator[DecodedFrame]:
        by_group = True
        census = self._take_census(by_group)
        if census.has_unclean_key:
            by_group = False
            census = self._take_census(by_group)
        wanted = _Wanted(self._plan, *self._segments, only=census.trusted)
        yield from wanted.ready()
        for frame in self._all_pictures(None, by_group):
            yield from wanted.take(frame)
        yield from wanted.give_up()

    def _take_census(self, by_group: bool) -> Census:
        damaged = {pts for segment in self._segments for pts in segment.damaged}
        census = Census(_Wanted(self._plan, *self._segments).numbers.keys(), damaged)
        for frame in self._all_pictures(census, by_group):
            census.see_picture(frame)
        return census

    def _all_pictures(self, census: Census | None, by_group: bool) -> Iterator[VideoFrame]:
        """Every picture of the chunk that one thread gives for the packets of its own group, whatever happens on the way.

        Each group is decoded to its end by itself, so that damage before it, and where the chunk begins and ends, make
        no difference. Without `by_group` all is decoded from the start of the file: where keyframes are none.
        """
        wanted = _Wanted(self._plan, *self._segments).numbers
        file, packets = self._start(careful=True, from_start=not by_group)
        hidden = HiddenPackets(self._plan.video.codec, file.stream.codec_context.extradata)
        context = file.stream.codec_context
        groups: Iterable[GroupPackets] = Groups(packets) if by_group else [zip(packets, itertools.repeat(True))]
        is_last = False
        try:
            for group in groups:
                pts_of_group: set[int | None] = set()
                for packet, belongs in group:
                    self._check_deadline()
                    if belongs and not packet.is_discard:
                        pts_of_group.add(packet.pts)
                        is_last = is_last or _is_last_of(packet, self._segments[-1])
                    if census:
                        census.see_packet(packet, belongs=belongs, hidden=hidden.is_hidden(packet))
                    context.skip_frame = _skip(packet, wanted)
                    frames, sound = _decode_anyway(file, packet)
                    if census and not sound:
                        census.see_damage()
                    yield from (frame for frame in frames if frame.pts in pts_of_group)
                    if is_last and not by_group:
                        break
                frames
                if is_last:
                    break
        finally:
            file.close()

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
        file, packets = self._start(careful=careful)
        sound = True
        try:
            for packet in itertools.chain(packets, itertools.repeat(None, _MOST_DRAINS)):
                self._check_deadline()
                frames, decoded = _decode_anyway(file, packet)
                sound = sound and decoded and not (packet is not None and packet.is_corrupt)
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

    # Reaching the chunk

    def _refuse_known_damage(self) -> None:
        if any(segment.damaged for segment in self._segments):
            raise Damage("packets of it were lost")

    def _start(
        self, *, careful: bool, from_start: bool = False
    ) -> tuple[VideoFile, Iterator[Packet[VideoStream]]]:
        """The file opened, and its packets from the chunk's first key on; those that come before are dropped."""
        segment, access = self._segments[0], self._plan.access
        if from_start or segment.key_pts is None:
            file = self._open(self._reader(), careful)
            return file, file.packets()
        if access == "splice" and segment.key_position is not None:
            spliced = SplicedReader(self._reader(), self._plan.header_bytes, segment.key_position)
            file = self._open(spliced, careful)
            packets = self._from_key(file, segment)
            if packets is not None:
                return file, packets
            file.close()
        for back_seconds in SEEK_BACK_SECONDS if access == "seek" else ():
            file = self._open(self._reader(), careful)
            packets = self._from_key(file, segment) if self._seek(file, segment, back_seconds) else None
            if packets is not None:
                return file, packets
            file.close()
        file = self._open(self._reader(), careful)
        packets = self._from_key(file, segment)
        if packets is None:
            file.close()
            raise UnsupportedError(
                f"{self._source.identity.url}: the keyframe with pts {segment.key_pts} cannot be found again; rewrap the file"
            )
        return file, packets

    def _reader(self) -> SourceReader:
        reader = SourceReader(
            self._source,
            limit_bytes=self._source.identity.size * _LIMIT_FACTOR + _LIMIT_BYTES,
            deadline=self._deadline,
            end=self._chunk.last_byte,
        )
        self._readers.append(reader)
        return reader

    def _open(self, reader: SourceReader | SplicedReader, careful: bool) -> VideoFile:
        file = VideoFile(reader, self._source.identity.url, self._settings)
        context = file.stream.codec_context
        context.thread_count = 1 if careful else self._settings.decode_threads
        context.thread_type = "NONE" if careful or self._settings.decode_threads == 1 else "AUTO"
        return file

    def _seek(self, file: VideoFile, segment: Segment, back_seconds: int) -> bool:
        back_ticks = int(back_seconds / self._plan.video.time_base_fraction)
        try:
            file.container.seek((segment.key_dts or 0) - back_ticks, stream=file.stream)
        except av.error.FFmpegError:
            file.raise_read_error()
            return False
        return True

    def _from_key(self, file: VideoFile, segment: Segment) -> Iterator[Packet[VideoStream]] | None:
        """The packets from the segment's key on; None if reading began behind it."""
        packets = file.packets()
        for packet in packets:
            self._check_deadline()
            if _is_key_of(packet, segment):
                return itertools.chain((packet,), packets)
            if packet.is_keyframe and packet.pts is not None and packet.pts > (segment.key_pts or 0):
                return None
        return None

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeLimitError(
                f"{self._source.identity.url}: chunk {self._chunk.name} went over its time limit of "
                f"{self._settings.chunk_timeout_seconds:g} s (REELSCAN_CHUNK_TIMEOUT_SECONDS)"
            )


class _Wanted:
    """Puts the pictures that come out into the order of the frames that are wanted."""

    def __init__(self, plan: Plan, *segments: Segment, only: set[int] | None = None) -> None:
        self._video = plan.video
        self._queue = [
            (number, pts) for segment in segments for number, pts in zip(segment.frames, segment.pts, strict=True)
            if pts is not None
        ]  # fmt: skip
        self.numbers = {pts: number for number, pts in self._queue}
        self._only = only
        self._next = 0
        self._arrived: dict[int, VideoFrame] = {}

    def take(self, frame: VideoFrame) -> Iterator[DecodedFrame]:
        """What can be given out now that `frame` is there. Raises Damage if a frame is overdue."""
        if frame.pts in self.numbers and (self._only is None or frame.pts in self._only):
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


def _is_key_of(packet: Packet[VideoStream], segment: Segment) -> bool:
    # An edit list can cut one keyframe away and show another at the same pts.
    return packet.is_keyframe and packet.pts == segment.key_pts and packet.is_discard != segment.key_displayed


def _is_last_of(packet: Packet[VideoStream], segment: Segment) -> bool:
    return packet.pts == segment.last_pts and not packet.is_discard


def _decode_anyway(file: VideoFile, packet: Packet[VideoStream] | None) -> tuple[list[VideoFrame], bool]:
    try:
        return file.decode(packet), True
    except av.error.EOFError:
        return [], True
    except av.error.FFmpegError:
        return [], False

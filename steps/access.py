"""Reaching a chunk: the container opened, and its packets from the chunk's first keyframe on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import av.error

from steps.container import VideoFile, reason_of
from steps.errors import ObjectChangedError, TimeLimitError, UnsupportedError
from steps.source import SourceReader, SplicedReader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

    from steps.plan import Chunk, Plan, Segment
    from steps.settings import Settings
    from steps.source import Source

SEEK_BACK_SECONDS = (0, 2, 8)
"""How far before the key to seek, one after the other, while seeking lands behind it."""
_LIMIT_FACTOR = 4
_LIMIT_BYTES = 64 << 20


class ChunkAccess:
    """Opens a video for one attempt after another at a chunk."""

    def __init__(self, source: Source, plan: Plan, chunk: Chunk, settings: Settings, *, deadline: float) -> None:
        """Args: `deadline`: `time.monotonic()` after which reading gives up with TimeLimitError.

        Raises:
            ObjectChangedError: `source` is not what was planned.
        """
        if source.identity != plan.source:
            raise ObjectChangedError(
                f"{source.identity.url}: is not the version that was planned (ETag {source.identity.etag}, planned "
                f"{plan.source.etag}); send the task again"
            )
        self._source = source
        self._plan = plan
        self._chunk = chunk
        self._settings = settings
        self._deadline = deadline
        self._readers: list[SourceReader] = []

    @property
    def bytes_read(self) -> int:
        """Bytes of the video read so far."""
        return sum(reader.bytes_read for reader in self._readers)

    def start(
        self, segment: Segment, *, one_thread: bool, from_start: bool = False
    ) -> tuple[VideoFile, Iterator[Packet[VideoStream]]]:
        """The file opened, and its packets from the segment's key on; those that come before are dropped.

        Args:
            one_thread: decode with one thread.
            from_start: begin with the file's first packet.

        Raises:
            UnsupportedError: the key packet cannot be found again.
            BadInputError, OutsideError: the video cannot be opened or read.
        """
        access = self._plan.access
        if from_start or segment.key_pts is None:
            file = self._open(self._reader(), one_thread)
            return file, self._timed(file.packets())
        if access == "splice" and segment.key_position is not None:
            spliced = SplicedReader(self._reader(), self._plan.header_bytes, segment.key_position)
            file = self._open(spliced, one_thread)
            packets = self._from_key(file, segment)
            if packets is not None:
                return file, packets
            file.close()
        for timestamp in self._seek_targets(segment) if access == "seek" else ():
            file = self._open(self._reader(), one_thread)
            packets = self._from_key(file, segment) if self._seek(file, timestamp) else None
            if packets is not None:
                return file, packets
            file.close()
        file = self._open(self._reader(), one_thread)
        packets = self._from_key(file, segment)
        if packets is None:
            file.close()
            raise UnsupportedError(
                f"{self._source.identity.url}: the keyframe with pts {segment.key_pts} cannot be found again; "
                "rewrap the file"
            )
        return file, packets

    def _reader(self) -> SourceReader:
        reader = SourceReader(
            self._source,
            limit_bytes=self._source.identity.size * _LIMIT_FACTOR + _LIMIT_BYTES,
            deadline=self._deadline,
            header_bytes=self._plan.header_bytes,
            end=self._chunk.last_byte,
        )
        self._readers.append(reader)
        return reader

    def _open(self, reader: SourceReader | SplicedReader, one_thread: bool) -> VideoFile:
        file = VideoFile(reader, self._source.identity.url, self._settings)
        context = file.stream.codec_context
        threads = 1 if one_thread else self._settings.decode_threads
        context.thread_count = threads
        context.thread_type = "NONE" if threads == 1 else "AUTO"
        try:
            # Some decoders (dav1d) stay with what to skip as it is when they are opened.
            context.open(strict=False)
        except av.error.FFmpegError as error:
            file.close()
            raise UnsupportedError(f"{file.url}: its decoder cannot be opened: {reason_of(error)}") from error
        return file

    def _seek_targets(self, segment: Segment) -> list[int]:
        # MP4's index holds dts, so the key's pts lands on it, and its dts on the key before, a group too much to read.
        # Where pts lands too late, in groups shorter than the decoder's delay, dts does not.
        earliest = segment.key_dts or 0
        back_ticks = [int(seconds / self._plan.video.time_base_fraction) for seconds in SEEK_BACK_SECONDS]
        return [segment.key_pts or 0, *(earliest - ticks for ticks in back_ticks)]

    def _seek(self, file: VideoFile, timestamp: int) -> bool:
        try:
            file.container.seek(timestamp, stream=file.stream)
        except av.error.FFmpegError:
            file.raise_read_error()
            return False
        return True

    def _from_key(self, file: VideoFile, segment: Segment) -> Iterator[Packet[VideoStream]] | None:
        """The packets from the segment's key on; None if reading began behind it."""
        packets = self._timed(file.packets())
        for packet in packets:
            if is_key_of(packet, segment):
                return itertools.chain((packet,), packets)
            if packet.is_keyframe and packet.pts is not None and packet.pts > (segment.key_pts or 0):
                return None
        return None

    def _timed(self, packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        for packet in packets:
            if time.monotonic() > self._deadline:
                raise TimeLimitError(
                    f"{self._source.identity.url}: chunk {self._chunk.name} went over its time limit of "
                    f"{self._settings.chunk_timeout_seconds:g} s (REELSCAN_CHUNK_TIMEOUT_SECONDS)"
                )
            yield packet


def is_key_of(packet: Packet[VideoStream], segment: Segment) -> bool:
    """Whether a packet is the key that a segment starts with."""
    # An edit list can cut one keyframe away and show another at the same pts.
    return packet.is_keyframe and packet.pts == segment.key_pts and packet.is_discard != segment.key_displayed


def is_last_of(packet: Packet[VideoStream], segment: Segment) -> bool:
    """Whether a packet is the last one that the frames of a segment need."""
    return packet.pts == segment.last_pts and not packet.is_discard

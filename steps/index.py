"""The index of a video: every packet's time and place, read in one forward pass without decoding the video.

Measured on sixty kinds of files, the n-th displayed frame is the packet with the n-th smallest pts that is not marked
as discarded, save where the container has no pts of its own (raw H.264, H.264 with B-frames in AVI, packed MPEG-4),
goes back in time (recordings put end to end), starts in the middle of a group of pictures, or holds packets of which
nothing is shown. `VideoIndex` tells these apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from steps.container import VideoFile
from steps.errors import NotAVideoError, TooLargeError, UnsupportedError
from steps.first_pictures import FirstPictures
from steps.h264 import HoleFinder
from steps.hidden import HiddenPackets
from steps.orientation import Orientation, orientation_of
from steps.transport_stream import LossFinder, damaged_packets

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from steps.settings import Settings
    from steps.source import SourceReader

NO_PTS = -(1 << 63)
_CUES_ID = b"\x1c\x53\xbb\x6b"
_CHECKED_EVERY_PACKETS = 1024
_BEGUN_ANYWHERE = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v")
"""Containers that a recording may begin in the middle of: what comes before the first keyframe was never shown. In the
others it is damaged."""
_FEW_HOLES = 2
_FEW_HOLES_SHARE = 0.01
"""Of all packets; with more holes between them a stream was thinned out on purpose."""
_FEW_FRAGMENTS_SHARE = 0.1
"""Of all packets; where more are without a time, that is how the file is made."""
_DISPLAY_TIMES_MENDED = ("mpeg1video", "mpeg2video", "mpeg4")
"""Codecs whose pictures FFmpeg puts in order of display by itself where the container tells the order of decoding."""


@dataclass
class Packets:
    """All packets of the picture stream in the order of the file, one entry each."""

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    position: NDArray[np.int64]
    """Byte position in the file; -1 where the container does not tell."""
    size: NDArray[np.int64]
    key: NDArray[np.bool_]
    displayed: NDArray[np.bool_]
    """Whether a picture of it is shown: not cut away by an edit list, not before the first decodable one."""
    discarded: NDArray[np.bool_]
    """Whether an edit list cuts it away, though others may need it."""
    damaged: NDArray[np.bool_]
    """Whether parts of it, or packets before it, were lost on the way."""


@dataclass
class Header:
    """What the container claims, and what opening it took."""

    container: str
    codec: str
    bytes_to_open: int
    frames: int | None
    duration_seconds: float | None
    fps: float | None
    index_entries: int
    has_cues: bool


@dataclass
class VideoIndex:
    """What is known of a video after reading it once."""

    header: Header
    packets: Packets
    time_base: Fraction
    width: int
    height: int
    pixel_format: str
    orientation: Orientation
    identify_by: Literal["pts", "displayed_pts", "output_order"]
    clean_keys: bool
    """Whether decoding can start at the second keyframe, and so at the others: false with intra refresh."""
    guessed_fps: Fraction | None
    warnings: list[str] = field(default_factory=list)


def read_index(
    reader: SourceReader, url: str, settings: Settings, progress: Callable[[int, int], None] | None = None
) -> VideoIndex:
    """Read all of a video forward and index its packets.

    Args:
        reader: file object over the video.
        url: what to call it in messages.
        progress: is told the bytes read so far and in all.

    Raises:
        NotAVideoError, UnsupportedError, TooLargeError: it is no video, or none that can be decoded here.
        NotFoundError, AccessDeniedError, ObjectChangedError, StorageError, TimeLimitError: reading failed.
    """
    losses = LossFinder()
    reader.tap = losses.feed
    file = VideoFile(reader, url, settings)
    try:
        return _Indexer(file, reader, losses, url, settings).run(progress)
    finally:
        file.close()


class _Indexer:
    def __init__(self, file: VideoFile, reader: SourceReader, losses: LossFinder, url: str, settings: Settings) -> None:
        self._file = file
        self._reader = reader
        self._losses = losses
        self._url = url
        self._settings = settings
        self._columns = [array("q") for _ in range(4)]
        self._key = bytearray()
        self._discarded = bytearray()
        self._hidden = bytearray()
        self._corrupt = 0
        stream = file.stream
        self._time_base = Fraction(stream.time_base or Fraction(1, 1000))
        self._header = Header(
            container=file.format_names,
            codec=stream.codec_context.codec.canonical_name,
            bytes_to_open=reader.bytes_read,
            frames=stream.frames or None,
            duration_seconds=_header_duration(file),
            fps=float(stream.average_rate) if stream.average_rate else None,
            index_entries=len(stream.index_entries),
            has_cues=_CUES_ID in reader.first_bytes(),
        )
        self._holes = HoleFinder(file.extradata) if self._header.codec == "h264" else None
        self._hiding = HiddenPackets(self._header.codec, file.extradata)
        self._first = FirstPictures(file)
        if self._header.container == "mpegts":
            losses.watch(stream.id)
        else:
            reader.tap = None

    def run(self, progress: Callable[[int, int], None] | None) -> VideoIndex:
        total_bytes = self._file.container.size
        for packet in self._file.packets():
            self._add(packet)
            self._first.feed(packet)
            if len(self._key) % _CHECKED_EVERY_PACKETS == 0:
                self._check_limits()
                if progress:
                    progress(min(self._reader.tell(), total_bytes), total_bytes)
        self._reader.raise_error()
        self._losses.end()
        self._first.end()
        self._check_limits()
        if progress:
            progress(total_bytes, total_bytes)
        if not self._key:
            raise NotAVideoError(f"{self._url}: its picture stream holds no frames")
        if self._first.encrypted:
            raise UnsupportedError(f"{self._url}: is encrypted; decrypt it first")
        if all(self._discarded):
            raise NotAVideoError(f"{self._url}: an edit list cuts all of its frames away")
        if self._first.picture is None:
            reason = f" ({self._first.failure})" if self._first.failure else ""
            raise UnsupportedError(
                f"{self._url}: not one picture of its {self._header.codec} stream can be decoded{reason}; "
                "is it encrypted or damaged?"
            )
        return self._index(self._first.picture)

    def _add(self, packet: Packet[VideoStream]) -> None:
        pts = NO_PTS if packet.pts is None else packet.pts
        dts = NO_PTS if packet.dts is None else packet.dts
        position = -1 if packet.pos is None else packet.pos
        for column, value in zip(self._columns, (pts, dts, position, packet.size), strict=True):
            column.append(value)
        self._key.append(packet.is_keyframe)
        self._discarded.append(packet.is_discard)
        self._hidden.append(self._hiding.is_hidden(packet))
        if self._holes:
            self._holes.see(packet)
        self._corrupt += self._file.says_damaged(packet)

    def _check_limits(self) -> None:
        if len(self._key) > self._settings.max_video_frames:
            raise TooLargeError(
                f"{self._url}: holds more than {self._settings.max_video_frames} frames (REELSCAN_MAX_VIDEO_FRAMES)"
            )

    def _index(self, picture: VideoFrame) -> VideoIndex:
        pts, dts, position, size = (np.frombuffer(column, dtype=np.int64) for column in self._columns)
        key, discarded, hidden = (
            np.frombuffer(flags, dtype=np.bool_) for flags in (self._key, self._discarded, self._hidden)
        )
        damaged, breaks = damaged_packets(self._losses.losses, position)
        packets = Packets(pts, dts, position, size, key, ~discarded & ~hidden, discarded, damaged)
        self._hide_undecodable_start(packets)
        self._hide_fragments(packets)
        holes = self._holes.behind_holes if self._holes else []
        if len(holes) <= max(_FEW_HOLES, _FEW_HOLES_SHARE * len(pts)):
            for number in holes:
                self._mark_hole(packets, number)
        for number in (*breaks, *jumps_back(dts).tolist()):
            _mark_damaged_behind(packets, number)
        shown = packets.pts[packets.displayed]
        if not len(shown):
            raise NotAVideoError(f"{self._url}: its picture stream holds no frames that are shown")
        pixels = picture.width * picture.height
        if pixels > self._settings.max_pixels:
            raise TooLargeError(
                f"{self._url}: its pictures have {picture.width}x{picture.height} pixels, allowed are "
                f"{self._settings.max_pixels} in all (REELSCAN_MAX_PIXELS)"
            )
        stream = self._file.stream
        guessed = stream.guessed_rate or stream.average_rate
        return VideoIndex(
            header=self._header,
            packets=packets,
            time_base=self._time_base,
            width=picture.width,
            height=picture.height,
            pixel_format=picture.format.name,
            orientation=orientation_of(picture),
            identify_by=self._identify_by(packets),
            clean_keys=self._first.clean_keys,
            guessed_fps=Fraction(guessed) if guessed else None,
            warnings=self._warnings(self._corrupt + int(packets.damaged.sum())),
        )

    def _identify_by(self, packets: Packets) -> Literal["pts", "displayed_pts", "output_order"]:
        shown = packets.displayed
        # AVI stores when a packet is decoded, not when it is shown.
        reordered = self._file.stream.codec_context.has_b_frames and self._header.codec not in _DISPLAY_TIMES_MENDED
        by_decoding = self._header.container == "avi" and reordered
        if by_decoding or self._hiding.is_packed or bool((packets.pts[shown] == NO_PTS).any()):
            return "output_order"
        ascend = not len(jumps_back(packets.dts[shown]))
        return "pts" if ascend and len(np.unique(packets.pts[shown])) == int(shown.sum()) else "displayed_pts"

    def _hide_undecodable_start(self, packets: Packets) -> None:
        keys = np.flatnonzero(packets.key)
        if not len(keys) or packets.pts[keys[0]] == NO_PTS:
            return
        first = int(keys[0])
        if self._header.container in _BEGUN_ANYWHERE:
            packets.displayed[:first] = False
        # Leading pictures of the first keyframe refer to a group that is not there, unless the group is closed.
        leading = np.flatnonzero(packets.pts[first:] < packets.pts[first]) + first
        end = int(keys[1]) if len(keys) > 1 else len(packets.pts)
        for number in leading[leading < end]:
            if int(packets.pts[number]) not in self._first.pts:
                packets.displayed[number] = False

    def _hide_fragments(self, packets: Packets) -> None:
        # In a transport stream every picture has its time, but for what is left of one whose head was lost.
        fragments = packets.displayed & (packets.pts == NO_PTS)
        if self._header.container == "mpegts" and 0 < fragments.sum() <= _FEW_FRAGMENTS_SHARE * len(fragments):
            packets.displayed[fragments] = False
            for number in np.flatnonzero(fragments):
                self._mark_hole(packets, int(number))
                self._mark_hole(packets, int(number) + 1)

    def _mark_hole(self, packets: Packets, number: int) -> None:
        """Mark what is spoilt because pictures are missing before packet `number`, in a way that shows only there."""
        if self._header.container == "mpegts":
            # What is left of a lost picture may have been added to the one before.
            packets.damaged[max(0, number - 1)] = True
        _mark_damaged_behind(packets, number)

    def _warnings(self, damaged: int) -> list[str]:
        warnings = []
        if damaged:
            warnings.append(f"{damaged} packets are damaged")
        entries = self._header.index_entries
        left = entries - self._file.packets_read
        if self._header.container.startswith("mov") and left > 0:
            warnings.append(f"the file ends before {left} of the {entries} frames that its index names")
        if not self._first.started_at_first_key:
            warnings.append("its first keyframe cannot be decoded")
        return warnings


def jumps_back(dts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where decoding times go back, as where recordings were put end to end: indexes of the first ones behind."""
    numbers = np.flatnonzero(dts != NO_PTS)
    return numbers[1:][np.diff(dts[numbers]) < 0]


def _mark_damaged_behind(packets: Packets, number: int) -> None:
    """Mark what is spoilt because pictures are missing before packet `number`: behind a keyframe only what leads it."""
    if number >= len(packets.pts) or not packets.key[number]:
        packets.damaged[number : number + 1] = True
        return
    others = np.flatnonzero(packets.key[number + 1 :] | (packets.pts[number + 1 :] >= packets.pts[number]))
    end = number + 1 + int(others[0]) if len(others) else len(packets.pts)
    packets.damaged[number + 1 : end] = True


def _header_duration(file: VideoFile) -> float | None:
    stream = file.stream
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if file.container.duration is None else file.container.duration / 1_000_000

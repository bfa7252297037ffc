"""Opening a video file with FFmpeg: only the demuxers that read one file, only the picture stream, bounded probing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import av
import av.error
from av.stream import Discard, Disposition

from steps.errors import NotAVideoError, ReelscanError, TooLargeError, UnsupportedError
from steps.h264 import empty_packet, pair_fields

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from steps.settings import Settings
    from steps.source import SourceReader, SplicedReader

PROBE_BYTES = 512 << 10
"""How much of a file's start FFmpeg may read to learn its streams. With its default of 5 MB 300 chunks read 1.5 GB."""

# hls, concat, dash and sdp open what their text names, and the picture readers turn a photograph into a film.
_DEMUXERS = (
    "mov", "matroska", "mpegts", "mpeg", "mpegvideo", "avi", "flv", "live_flv", "asf", "ogg", "mxf", "gxf", "nut",
    "wtv", "rm", "dv", "ivf", "obu", "av1", "h264", "hevc", "vvc", "m4v", "vc1", "yuv4mpegpipe", "nsv", "swf", "h263",
    "h261",
)  # fmt: skip
_STILL_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"jxl ")
_OPEN_ERRORS_TRIED = 16


class VideoFile:
    """An opened container and its picture stream."""

    def __init__(self, file: SourceReader | SplicedReader, url: str, settings: Settings) -> None:
        """Open `file`. While it is open nothing else may move the file's position: FFmpeg does not ask for it.

        Raises:
            NotAVideoError: FFmpeg cannot read it, or it holds no moving picture.
            UnsupportedError: there is no decoder for it.
            TooLargeError: its header claims more than `max_pixels`.
        """
        self.url = url
        self.packets_read = 0
        """Packets of the container so far; fields of one picture may have one each."""
        self._draining = False
        self._file = file
        self.container = self._open(file, settings)
        try:
            self.stream = self._choose_stream()
            self._check_size(settings)
        except BaseException:
            self.container.close()
            raise

    @property
    def format_names(self) -> str:
        """FFmpeg's names of the container format, comma-separated."""
        return str(self.container.format.name)

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """The picture's packets in the order of the file, one a picture: `decode` adds the second field to a first one.

        Goes on behind unreadable places; ends where nothing follows.
        """
        packets = self._all_packets()
        return packets if self.stream.codec_context.name != "h264" else pair_fields(packets, self.extradata)

    @property
    def extradata(self) -> bytes | None:
        """The codec's headers, where the container has them apart from the packets."""
        return self.stream.codec_context.extradata

    def says_damaged(self, packet: Packet[VideoStream]) -> bool:
        """Whether the demuxer says that a packet is damaged."""
        # Of transport streams it does so for whole packets too; `steps.transport_stream` knows better.
        return packet.is_corrupt and self.format_names != "mpegts"

    def decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """The pictures that come out when `packet` goes in; None drains the decoder. Raises av.error.FFmpegError."""
        context = self.stream.codec_context
        if packet is None:
            settled = [] if self._draining else self._settle()
            self._draining = True
            return settled + context.decode(None)
        frames = context.decode(packet)
        second_field = cast("Packet[VideoStream] | None", packet.opaque)
        return frames if second_field is None else frames + context.decode(second_field)

    def flush(self) -> None:
        """Let the decoder forget what it was given."""
        self.stream.codec_context.flush_buffers()
        self._draining = False

    def _settle(self) -> list[VideoFrame]:
        """Let all threads of the H.264 decoder finish; gives what comes out meanwhile.

        Draining takes pictures that other threads still work on, and so before they find that they are damaged.
        """
        context = self.stream.codec_context
        if context.name != "h264" or context.thread_count <= 1 or not context.is_open:
            return []
        skipped, context.skip_frame = context.skip_frame, "NONREF"  # else a packet without a picture is an error
        try:
            nothing = empty_packet(self.extradata)
            return [frame for _ in range(context.thread_count) for frame in context.decode(av.Packet(nothing))]
        finally:
            context.skip_frame = skipped

    def close(self) -> None:
        """Free the container and its decoder."""
        self.container.close()

    def _all_packets(self) -> Iterator[Packet[VideoStream]]:
        failures = 0
        while failures < _OPEN_ERRORS_TRIED:
            try:
                for packet in self.container.demux(self.stream):
                    if packet.size:
                        failures = 0
                        self.packets_read += 1
                        yield packet
            except av.error.FFmpegError:
                self.raise_read_error()
                failures += 1
            else:
                self.raise_read_error()
                return

    def _open(self, file: SourceReader | SplicedReader, settings: Settings) -> InputContainer:
        options = {
            "format_whitelist": ",".join(_DEMUXERS),
            "protocol_whitelist": "none",
            "probesize": str(PROBE_BYTES),
            "skip_estimate_duration_from_pts": "1",
            "max_pixels": str(settings.max_pixels),
            "enable_drefs": "0",
        }
        if _is_fragmented(file.first_bytes()):
            # Else FFmpeg reads the heads of all fragments, and so nearly the whole file, each time it is opened.
            options["fflags"] = "+ignidx"
        try:
            return av.open(file, mode="r", options=options, metadata_errors="replace", buffer_size=64 << 10)
        except av.error.FFmpegError as error:
            self.raise_read_error()
            raise NotAVideoError(f"{self.url}: {self._why_not(error)}") from error
        except (ValueError, IndexError, UnicodeError) as error:
            self.raise_read_error()
            raise NotAVideoError(f"{self.url}: FFmpeg cannot open it ({error})") from error

    def _why_not(self, error: Exception) -> str:
        head = self._file.first_bytes()
        if head[4:8] == b"ftyp":
            if b"moov" not in head:
                return "its index (the moov box) is missing: it was cut off or is being written; upload it again whole"
            return f"its index (the moov box) cannot be read: {error}"
        return "is no video that can be read (allowed are MP4, MOV, MKV, WebM, TS, AVI and other single video files)"

    def raise_read_error(self) -> None:
        """Raise what made reading the bytes fail, if that is what went wrong."""
        self._file.raise_error()

    def _choose_stream(self) -> VideoStream:
        head = self._file.first_bytes() if "mp4" in self.format_names else b""
        if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS:
            raise NotAVideoError(
                f"{self.url}: is a picture ({head[8:12].decode(errors='replace').strip()}), not a video"
            )
        streams = [
            stream for stream in self.container.streams.video
            if not stream.disposition & (Disposition.attached_pic | Disposition.still_image)
        ]  # fmt: skip
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in self.container.streams})) or "no stream at all"
            raise NotAVideoError(f"{self.url}: holds no moving picture, only {kinds}")
        best = self.container.streams.best("video")
        chosen = best if best in streams else streams[0]
        for stream in self.container.streams:
            if stream.index != chosen.index:
                stream.discard = Discard.all
        if chosen.codec_context is None:
            raise UnsupportedError(
                f"{self.url}: FFmpeg has no decoder here for its picture stream; re-encode it as H.264"
            )
        return chosen

    def _check_size(self, settings: Settings) -> None:
        context = self.stream.codec_context
        width, height = max(context.width, context.coded_width), max(context.height, context.coded_height)
        if width * height > settings.max_pixels:
            raise TooLargeError(
                f"{self.url}: its header says {width}x{height} pixels, allowed are {settings.max_pixels} "
                "in all (REELSCAN_MAX_PIXELS)"
            )


def _is_fragmented(start: bytes) -> bool:
    """Whether an MP4 file's samples lie in fragments, each with its own index (ISO 14496-12, 8.8: mvex)."""
    return start[4:8] == b"ftyp" and b"mvex" in start


def reason_of(error: Exception) -> str:
    """One line of what FFmpeg said."""
    return str(error) if isinstance(error, ReelscanError) else str(getattr(error, "strerror", None) or error)

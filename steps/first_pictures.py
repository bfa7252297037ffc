"""The first pictures of a video, decoded while it is indexed: what no packet tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import av.error

from steps.container import VideoFile, reason_of

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_KEYS_TRIED = 8


class FirstPictures:
    """Decodes the first few packets, and the second keyframe by itself, as they pass by."""

    def __init__(self, file: VideoFile) -> None:
        self._file = file
        self._context = file.stream.codec_context
        self._context.thread_type = "NONE"
        self._state: Literal["before", "first", "between", "done"] = "before"
        self._key_pts: int | None = None
        self._key_discarded = False
        self._following = 0
        self._tried = 0
        self.picture: VideoFrame | None = None
        self.pts: set[int | None] = set()
        self.clean_keys = True
        self.encrypted = False
        self.failure = ""
        self.started_at_first_key = True

    def feed(self, packet: Packet[VideoStream]) -> None:
        """Take the next packet in the order of the file."""
        if self._state == "done":
            return
        if packet.has_sidedata("encryption_info"):
            self.encrypted = True
            self._state = "done"
        elif self._state == "before" and (packet.is_keyframe or packet.pts is None):
            self._key_pts = packet.pts
            self._key_discarded = packet.is_discard
            self._following = 0
            self._state = "first"
            self._decode(packet)
        elif self._state == "first":
            leading = packet.pts is not None and self._key_pts is not None and packet.pts < self._key_pts
            self._following += not leading
            self._decode(packet)
            if self._following >= 3 or packet.is_keyframe:
                self._finish_first()
        elif self._state == "between" and packet.is_keyframe and not packet.is_discard:
            self._check_second_key(packet)

    def end(self) -> None:
        """No packet follows."""
        if self._state == "first":
            self._finish_first()

    def _decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            frames = self._file.decode(packet)
        except av.error.FFmpegError as error:
            self.failure = reason_of(error)
            return []
        for frame in frames:
            if self.picture is None and not frame.is_corrupt:
                self.picture = frame
            self.pts.add(frame.pts)
        return frames

    def _finish_first(self) -> None:
        self._decode(None)
        self._file.flush()
        if self._tried == 0:
            self.started_at_first_key = self._key_discarded or self._key_pts is None or self._key_pts in self.pts
        self._tried += 1
        if self.picture is not None:
            self._state = "between"
        else:
            # An edit list can hide the first pictures, and damage spoil them: look behind the next keyframe.
            self._state = "before" if self._tried < _KEYS_TRIED else "done"

    def _check_second_key(self, packet: Packet[VideoStream]) -> None:
        known = set(self.pts)
        frames = self._decode(packet) + self._decode(None)
        self._file.flush()
        self.pts = known
        self.clean_keys = any(frame.pts == packet.pts and frame.key_frame for frame in frames)
        self._state = "done"

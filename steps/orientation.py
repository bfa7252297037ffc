"""How a coded picture is turned and flipped to the displayed one, by the display matrix of the container."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Orientation:
    """First flip left to right if `mirrored`, then turn clockwise by `rotation_degrees` (0, 90, 180 or 270)."""

    rotation_degrees: int = 0
    mirrored: bool = False

    def displayed_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the displayed picture of a coded one; as well the other way round."""
        return (height, width) if self.rotation_degrees % 180 else (width, height)

    def apply(self, picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Turn an array of shape [height, width, ...]; a view."""
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.rot90(picture, -self.rotation_degrees // 90) if self.rotation_degrees else picture


def orientation_of(frame: VideoFrame) -> Orientation:
    """The orientation that a decoded frame asks for.

    The matrix maps the coded picture's right (a, b) and down (c, d) directions to the screen (ISO 14496-12, 6.2.2;
    FFmpeg's libavutil/display.h). Anything but right angles is taken for the nearest one.
    """
    side_data: list[Any] = list(frame.side_data)
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
            break
    else:
        return Orientation()
    mirrored = a * d - b * c < 0
    if mirrored:
        # The flip comes first, so the coded right now points where the matrix sends its left.
        a, b = -a, -b
    if abs(a) >= abs(b):
        return Orientation(0 if a >= 0 else 180, mirrored)
    return Orientation(90 if b > 0 else 270, mirrored)

"""From a decoded frame to the model's input: scaled by FFmpeg, turned as displayed, in the model's colours and type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from steps.orientation import Orientation
    from steps.profile import InputProfile
    from steps.signature import InputSpec

# Bilinear over all covered pixels where it shrinks. The other flags make every processor round alike, so that chunks
# on different machines see the same picture.
_INTERPOLATION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class PictureScaler:
    """Writes frames into batches. Frames of one video, whose size may change on the way."""

    def __init__(self, spec: InputSpec, profile: InputProfile, orientation: Orientation) -> None:
        self._spec = spec
        self._profile = profile
        self._orientation = orientation
        self._reformatter = VideoReformatter()
        self._format = "rgb24" if profile.color == "rgb" else "bgr24"
        self._plain = spec.dtype == np.uint8

    def write(self, frame: VideoFrame, place: NDArray[Any]) -> None:
        """Write a frame as displayed into `place`, an array of shape [height, width, 3] and the model's type."""
        displayed = self._orientation.displayed_size(frame.width, frame.height)
        target = self._profile.placement(*displayed, self._spec.width, self._spec.height)
        width, height = self._orientation.displayed_size(target.width, target.height)
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format=self._format, interpolation=_INTERPOLATION
        )
        plane = scaled.planes[0]
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(height, plane.line_size)  # type: ignore[call-overload]
        picture = self._orientation.apply(rows[:, : width * 3].reshape(height, width, 3))
        if (target.width, target.height) != (self._spec.width, self._spec.height):
            place[...] = self._value(0)
            place = place[target.top : target.top + target.height, target.left : target.left + target.width]
        if self._plain:
            place[...] = picture
        else:
            np.multiply(picture, np.float32(self._profile.scale), out=place)
            place += np.float32(self._profile.offset)

    def _value(self, level: int) -> float:
        return level if self._plain else level * self._profile.scale + self._profile.offset

"""From a model's outputs for one frame to the detections of the contract."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from steps.errors import ModelMismatchError
from steps.profile import InputProfile, ModelProfile

_MAX_CLASS_NUMBER = 1_000_000_000


class _ToPicture(NamedTuple):
    """Maps a coordinate of the model's box to pixels of the displayed picture: `value * scale + shift`."""

    x_scale: float
    x_shift: float
    y_scale: float
    y_shift: float


@lru_cache(maxsize=8)
def _to_picture(input_profile: InputProfile, is_normalized: bool, width: int, height: int) -> _ToPicture:
    if input_profile.width is None or input_profile.height is None:
        # A profile without a size has neither a letterbox nor boxes in pixels.
        return _ToPicture(width, 0.0, height, 0.0)
    place = input_profile.placement(width, height, input_profile.width, input_profile.height)
    x_unit, y_unit = (input_profile.width, input_profile.height) if is_normalized else (1, 1)
    return _ToPicture(
        x_unit * width / place.width,
        -place.left * width / place.width,
        y_unit * height / place.height,
        -place.top * height / place.height,
    )


def detections_of(
    outputs: Mapping[str, npt.NDArray[Any]],
    profile: ModelProfile,
    *,
    width: int,
    height: int,
    min_score: float,
    labels: Collection[str] | None,
    max_detections: int,
) -> list[dict[str, Any]]:
    """The detections of one frame, best score first, equal scores in the model's order.

    Rows with a NaN or an infinity, and boxes without area inside the picture, are dropped.

    Args:
        outputs: By name: boxes [N, 4], scores [N], classes [N], count [] or [1].
        profile: Names the outputs, and says what their numbers mean.
        width: Of the picture as displayed, in pixels.
        height: Likewise.
        min_score: Lowest score kept, compared with the score as the model gave it.
        labels: Only these labels; None is all.
        max_detections: The best so many are kept.

    Returns:
        `{"label", "class_id", "score", "box": [x, y, width, height]}` each: the box in pixels of the
        displayed picture, clipped to that, to 0.1; the score to four decimals.

    Raises:
        ModelMismatchError: the count is not a number.
    """
    names = profile.outputs
    scores = outputs[names.scores]
    rows = (scores >= min_score).nonzero()[0]
    if not rows.size:
        return []
    if names.count is not None:
        count = outputs[names.count].item()
        if not math.isfinite(count):
            raise ModelMismatchError(f"output {names.count!r} of the model is {count}, not a number of detections")
        rows = rows[rows < count]
    kept_scores = scores[rows]
    rows = rows[np.argsort(-kept_scores, kind="stable")]

    box_format = profile.box_format
    to_picture = _to_picture(profile.input, box_format.endswith("_normalized"), width, height)
    x_scale, x_shift, y_scale, y_shift = to_picture
    is_y_first = box_format.startswith("ymin")
    has_size = "_width_height" in box_format
    is_centre = box_format.startswith("xcenter")
    label_of_class_id = profile.label_of_class_id

    detections: list[dict[str, Any]] = []
    for score, class_number, (first, second, third, fourth) in zip(
        scores[rows].tolist(),
        outputs[names.classes][rows].tolist(),
        outputs[names.boxes][rows].tolist(),
        strict=True,
    ):
        if not math.isfinite(score + class_number + first + second + third + fourth):
            continue
        if abs(class_number) > _MAX_CLASS_NUMBER:
            continue
        class_id = round(class_number) + profile.class_id_offset
        label = label_of_class_id.get(class_id) or str(class_id)
        if labels is not None and label not in labels:
            continue
        left, top, right, bottom = (second, first, fourth, third) if is_y_first else (first, second, third, fourth)
        if has_size:
            if is_centre:
                left, top = left - right / 2, top - bottom / 2
            right, bottom = left + right, top + bottom
        # Whole tenths of a pixel, so that corners that fit the picture stay inside it as x + width.
        left_tenths = round(10 * min(max(left * x_scale + x_shift, 0.0), width))
        right_tenths = round(10 * min(max(right * x_scale + x_shift, 0.0), width))
        top_tenths = round(10 * min(max(top * y_scale + y_shift, 0.0), height))
        bottom_tenths = round(10 * min(max(bottom * y_scale + y_shift, 0.0), height))
        if right_tenths <= left_tenths or bottom_tenths <= top_tenths:
            continue
        detections.append(
            {
                "label": label,
                "class_id": class_id,
                "score": round(score, 4),
                "box": [
                    left_tenths / 10,
                    top_tenths / 10,
                    (right_tenths - left_tenths) / 10,
                    (bottom_tenths - top_tenths) / 10,
                ],
            }
        )
        if len(detections) == max_detections:
            break
    return detections

"""OpenCV's people detector (histograms of oriented gradients): detects with no model file at all."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from local.serving.backends import Arrays, TensorSpec
from local.serving.backends.detections import (
    INPUT,
    NOTHING,
    FrameDetections,
    batch_outputs,
    detection_signature,
)
from local.serving.backends.pool import FramePool
from local.serving.status import invalid_argument

PERSON = 0
"""The class of everything found: "person" in the 0-based COCO labels of the sample model."""
MAX_PIXELS = 4096 * 2304
"""Pixels of the largest frame. The detector's time and memory grow with them."""

_WINDOW_HEIGHT, _WINDOW_WIDTH = 128, 64  # of the descriptor that the people detector was trained with
_STRIDE = (8, 8)
_SCALE_STEP = 1.05
_ROWS = 100
# The detector gives a distance from its separating plane, no probability. In the sample clip people are at 1.1 to
# 1.8, furniture below 1: a logistic curve around 1 makes scores from 0 to 1 of it, with 0.5 between the two.
_HALF_SCORE_DISTANCE = 1.0
_SCORE_STEEPNESS = 4.0


class HogBackend:
    """Takes uint8 RGB frames of any size up to MAX_PIXELS.

    Args:
        threads: How many frames are worked on at once.
    """

    description = "OpenCV HOG people detector"
    signature = detection_signature(TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3)), _ROWS)
    max_batch = None

    def __init__(self, threads: int) -> None:
        # One thread a frame: OpenCV's own threads give detections, and so the sums over them, in any order.
        cv2.setNumThreads(1)
        self._pool = FramePool([_detector() for _ in range(threads)])

    def predict(self, inputs: Arrays) -> Arrays:
        """People in every frame.

        Raises:
            ServingError: frames of more than MAX_PIXELS.
        """
        frames = inputs[INPUT]
        _, height, width, _ = frames.shape
        if height * width > MAX_PIXELS:
            raise invalid_argument(f"{INPUT}: {width}x{height} is over the {MAX_PIXELS} pixels that HOG takes")
        return batch_outputs(self._pool.map(_detect, frames), _ROWS)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()


def _detector() -> Any:
    detector = cv2.HOGDescriptor()
    detector.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    return detector


def _detect(detector: Any, frame: npt.NDArray[Any]) -> FrameDetections:
    height, width = frame.shape[:2]
    if height < _WINDOW_HEIGHT or width < _WINDOW_WIDTH:
        return NOTHING
    found, distances = detector.detectMultiScale(
        cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), winStride=_STRIDE, scale=_SCALE_STEP
    )
    if not len(found):
        return NOTHING
    x, y, box_width, box_height = np.asarray(found, float).T
    boxes = np.stack([y / height, x / width, (y + box_height) / height, (x + box_width) / width], axis=1)
    scores = 1 / (1 + np.exp(_SCORE_STEEPNESS * (_HALF_SCORE_DISTANCE - np.asarray(distances, float).ravel())))
    order = np.lexsort((*boxes.T, -scores))
    return FrameDetections(boxes[order].clip(0, 1), scores[order], np.full(len(order), PERSON))

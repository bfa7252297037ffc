"""The four output tensors of a detection model, by the names of the TensorFlow Object Detection API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from local.serving.backends import Arrays, Signature, TensorSpec

BOXES = "detection_boxes"
SCORES = "detection_scores"
CLASSES = "detection_classes"
COUNT = "num_detections"
INPUT = "input_tensor"

FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class FrameDetections:
    """What was found in one frame, the best first.

    Attributes:
        boxes: (n, 4) ymin, xmin, ymax, xmax as fractions of the picture.
        scores: (n,) in 0 to 1.
        classes: (n,) class ids.
    """

    boxes: npt.NDArray[Any]
    scores: npt.NDArray[Any]
    classes: npt.NDArray[Any]


NOTHING = FrameDetections(np.zeros((0, 4)), np.zeros(0), np.zeros(0))


def detection_signature(input_spec: TensorSpec, rows: int) -> Signature:
    """A signature with one input and four outputs of so many rows a frame."""
    return Signature(
        inputs={INPUT: input_spec},
        outputs={
            BOXES: TensorSpec(FLOAT, (-1, rows, 4)),
            SCORES: TensorSpec(FLOAT, (-1, rows)),
            CLASSES: TensorSpec(FLOAT, (-1, rows)),
            COUNT: TensorSpec(FLOAT, (-1,)),
        },
    )


def batch_outputs(frames: Sequence[FrameDetections], rows: int) -> Arrays:
    """The outputs for a batch: the first `rows` detections of each frame, zeros where it has fewer."""
    outputs: Arrays = {
        BOXES: np.zeros((len(frames), rows, 4), FLOAT),
        SCORES: np.zeros((len(frames), rows), FLOAT),
        CLASSES: np.zeros((len(frames), rows), FLOAT),
        COUNT: np.zeros(len(frames), FLOAT),
    }
    for position, found in enumerate(frames):
        count = min(len(found.scores), rows)
        outputs[BOXES][position, :count] = found.boxes[:count]
        outputs[SCORES][position, :count] = found.scores[:count]
        outputs[CLASSES][position, :count] = found.classes[:count]
        outputs[COUNT][position] = count
    return outputs

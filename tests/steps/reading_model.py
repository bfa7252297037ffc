"""A model that tells which picture it was sent: the number coded into it, and a checksum of its exact bytes.

The coded model of the embedded server says the same with a detection for each bit. This one says it with three, which
is what lets every clip be analysed at every rate under every chunking in little time.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from local.serving.backends import Arrays, TensorSpec
from local.serving.backends.detections import BOXES, CLASSES, COUNT, INPUT, SCORES, detection_signature
from steps.profile import InputProfile, ModelProfile, OutputsProfile
from tests.media.picture import COLUMNS, NUMBER_BITS, ROWS, THRESHOLD

WIDTH, HEIGHT = 64, 32
UNREADABLE = 1 << NUMBER_BITS
LOW, HIGH = 2 << NUMBER_BITS, 3 << NUMBER_BITS
"""Added to the lower and the upper half of the checksum."""

PROFILE = ModelProfile(
    input=InputProfile(name=INPUT, width=WIDTH, height=HEIGHT),
    outputs=OutputsProfile(boxes=BOXES, scores=SCORES, classes=CLASSES, count=COUNT),
    box_format="ymin_xmin_ymax_xmax_normalized",
)


def numbers_in(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The numbers coded into RGB pictures [N, HEIGHT, WIDTH, 3]; UNREADABLE where there is none."""
    cells = pictures.reshape(-1, ROWS, HEIGHT // ROWS, COLUMNS, WIDTH // COLUMNS, 3)
    middle = cells[
        :, :, HEIGHT // ROWS // 4 : -(HEIGHT // ROWS // 4), :, WIDTH // COLUMNS // 4 : -(WIDTH // COLUMNS // 4)
    ]
    bits = (middle.mean(axis=(2, 4, 5)) > THRESHOLD).reshape(-1, 2 * NUMBER_BITS)
    number, check = bits[:, :NUMBER_BITS], bits[:, NUMBER_BITS:]
    weights = 1 << np.arange(NUMBER_BITS - 1, -1, -1)
    return np.where((number != check).all(axis=1), number @ weights, UNREADABLE)


class ReadingBackend:
    """Three detections a frame: the number, and the two halves of the CRC-32 of its bytes."""

    description = "reading"
    signature = detection_signature(TensorSpec(np.dtype(np.uint8), (-1, HEIGHT, WIDTH, 3)), 3)
    max_batch = None

    def predict(self, inputs: Arrays) -> Arrays:
        pictures = inputs[INPUT]
        count = len(pictures)
        checksums = np.array([zlib.crc32(picture.tobytes()) for picture in pictures])
        classes = np.stack([numbers_in(pictures), LOW + (checksums & 0xFFFF), HIGH + (checksums >> 16)], axis=1)
        boxes = np.zeros((count, 3, 4), np.float32)
        boxes[:, :, 2:] = 1
        return {
            BOXES: boxes,
            SCORES: np.ones((count, 3), np.float32),
            CLASSES: classes.astype(np.float32),
            COUNT: np.full(count, 3, np.float32),
        }

    def close(self) -> None:
        """Holds nothing."""


def number_read(line: dict[str, Any]) -> int | None:
    """The number that the model read in the picture of an analysed frame; None if it could not."""
    number = line["detections"][0]["class_id"]
    return None if number == UNREADABLE else int(number)


def checksum_read(line: dict[str, Any]) -> int:
    """The CRC-32 of the picture that the model was sent for a frame."""
    low, high = (detection["class_id"] for detection in line["detections"][1:])
    return int((high - HIGH) << 16 | (low - LOW))

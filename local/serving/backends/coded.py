"""A model that reads a frame number painted into the picture: tests prove with it which picture was sent.

The picture code: 4 rows of 8 equal cells fill the picture, each black (luma 32) or white (luma 220). Cells 0
to 15 (row by row) are the bits of the frame number, the most significant first; cells 16 to 31 are the same bits
inverted.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from local.serving.backends import Arrays, TensorSpec
from local.serving.backends.detections import INPUT, FrameDetections, batch_outputs, detection_signature

ROWS, COLUMNS = 4, 8
NUMBER_BITS = 16
READ, UNREADABLE = 16, 17
"""Classes that say whether the frame number could be read. Classes 0 to 15 are its set bits."""
FIRST_CRC_CLASS = 32
"""Class 32 + b: bit b of the CRC-32 of the frame's bytes is set."""

_THRESHOLD = 127
_OUTPUT_ROWS = 64


def read_frame_number(frame: npt.NDArray[Any]) -> int | None:
    """The frame number in a (height, width, 3) uint8 RGB picture; None where the inverted cells disagree."""
    height, width = frame.shape[:2]
    if height < ROWS or width < COLUMNS:
        return None
    bits = [
        frame[_middle(row, ROWS, height), _middle(column, COLUMNS, width)].mean() > _THRESHOLD
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]
    number, inverted = bits[:NUMBER_BITS], bits[NUMBER_BITS:]
    if any(bit == check for bit, check in zip(number, inverted, strict=True)):
        return None
    return sum(1 << (NUMBER_BITS - 1 - place) for place, bit in enumerate(number) if bit)


def _middle(index: int, cells: int, size: int) -> slice:
    """The central half of a cell, away from its borders, and at least one pixel."""
    first = (4 * index + 1) * size // (4 * cells)
    end = (4 * index + 3) * size // (4 * cells)
    return slice(first, max(end, first + 1))


class CodedBackend:
    """One detection per set bit of the frame number, and of the CRC-32 of the frame's bytes."""

    description = "coded"
    signature = detection_signature(TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3)), _OUTPUT_ROWS)
    max_batch = None

    def predict(self, inputs: Arrays) -> Arrays:
        """Classes by set bits; scores 1, boxes the whole picture."""
        return batch_outputs([_detections(frame) for frame in inputs[INPUT]], _OUTPUT_ROWS)

    def close(self) -> None:
        """Holds nothing."""


def _detections(frame: npt.NDArray[Any]) -> FrameDetections:
    number = read_frame_number(frame)
    classes = [UNREADABLE] if number is None else [*_set_bits(number), READ]
    classes += [FIRST_CRC_CLASS + bit for bit in _set_bits(zlib.crc32(frame.tobytes()))]
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(classes), 1))
    return FrameDetections(boxes, np.ones(len(classes)), np.array(classes))


def _set_bits(value: int) -> list[int]:
    """The positions of the bits that are set, the least significant being 0."""
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]

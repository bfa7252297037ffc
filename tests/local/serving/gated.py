"""A model that computes only when the test lets it."""

from __future__ import annotations

import threading

import numpy as np

from local.serving.backends import Arrays, TensorSpec
from local.serving.backends.detections import INPUT, NOTHING, batch_outputs, detection_signature

DEADLINE_SECONDS = 60
ROWS = 1


class GatedBackend:
    """Takes uint8 frames of any size, waits for `gate`, finds nothing.

    Attributes:
        gate: Set it to let `predict` return.
        entered: Released once for every `predict` that has begun.
        seen: First pixel's red of each batch that was computed, in order.
    """

    description = "gated"
    signature = detection_signature(TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3)), ROWS)

    def __init__(self, max_batch: int | None = None) -> None:
        self.max_batch = max_batch
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.seen: list[int] = []
        self.is_closed = False

    def predict(self, inputs: Arrays) -> Arrays:
        self.seen.append(int(inputs[INPUT].flat[0]))
        self.entered.release()
        if not self.gate.wait(DEADLINE_SECONDS):
            raise TimeoutError("the test never opened the gate")
        return batch_outputs([NOTHING] * len(inputs[INPUT]), ROWS)

    def close(self) -> None:
        self.is_closed = True

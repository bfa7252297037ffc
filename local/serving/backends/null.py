"""A model that finds nothing, at once: for measuring everything else."""

from __future__ import annotations

import numpy as np

from local.serving.backends import Arrays, TensorSpec
from local.serving.backends.detections import INPUT, NOTHING, batch_outputs, detection_signature

_ROWS = 10


class NullBackend:
    """Takes uint8 RGB frames of any size and answers no detections."""

    description = "null"
    signature = detection_signature(TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3)), _ROWS)
    max_batch = None

    def predict(self, inputs: Arrays) -> Arrays:
        """No detections for every frame."""
        return batch_outputs([NOTHING] * len(inputs[INPUT]), _ROWS)

    def close(self) -> None:
        """Holds nothing."""

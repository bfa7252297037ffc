"""LiteRT (TensorFlow Lite) detection models: `.tflite` files that end in TFLite_Detection_PostProcess."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from local.serving.backends import Arrays, TensorSpec
from local.serving.backends.detections import INPUT, FrameDetections, batch_outputs, detection_signature
from local.serving.backends.pool import FramePool
from steps.errors import ModelMismatchError

# The outputs of the operation, in its own order, and their number of dimensions: detection_postprocess.cc in
# tensorflow/lite/kernels, kOutputTensorDetectionBoxes to kOutputTensorNumDetections.
_OPERATION = "TFLite_Detection_PostProcess"
_OUTPUTS = {_OPERATION: 3, f"{_OPERATION}:1": 2, f"{_OPERATION}:2": 2, f"{_OPERATION}:3": 1}


_STDERR_LOCK = threading.Lock()


class LiteRTBackend:
    """One interpreter with one thread per frame worked on at once; an interpreter is never shared.

    The input's height, width and type, and the number of rows, are the model's.

    Args:
        path: The `.tflite` file.
        threads: Number of interpreters.

    Raises:
        ModelMismatchError: the file is no model, or no detection model of the known kind.
    """

    max_batch = None

    def __init__(self, path: Path, threads: int) -> None:
        engines = [_load(path) for _ in range(threads)]
        self.description = f"LiteRT, {path.name}"
        self._input, spec = _input(path, engines[0])
        self._outputs, self._rows = _outputs(path, engines[0])
        self.signature = detection_signature(spec, self._rows)
        self._pool = FramePool(engines)

    def predict(self, inputs: Arrays) -> Arrays:
        """Detections of every frame, each found on its own."""
        return batch_outputs(self._pool.map(self._detect, inputs[INPUT]), self._rows)

    def _detect(self, engine: Interpreter, frame: npt.NDArray[Any]) -> FrameDetections:
        engine.set_tensor(self._input, frame[np.newaxis])
        engine.invoke()
        boxes, classes, scores, count = (engine.get_tensor(index)[0] for index in self._outputs)
        # What stands behind the count is left from an earlier frame.
        found = int(count)
        return FrameDetections(boxes[:found], scores[:found], classes[:found])

    def close(self) -> None:
        """Ends the threads."""
        self._pool.close()


def _load(path: Path) -> Interpreter:
    try:
        with _without_news():
            engine = Interpreter(str(path), num_threads=1)
            engine.allocate_tensors()
    except (ValueError, RuntimeError) as problem:
        raise ModelMismatchError(f"{path} is no model that LiteRT can load: {problem}") from None
    return engine


@contextlib.contextmanager
def _without_news() -> Iterator[None]:
    """Within the block, drops the lines `INFO: ...` that LiteRT writes to stderr; it has no setting for that."""
    with _STDERR_LOCK, tempfile.TemporaryFile() as written:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(written.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            for line in written:
                if not line.startswith(b"INFO: "):
                    os.write(2, line)


def _input(path: Path, engine: Interpreter) -> tuple[int, TensorSpec]:
    """Index of the input tensor, and its spec with the batch free: a batch is a frame at a time."""
    details = engine.get_input_details()
    shape = [int(size) for size in details[0]["shape"]]
    dtype = np.dtype(details[0]["dtype"])
    if len(details) != 1 or len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or dtype.name not in ("uint8", "float32"):
        raise ModelMismatchError(
            f"{path} takes {len(details)} input(s), the first {dtype.name} {shape}: a detection model takes "
            f"one picture, uint8 or float32 [1, height, width, 3]"
        )
    return int(details[0]["index"]), TensorSpec(dtype, (-1, *shape[1:]))


def _outputs(path: Path, engine: Interpreter) -> tuple[list[int], int]:
    """Indices of boxes, classes, scores and count, and the number of rows."""
    details = {detail["name"]: detail for detail in engine.get_output_details()}
    fits = set(details) == set(_OUTPUTS) and all(
        len(details[name]["shape"]) == dimensions and details[name]["dtype"] is np.float32
        for name, dimensions in _OUTPUTS.items()
    )
    if not fits:
        found = ", ".join(f"{name} {list(map(int, detail['shape']))}" for name, detail in details.items())
        raise ModelMismatchError(
            f"{path} is no detection model: its outputs are {found}; wanted are the four of {_OPERATION} "
            f"(boxes, classes, scores, count)"
        )
    return [int(details[name]["index"]) for name in _OUTPUTS], int(details[_OPERATION]["shape"][1])

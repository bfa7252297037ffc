"""SavedModels, through TensorFlow where it is installed. TensorFlow is no dependency: it takes 2 GB."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from local.serving.backends import Arrays, Signature, TensorSpec
from local.serving.status import ServingError
from steps.errors import ModelMismatchError, UsageError

SIGNATURE_KEY = "serving_default"

_FILE = "saved_model.pb"
_DTYPES = ("uint8", "float32", "int32", "int64")
_CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def version_folder(path: Path) -> Path:
    """The folder with saved_model.pb: the path itself, or its subfolder with the highest number as name.

    Raises:
        UsageError: there is none.
    """
    if (path / _FILE).is_file():
        return path
    versions = [entry for entry in path.iterdir() if entry.name.isdecimal() and (entry / _FILE).is_file()]
    if not versions:
        raise UsageError(f"no SavedModel in {path}: wanted is {_FILE} there, or in a subfolder named by its version")
    return max(versions, key=lambda entry: int(entry.name))


def import_tensorflow(folder: Path, threads: int) -> Any:
    """The module `tensorflow`, set to compute an operation with so many threads.

    Raises:
        UsageError: it is not installed, or cannot be imported any more beside the stubs of `steps.stubs`.
    """
    if "tensorflow" not in sys.modules and "steps.stubs" in sys.modules:
        raise UsageError(f"{folder} needs TensorFlow in a process of its own: start 'reelscan serve --model {folder}'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notes on the processor are no news to the user
    try:
        import tensorflow
    except ImportError as missing:
        raise UsageError(
            f"{folder} is a SavedModel, which needs TensorFlow ({missing}): pip install tensorflow"
        ) from None
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    return tensorflow


class SavedModelBackend:
    """The signature `serving_default` of a SavedModel.

    Args:
        folder: The folder with saved_model.pb.
        tensorflow: The module.

    Raises:
        ModelMismatchError: it cannot be loaded, or has no signature that can be served.
    """

    max_batch = None

    def __init__(self, folder: Path, tensorflow: Any) -> None:
        self._tensorflow = tensorflow
        try:
            self._model = tensorflow.saved_model.load(str(folder))
        except (OSError, ValueError, RuntimeError, KeyError, tensorflow.errors.OpError) as problem:
            raise ModelMismatchError(f"{folder} is no SavedModel that TensorFlow can load: {problem}") from None
        signatures = self._model.signatures
        if SIGNATURE_KEY not in signatures:
            raise ModelMismatchError(
                f"{folder} has no signature {SIGNATURE_KEY}, only {', '.join(signatures) or 'none'}"
            )
        self._function = signatures[SIGNATURE_KEY]
        self.description = f"TensorFlow {tensorflow.__version__}, {folder}"
        self.signature = Signature(
            inputs=_specs(folder, self._function.structured_input_signature[1]),
            outputs=_specs(folder, self._function.structured_outputs),
        )

    def predict(self, inputs: Arrays) -> Arrays:
        """All outputs of the signature.

        Raises:
            ServingError: with TensorFlow's own status.
        """
        try:
            outputs = self._function(**{name: self._tensorflow.constant(array) for name, array in inputs.items()})
        except self._tensorflow.errors.OpError as problem:
            code = _CODE_OF_NUMBER.get(problem.error_code, grpc.StatusCode.UNKNOWN)
            raise ServingError(code, str(problem.message)) from None
        return {name: output.numpy() for name, output in outputs.items()}

    def close(self) -> None:
        """TensorFlow keeps its threads for the process."""


def _specs(folder: Path, tensors: dict[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _DTYPES or tensor.shape.rank is None:
            raise ModelMismatchError(
                f"{folder} has tensor {name} of {tensor.dtype.name}, shape {tensor.shape}: served are "
                f"{', '.join(_DTYPES)} with a known number of dimensions"
            )
        shape = tuple(-1 if size is None else int(size) for size in tensor.shape.as_list())
        specs[name] = TensorSpec(np.dtype(tensor.dtype.name), shape)
    return specs

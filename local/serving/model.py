"""One model under its name and version, with the answers of TensorFlow Serving. Knows no transport."""

from __future__ import annotations

import logging
import threading
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from local.serving.admission import Admission, Caller
from local.serving.backends import Arrays, Backend, Loader, Signature, TensorSpec
from local.serving.status import ServingError, invalid_argument
from steps.stubs import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
    array_from_tensor,
    tensor_from_array,
    type_name,
)

SIGNATURE_NAME = "serving_default"
METADATA_FIELD = "signature_def"

_METHOD_NAME = "tensorflow/serving/predict"
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]

_log = logging.getLogger(__name__)


class ServedModel:
    """Loads a backend and answers requests with it.

    The order of the checks and their statuses are those of TensorFlow Serving; the file and function stand
    with each.

    Args:
        name: The model's name.
        version: Its only version.
        admission: Whose turn it is to compute.
    """

    def __init__(self, name: str, version: int, admission: Admission) -> None:
        self.name = name
        self.version = version
        self._admission = admission
        self._backend: Backend | None = None
        self._loaded = threading.Event()
        self._load_error: Exception | None = None

    def load(self, loader: Loader) -> bool:
        """Whether the backend could be loaded. What went wrong is kept for `wait_until_loaded`."""
        try:
            self._backend = loader()
        except Exception as problem:
            self._load_error = problem
        self._loaded.set()
        return self._load_error is None

    def wait_until_loaded(self, timeout_seconds: float) -> bool:
        """Whether the backend is loaded within the time.

        Raises:
            Exception: what the load failed with.
        """
        if not self._loaded.wait(timeout_seconds):
            return False
        if self._load_error is not None:
            raise self._load_error
        return True

    @property
    def description(self) -> str:
        """What is served, once it is loaded."""
        return self._backend.description if self._backend else "loading"

    def close(self) -> None:
        """Closes the backend, if it was loaded."""
        if self._backend is not None:
            self._backend.close()

    def status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """The state of the version: LOADING, AVAILABLE, or END after a failed load.

        model_servers/get_model_status_impl.cc, GetModelStatus and GetModelStatusWithModelSpec.
        """
        _require_spec(request)
        spec = request.model_spec
        if spec.HasField("version"):
            if (spec.name, spec.version.value) != (self.name, self.version):
                raise ServingError(
                    grpc.StatusCode.NOT_FOUND,
                    f"Could not find version {spec.version.value} of model {spec.name}",
                )
        elif spec.name != self.name:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        response = GetModelStatusResponse()
        version = response.model_version_status.add(version=self.version)
        if not self._loaded.is_set():
            version.state = ModelVersionStatus.LOADING
        elif self._load_error is None:
            version.state = ModelVersionStatus.AVAILABLE
            version.status.SetInParent()
        else:
            version.state = ModelVersionStatus.END
            version.status.error_code = _UNKNOWN
            version.status.error_message = str(self._load_error)
        return response

    def metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """The signature.

        servables/tensorflow/get_model_metadata_impl.cc, ValidateGetModelMetadataRequest and
        SavedModelGetSignatureDef.
        """
        _require_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        signature = self.available(request.model_spec).signature
        response = GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        definitions = SignatureDefMap(signature_def={SIGNATURE_NAME: _definition(signature)})
        response.metadata[METADATA_FIELD].Pack(definitions)
        return response

    def predict(self, request: PredictRequest, caller: Caller) -> PredictResponse:
        """The outputs for one batch: all of them, or those of `output_filter`.

        servables/tensorflow/predict_impl.cc, Predict; predict_util.cc, RunPredict and PreProcessPrediction.
        """
        _require_spec(request)
        spec = request.model_spec
        backend = self.available(spec)
        if spec.signature_name not in ("", SIGNATURE_NAME):
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{spec.signature_name}" not found.',
            )
        inputs = _inputs(backend.signature, request)
        names = _output_names(backend.signature, request)
        _check_batch(backend, inputs)
        with self._admission.turn(caller):
            outputs = _compute(backend, inputs)
        response = PredictResponse()
        response.model_spec.name = self.name
        response.model_spec.signature_name = SIGNATURE_NAME
        response.model_spec.version.value = self.version
        for name in names:
            response.outputs[name].CopyFrom(tensor_from_array(outputs[name]))
        return response

    def available(self, spec: ModelSpec) -> Backend:
        """The backend for a model's name and version.

        Raises:
            ServingError: NOT_FOUND for another name or version, and while the model is loading: the manager
                knows only what is available (model_servers/server_core.cc, ServableRequestFromModelSpec;
                core/basic_manager.cc, ServingMap::GetUntypedServableHandle).
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.version_label:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        wants_version = spec.HasField("version")
        fits = spec.name == self.name and (not wants_version or spec.version.value == self.version)
        if self._backend is None or not fits:
            wanted = f"Specific({spec.name}, {spec.version.value})" if wants_version else f"Latest({spec.name})"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")
        return self._backend


def _require_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _definition(signature: Signature) -> SignatureDef:
    def infos(specs: Any) -> dict[str, TensorInfo]:
        return {name: _info(name, spec) for name, spec in specs.items()}

    return SignatureDef(inputs=infos(signature.inputs), outputs=infos(signature.outputs), method_name=_METHOD_NAME)


def _info(name: str, spec: TensorSpec) -> TensorInfo:
    info = TensorInfo(name=f"{name}:0", dtype=_type_number(spec))
    for size in spec.shape:
        info.tensor_shape.dim.add(size=size)
    return info


def _type_number(spec: TensorSpec) -> int:
    return int(tensor_from_array(np.zeros(0, spec.dtype)).dtype)


def _inputs(signature: Signature, request: PredictRequest) -> Arrays:
    """The request's arrays, checked against the signature.

    Names: predict_util.cc, VerifyRequestInputsSize; tensorflow/cc/saved_model/util.cc, GetInputValues. Types:
    tensorflow/core/framework/function.cc, FunctionCallFrame::SetArgs. For shapes TensorFlow has as many words
    as kernels; the status is the same.
    """
    wanted, given = set(signature.inputs), set(request.inputs)
    if wanted != given:
        raise invalid_argument(
            f"input size does not match signature: {len(given)}!={len(wanted)} "
            f"len({{{_join(given)}}}) != len({{{_join(wanted)}}}). Sent extra: {{{_join(given - wanted)}}}. "
            f"Missing but required: {{{_join(wanted - given)}}}."
        )
    return {name: _input(name, spec, request.inputs[name]) for name, spec in signature.inputs.items()}


def _input(name: str, spec: TensorSpec, tensor: Any) -> npt.NDArray[Any]:
    wanted_type = _type_number(spec)
    if tensor.dtype != wanted_type:
        raise invalid_argument(f"{name}: expects {type_name(wanted_type)} but {type_name(tensor.dtype)} is provided")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if len(shape) != len(spec.shape) or any(
        wanted not in (-1, size) for wanted, size in zip(spec.shape, shape, strict=True)
    ):
        raise invalid_argument(f"{name}: expects shape {list(spec.shape)} (-1 is free) but {shape} is provided")
    if min(shape, default=1) < 1:
        raise invalid_argument(f"{name}: shape {shape} has no elements")
    try:
        return array_from_tensor(tensor)
    except ValueError as problem:
        raise invalid_argument(f"tensor parsing error: {name}: {problem}") from None


def _output_names(signature: Signature, request: PredictRequest) -> list[str]:
    """The outputs asked for (predict_util.cc, PreProcessPrediction)."""
    names = list(request.output_filter)
    for position, name in enumerate(names):
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{{{_join(signature.outputs)}}}."
            )
        if name in names[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
    return names or list(signature.outputs)


def _check_batch(backend: Backend, inputs: Arrays) -> None:
    """batching_util.h, ComputeTensorBatchSize; shared_batch_scheduler.h, ValidateBatchTaskQueueCapacity."""
    if backend.max_batch is None:
        return
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) != 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    (size,) = sizes
    if size > backend.max_batch:
        raise invalid_argument(f"Task size {size} is larger than maximum input batch size {backend.max_batch}")


def _compute(backend: Backend, inputs: Arrays) -> Arrays:
    try:
        return backend.predict(inputs)
    except ServingError:
        raise
    except MemoryError:
        raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, "OOM when allocating memory for the batch") from None
    except Exception as problem:
        _log.exception("the model failed on a batch")
        raise ServingError(grpc.StatusCode.INTERNAL, f"the model failed: {problem}") from None


def _join(names: Any) -> str:
    return ",".join(sorted(names))

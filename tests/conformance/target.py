"""A server under test, known only by its address and a model's name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from steps.stubs import (
    DataType,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    ModelSpec,
    ModelVersionStatus,
    PredictionServiceStub,
    PredictRequest,
    SignatureDef,
    SignatureDefMap,
    tensor_from_array,
)

TIMEOUT_SECONDS = 60
FREE_SIZE_PIXELS = 128  # stands for a height or width that the signature leaves free
SIGNATURE_NAME = "serving_default"
_FLOOD = 64

_CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True)
class Target:
    """The server's stubs and what its metadata say of the model."""

    address: str
    model: str
    prediction: Any
    models: Any

    def spec(self, **fields: Any) -> ModelSpec:
        """A ModelSpec for the model; `version=` takes a number."""
        version = fields.pop("version", None)
        spec = ModelSpec(**{"name": self.model, **fields})
        if version is not None:
            spec.version.value = version
        return spec

    def status(self, spec: ModelSpec) -> list[Any]:
        """The version statuses."""
        request = GetModelStatusRequest(model_spec=spec)
        return list(self.models.GetModelStatus(request, timeout=TIMEOUT_SECONDS).model_version_status)

    def latest_version(self) -> int:
        """The highest version that is available."""
        available = [
            status.version for status in self.status(self.spec()) if status.state == ModelVersionStatus.AVAILABLE
        ]
        return max(available)

    def metadata(self, spec: ModelSpec, *fields: str) -> Any:
        """GetModelMetadata's response."""
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=fields)
        return self.prediction.GetModelMetadata(request, timeout=TIMEOUT_SECONDS)

    def signature(self) -> SignatureDef:
        """The default signature."""
        definitions = SignatureDefMap()
        self.metadata(self.spec(), "signature_def").metadata["signature_def"].Unpack(definitions)
        return definitions.signature_def[SIGNATURE_NAME]

    def inputs(self, frames: int = 1) -> dict[str, npt.NDArray[Any]]:
        """A batch that fits the signature."""
        arrays = {}
        for name, info in self.signature().inputs.items():
            shape = [FREE_SIZE_PIXELS if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
            shape[0] = frames
            dtype = {"DT_UINT8": np.uint8, "DT_FLOAT": np.float32}[DataType.Name(info.dtype)]
            arrays[name] = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
        return arrays

    def request(self, inputs: dict[str, npt.NDArray[Any]], spec: ModelSpec | None = None, **fields: Any) -> Any:
        """A PredictRequest."""
        tensors = {name: tensor_from_array(array) for name, array in inputs.items()}
        return PredictRequest(model_spec=spec or self.spec(), inputs=tensors, **fields)

    def predict(self, request: Any) -> Any:
        """Predict's response."""
        return self.prediction.Predict(request, timeout=TIMEOUT_SECONDS)

    def flood(self, on_first_answer: Callable[[], None]) -> list[tuple[grpc.StatusCode, str]]:
        """Status and message of each of many requests sent at once."""
        request = self.request(self.inputs())
        answered = threading.Event()

        def note(_: Any) -> None:
            if not answered.is_set():
                answered.set()
                on_first_answer()

        calls = [self.prediction.Predict.future(request, timeout=TIMEOUT_SECONDS) for _ in range(_FLOOD)]
        for call in calls:
            call.add_done_callback(note)
        return [(call.code(), call.details() or "") for call in calls]


@contextmanager
def connected(address: str, model: str) -> Iterator[Target]:
    """A target, with its channel."""
    with grpc.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(TIMEOUT_SECONDS)
        yield Target(address, model, PredictionServiceStub(channel), ModelServiceStub(channel))

"""TensorFlow Serving's gRPC stubs and messages, without TensorFlow.

The stubs import generated modules from a package named `tensorflow`, whose `__init__` loads all of it (1.5 s,
550 MB). The build puts those few modules into `steps/_protos/`; while the stubs import, empty modules with
nothing but a `__path__` stand for the packages, and are taken away afterwards. Where TensorFlow is already
imported, its own modules are used. Importing this module costs about 0.06 s and 30 MB.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.errors import UsageError

_PROTOS = Path(__file__).parent / "_protos"


def _import_stubs(*names: str) -> list[Any]:
    """The named modules of `tensorflow_serving` and `tensorflow`. Leaves sys.modules as it was."""
    before = set(sys.modules)
    stand_ins = {"tensorflow_serving", "tensorflow"} - before
    try:
        for package in stand_ins:
            bare = ModuleType(package)
            bare.__path__ = [str(_PROTOS / package)]
            sys.modules[package] = bare
        return [importlib.import_module(name) for name in names]
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"TensorFlow Serving's client stubs are incomplete in {_PROTOS} (no {missing.name}): "
            f"install Reelscan again with 'pip install .' or 'pip install -e .', which obtains them"
        ) from None
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in stand_ins:
                del sys.modules[name]


(
    _metadata,
    _status,
    _model,
    _model_service,
    _predict,
    _prediction_service,
    _meta_graph,
    _tensor,
    _shape,
    _types,
) = _import_stubs(
    "tensorflow_serving.apis.get_model_metadata_pb2",
    "tensorflow_serving.apis.get_model_status_pb2",
    "tensorflow_serving.apis.model_pb2",
    "tensorflow_serving.apis.model_service_pb2_grpc",
    "tensorflow_serving.apis.predict_pb2",
    "tensorflow_serving.apis.prediction_service_pb2_grpc",
    "tensorflow.core.protobuf.meta_graph_pb2",
    "tensorflow.core.framework.tensor_pb2",
    "tensorflow.core.framework.tensor_shape_pb2",
    "tensorflow.core.framework.types_pb2",
)

ModelSpec = _model.ModelSpec
PredictRequest = _predict.PredictRequest
PredictResponse = _predict.PredictResponse
GetModelMetadataRequest = _metadata.GetModelMetadataRequest
GetModelMetadataResponse = _metadata.GetModelMetadataResponse
SignatureDefMap = _metadata.SignatureDefMap
GetModelStatusRequest = _status.GetModelStatusRequest
GetModelStatusResponse = _status.GetModelStatusResponse
ModelVersionStatus = _status.ModelVersionStatus
PredictionServiceStub = _prediction_service.PredictionServiceStub
PredictionServiceServicer = _prediction_service.PredictionServiceServicer
add_PredictionServiceServicer_to_server = _prediction_service.add_PredictionServiceServicer_to_server
ModelServiceStub = _model_service.ModelServiceStub
ModelServiceServicer = _model_service.ModelServiceServicer
add_ModelServiceServicer_to_server = _model_service.add_ModelServiceServicer_to_server
SignatureDef = _meta_graph.SignatureDef
TensorInfo = _meta_graph.TensorInfo
TensorProto = _tensor.TensorProto
TensorShapeProto = _shape.TensorShapeProto
DataType = _types.DataType
"""The enum wrapper: `DataType.Name(4)` is "DT_UINT8"."""
DT_FLOAT: int = _types.DT_FLOAT
DT_UINT8: int = _types.DT_UINT8
DT_INT32: int = _types.DT_INT32
DT_INT64: int = _types.DT_INT64

# TensorFlow's type -> (NumPy's type, little-endian as tensor_content is; the field of the unpacked values).
_LAYOUTS: dict[int, tuple[np.dtype[Any], str]] = {
    DT_FLOAT: (np.dtype("<f4"), "float_val"),
    DT_UINT8: (np.dtype("u1"), "int_val"),
    DT_INT32: (np.dtype("<i4"), "int_val"),
    DT_INT64: (np.dtype("<i8"), "int64_val"),
}
_MAX_ELEMENTS = 1 << 28  # a shape needs no bytes behind it, so it alone must not be able to fill memory
_TYPE_OF_DTYPE = {dtype: number for number, (dtype, _) in _LAYOUTS.items()}


def tensor_from_array(array: npt.NDArray[Any]) -> Any:
    """A TensorProto with the array's bytes as `tensor_content`.

    Args:
        array: Any shape; uint8, float32, int32 or int64.

    Raises:
        ValueError: another type of element.
    """
    number = _TYPE_OF_DTYPE.get(array.dtype)
    if number is None:
        raise ValueError(f"elements are {array.dtype}, not uint8, float32, int32 or int64")
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    return TensorProto(dtype=number, tensor_shape=shape, tensor_content=array.tobytes())


def array_from_tensor(tensor: Any) -> npt.NDArray[Any]:
    """The array of a TensorProto, from `tensor_content` (a read-only view) or from the `*_val` fields.

    As in TensorFlow, fewer `*_val` than elements means that the last one repeats
    (tensorflow/core/framework/tensor.proto), and none that all are zero.

    Raises:
        ValueError: a type or shape that is not known, more than 2**28 elements, or data that does not fit.
    """
    layout = _LAYOUTS.get(tensor.dtype)
    if layout is None:
        raise ValueError(f"elements are {type_name(tensor.dtype)}, not uint8, float32, int32 or int64")
    dtype, field = layout
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    count = 1
    for size in shape:
        count *= size
    if tensor.tensor_shape.unknown_rank or (shape and min(shape) < 0) or count > _MAX_ELEMENTS:
        raise ValueError(f"shape {'unknown' if tensor.tensor_shape.unknown_rank else shape} cannot be read")
    content = tensor.tensor_content
    if content:
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"{len(content)} bytes for shape {shape} of {dtype.name}")
        return np.frombuffer(content, dtype).reshape(shape)
    values = np.array(getattr(tensor, field))
    if dtype == np.uint8 and len(values) and (values.min() < 0 or values.max() > 255):
        raise ValueError("values outside uint8")
    values = values.astype(dtype)
    if len(values) > count:
        raise ValueError(f"{len(values)} values for shape {shape}")
    if len(values) < count:
        padding = np.full(count - len(values), values[-1] if len(values) else 0, dtype)
        values = np.concatenate([values, padding])
    return values.reshape(shape)


def type_name(number: int) -> str:
    """TensorFlow's name of a data type, such as "DT_UINT8"; the number itself where this version has none."""
    return str(DataType.Name(number)) if number in DataType.values() else str(number)

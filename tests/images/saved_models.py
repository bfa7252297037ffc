"""SavedModels that say what they take and give, and compute nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from steps.stubs import DT_FLOAT, DT_UINT8, SignatureDef, TensorInfo, TensorShapeProto

MetaGraphDef: Any = GetMessageClass(SignatureDef.DESCRIPTOR.file.message_types_by_name["MetaGraphDef"])
OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


def tensor_info(dtype: int, *shape: int) -> Any:
    """Type and shape of an input or output; -1 is free."""
    return TensorInfo(dtype=dtype, tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=n) for n in shape]))


def detection_signature(dtype: int = DT_UINT8, shape: tuple[int, ...] = (-1, -1, -1, 3)) -> Any:
    """A signature as the TensorFlow Object Detection API exports it."""
    outputs = dict(zip(OUTPUTS, ((-1, 100, 4), (-1, 100), (-1, 100), (-1,)), strict=True))
    return SignatureDef(
        inputs={"input_tensor": tensor_info(dtype, *shape)},
        outputs={name: tensor_info(DT_FLOAT, *sizes) for name, sizes in outputs.items()},
    )


def write_saved_model(
    folder: Path, signatures: Mapping[str, Any] | None = None, tags: tuple[str, ...] = ("serve",)
) -> Path:
    """Writes a SavedModel with variables, of which nothing but the signatures is real; returns its folder."""
    graph = MetaGraphDef(signature_def=signatures or {"serving_default": detection_signature()})
    graph.meta_info_def.tags.extend(tags)
    content = graph.SerializeToString()
    assert 1 << 7 <= len(content) < 1 << 14
    length = bytes([len(content) & 0x7F | 0x80, len(content) >> 7])
    folder.mkdir(parents=True, exist_ok=True)
    # saved_model_schema_version = 1, meta_graphs (tensorflow/core/protobuf/saved_model.proto).
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12" + length + content)
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.index").write_bytes(b"values")
    return folder

"""Lays a SavedModel out as TensorFlow Serving wants it, with its profile and a warm-up request.

Runs when images/serving/Dockerfile is built, with Reelscan's own packages: a profile that does not fit the model's
signature fails the build, and not each of its tasks.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from steps.errors import ModelMismatchError, NotFoundError, ReelscanError
from steps.profile import FILE_NAME, ModelProfile, load_profile
from steps.signature import SIGNATURE_NAME, InputSpec, check_signature
from steps.stubs import DT_FLOAT, DT_UINT8, ModelSpec, PredictRequest, SignatureDef, TensorProto, TensorShapeProto

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
"""Where TensorFlow Serving looks for requests to replay before a version is AVAILABLE."""

_SERVE_TAG = "serve"
_FIRST_VERSION = "1"
# SavedModel.meta_graphs (tensorflow/core/protobuf/saved_model.proto).
_META_GRAPHS = 2
# PredictionLog.predict_log, PredictLog.request (tensorflow_serving/apis/prediction_log.proto).
_PREDICT_LOG, _REQUEST = 6, 1
_LENGTH_DELIMITED = 2


def version_folder(model: Path) -> Path:
    """The SavedModel itself: `model`, or the highest of its numbered folders.

    Raises:
        NotFoundError: there is none.
    """
    if (model / "saved_model.pb").is_file():
        return model
    versions = [path for path in model.glob("*/saved_model.pb") if path.parent.name.isdecimal()]
    if not versions:
        raise NotFoundError(
            f"no SavedModel in {model}: name a folder with saved_model.pb, or one whose folders 1, 2, ... have it"
        )
    return max(versions, key=lambda path: int(path.parent.name)).parent


def serving_signature(saved_model: Path) -> Any:
    """The SignatureDef `serving_default` of the graph that TensorFlow Serving loads.

    Raises:
        ModelMismatchError: the file is no SavedModel, or has no such graph or signature.
    """
    meta_graph: Any = GetMessageClass(SignatureDef.DESCRIPTOR.file.message_types_by_name["MetaGraphDef"])
    try:
        fields: Any = UnknownFieldSet(Empty.FromString(saved_model.read_bytes()))
        graphs = [meta_graph.FromString(entry.data) for entry in fields if entry.field_number == _META_GRAPHS]
    except (DecodeError, TypeError):
        raise ModelMismatchError(f"{saved_model} is no SavedModel: export the model again") from None
    for graph in graphs:
        if _SERVE_TAG in graph.meta_info_def.tags and SIGNATURE_NAME in graph.signature_def:
            return graph.signature_def[SIGNATURE_NAME]
    raise ModelMismatchError(
        f"{saved_model} has no signature {SIGNATURE_NAME!r} under the tag {_SERVE_TAG!r}: export the model with it"
    )


def warmup_request(spec: InputSpec, model_name: str, batch_size: int) -> Any:
    """A PredictRequest of the shape that every request of a run has, with black pictures.

    A single value stands for all: where a tensor has fewer values than elements the last one repeats
    (tensorflow/core/framework/tensor.proto), so that a batch takes a hundred bytes.
    """
    sizes = (spec.batch_size or batch_size, spec.height, spec.width, 3)
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])
    if spec.dtype.kind == "f":
        pictures = TensorProto(dtype=DT_FLOAT, tensor_shape=shape, float_val=[0.0])
    else:
        pictures = TensorProto(dtype=DT_UINT8, tensor_shape=shape, int_val=[0])
    return PredictRequest(
        model_spec=ModelSpec(name=model_name, signature_name=SIGNATURE_NAME),
        inputs={spec.name: pictures},
        output_filter=spec.outputs,
    )


def warmup_record(request: Any) -> bytes:
    """A PredictionLog with the request, framed as a TFRecord."""
    return tfrecord(_message_field(_PREDICT_LOG, _message_field(_REQUEST, request.SerializeToString())))


def _message_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def tfrecord(data: bytes) -> bytes:
    """Length, its checksum, the data, its checksum: tensorflow/core/lib/io/record_writer.h."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(crc32c(length))) + data + struct.pack("<I", _masked(crc32c(data)))


def _masked(checksum: int) -> int:
    """So that the checksum of data that holds checksums is no special case: tensorflow/core/lib/hash/crc32c.h."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC with Castagnoli's polynomial, as iSCSI has it (RFC 3720, section 12.1), bit by bit."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0x82F63B78 if checksum & 1 else 0)
    return checksum ^ 0xFFFFFFFF


def prepare(model: Path, target: Path, model_name: str, batch_size: int) -> tuple[ModelProfile, InputSpec]:
    """Writes `target`/VERSION with its warm-up request, and `target`/reelscan.json.

    A model that brings a warm-up file of its own keeps it.

    Args:
        model: Folder of a SavedModel, or one with numbered versions, of which the highest is taken.
        target: Folder to make: the model's below TensorFlow Serving's base path.
        model_name: The name under which it will be served.
        batch_size: Frames of a request, where the model's batch is free.

    Raises:
        NotFoundError: no SavedModel.
        ModelMismatchError: the profile does not fit the signature.
        UsageError: the profile is none.
    """
    source = version_folder(model)
    profile = load_profile(model_path=source)
    spec = check_signature(serving_signature(source / "saved_model.pb"), profile, str(model))
    version = target / (_FIRST_VERSION if source == model else source.name)
    shutil.copytree(source, version, ignore=shutil.ignore_patterns(FILE_NAME))
    _open_up(target)
    warmup = version / WARMUP_FILE
    if not warmup.exists():
        warmup.parent.mkdir(exist_ok=True)
        warmup.write_bytes(warmup_record(warmup_request(spec, model_name, batch_size)))
    (target / FILE_NAME).write_text(profile.model_dump_json(indent=2, exclude_none=True) + "\n")
    _open_up(target)
    return profile, spec


def _open_up(folder: Path) -> None:
    """Whoever the server runs as must be able to read what may have been copied from a private or read-only folder."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> int:
    """Prepares a model for images/serving/Dockerfile."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path, help="folder of a SavedModel, or one with numbered versions")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--model-name", required=True, help="name under which the model will be served")
    parser.add_argument("--batch-size", type=int, required=True, help="frames of a request, if that is free")
    options = parser.parse_args()
    try:
        profile, spec = prepare(options.model, options.target, options.model_name, options.batch_size)
    except ReelscanError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return error.exit_status
    shape = [spec.batch_size or options.batch_size, spec.height, spec.width, 3]
    print(f"{options.model_name}: {spec.dtype} {shape}, profile {profile.digest()[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The stubs come without TensorFlow, and tensors survive the way there and back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import steps.stubs
from steps.stubs import (
    DT_FLOAT,
    DT_INT32,
    DT_INT64,
    DT_UINT8,
    TensorProto,
    TensorShapeProto,
    array_from_tensor,
    tensor_from_array,
    type_name,
)

STEPS = Path(steps.stubs.__file__).parent


def run_python(program: str, *, path: Path = STEPS.parent) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=path,  # "-c" looks there first
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shape_of(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def test_importing_the_client_imports_no_tensorflow_and_leaves_none_behind():
    left = run_python(
        "import sys, steps.serving\n"
        "print([name for name in sys.modules if name.partition('.')[0].startswith('tensorflow')])"
    )
    assert left.strip() == "[]"


def test_a_tensorflow_that_is_already_imported_is_used_and_stays(tmp_path):
    shutil.copytree(STEPS / "_protos" / "tensorflow", tmp_path / "tensorflow")
    (tmp_path / "tensorflow" / "__init__.py").write_text("is_real = True\n")
    shown = run_python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import tensorflow, steps.stubs\n"
        "assert sys.modules['tensorflow'] is tensorflow and tensorflow.is_real\n"
        "print(sys.modules['tensorflow.core.framework.tensor_pb2'].__file__)\n"
        "print([name for name in sys.modules if name.startswith('tensorflow_serving')])"
    )
    assert shown.splitlines() == [str(tmp_path / "tensorflow/core/framework/tensor_pb2.py"), "[]"]


def test_missing_stubs_say_how_to_get_them(tmp_path):
    (tmp_path / "steps").mkdir()
    for name in ("__init__.py", "errors.py", "stubs.py"):
        shutil.copy(STEPS / name, tmp_path / "steps" / name)
    said = run_python(
        "from steps.errors import UsageError\n"
        "try:\n    import steps.stubs\nexcept UsageError as error:\n    print(error)",
        path=tmp_path,
    )
    assert "pip install" in said
    assert str(tmp_path) in said


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32", "int64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 2, 2, 3), (0, 4)])
def test_an_array_survives_as_tensor_content(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    back = array_from_tensor(TensorProto.FromString(tensor_from_array(array).SerializeToString()))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_strided_array_is_sent_in_its_own_order():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4).T
    np.testing.assert_array_equal(array_from_tensor(tensor_from_array(array)), array)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(1, 2), float_val=[0.5, -1]), [[0.5, -1]]),
        (TensorProto(dtype=DT_UINT8, tensor_shape=shape_of(2), int_val=[0, 255]), [0, 255]),
        (TensorProto(dtype=DT_INT32, tensor_shape=shape_of(2), int_val=[-7, 7]), [-7, 7]),
        (TensorProto(dtype=DT_INT64, tensor_shape=shape_of(1), int64_val=[1 << 40]), [1 << 40]),
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(), float_val=[3]), 3),
        # tensor.proto: one value may stand for all, and the last value repeats.
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(3), float_val=[2]), [2, 2, 2]),
        (TensorProto(dtype=DT_INT32, tensor_shape=shape_of(4), int_val=[1, 5]), [1, 5, 5, 5]),
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(2)), [0, 0]),
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(0, 4)), np.zeros((0, 4))),
    ],
)
def test_values_are_read_from_their_fields(tensor, expected):
    np.testing.assert_array_equal(array_from_tensor(tensor), expected)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(2), tensor_content=bytes(7)), "7 bytes for shape"),
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(1), float_val=[1, 2]), "2 values for shape"),
        (TensorProto(dtype=DT_UINT8, tensor_shape=shape_of(1), int_val=[300]), "outside uint8"),
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(-1)), "cannot be read"),
        (TensorProto(dtype=DT_FLOAT, tensor_shape=shape_of(1 << 40), float_val=[1]), "cannot be read"),
        (TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(unknown_rank=True)), "shape unknown"),
        (TensorProto(dtype=7, tensor_shape=shape_of(1)), "DT_STRING"),
        (TensorProto(dtype=9999, tensor_shape=shape_of(1)), "9999"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(tensor, words):
    with pytest.raises(ValueError, match=words):
        array_from_tensor(tensor)


def test_an_array_of_another_type_is_refused():
    with pytest.raises(ValueError, match="float64"):
        tensor_from_array(np.zeros(2))


def test_types_are_named_as_tensorflow_names_them():
    assert [type_name(DT_UINT8), type_name(12345)] == ["DT_UINT8", "12345"]

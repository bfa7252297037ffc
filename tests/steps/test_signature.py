"""What is said where a served model and its profile do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from steps.errors import ModelMismatchError
from steps.profile import ModelProfile
from steps.signature import check_signature
from steps.stubs import (
    DT_FLOAT,
    DT_INT64,
    DT_UINT8,
    SignatureDef,
    TensorInfo,
    TensorShapeProto,
)

DT_STRING = 7
OUTPUTS = {
    "detection_boxes": (DT_FLOAT, (-1, 10, 4)),
    "detection_scores": (DT_FLOAT, (-1, 10)),
    "detection_classes": (DT_FLOAT, (-1, 10)),
    "num_detections": (DT_FLOAT, (-1,)),
}


def info(dtype: int, shape: tuple[int, ...] | None) -> TensorInfo:
    dims = [TensorShapeProto.Dim(size=size) for size in shape or ()]
    return TensorInfo(dtype=dtype, tensor_shape=TensorShapeProto(dim=dims, unknown_rank=shape is None))


def signature_of(shape=(-1, 300, 300, 3), dtype=DT_UINT8, outputs=None, further_inputs=()) -> SignatureDef:
    return SignatureDef(
        inputs={
            "input_tensor": info(dtype, shape),
            **dict.fromkeys(further_inputs, info(DT_FLOAT, (-1,))),
        },
        outputs={name: info(*what) for name, what in (OUTPUTS | (outputs or {})).items()},
    )


def profile_of(outputs=None, **of_input) -> ModelProfile:
    names = {
        "boxes": "detection_boxes",
        "scores": "detection_scores",
        "classes": "detection_classes",
        "count": "num_detections",
    }
    return ModelProfile.model_validate(
        {
            "input": {"name": "input_tensor", **of_input},
            "outputs": names | (outputs or {}),
            "box_format": "ymin_xmin_ymax_xmax_normalized",
        }
    )


def check(signature=None, profile=None):
    return check_signature(signature or signature_of(), profile or profile_of(), "model 'ssd' at h:1")


def test_a_model_that_fits_gives_its_input():
    spec = check()
    assert (spec.name, spec.width, spec.height, spec.batch_size) == ("input_tensor", 300, 300, None)
    assert spec.dtype == np.uint8
    assert spec.outputs == tuple(OUTPUTS)
    assert not spec.is_free_size


def test_a_model_of_free_size_gets_the_profiles_size_or_640():
    free = signature_of((-1, -1, -1, 3))
    assert (check(free).width, check(free).height, check(free).is_free_size) == (640, 640, True)
    wanted = check(free, profile_of(width=512, height=256))
    assert (wanted.width, wanted.height) == (512, 256)


def test_a_batch_of_one_is_kept_to():
    assert check(signature_of((1, -1, -1, 3))).batch_size == 1


def test_a_float_model_takes_scale_and_offset():
    spec = check(signature_of(dtype=DT_FLOAT), profile_of(scale=1 / 127.5, offset=-1.0))
    assert spec.dtype == np.float32


def test_outputs_without_a_stated_shape_and_whole_number_classes_are_taken():
    outputs = {
        "detection_boxes": (DT_FLOAT, None),
        "detection_scores": (DT_FLOAT, ()),
        "detection_classes": (DT_INT64, (-1, 100)),
    }
    assert check(signature_of(outputs=outputs)).outputs == tuple(OUTPUTS)


def test_a_profile_without_a_count_asks_for_none():
    assert check(profile=profile_of({"count": None})).outputs == tuple(OUTPUTS)[:3]


@pytest.mark.parametrize(
    ("signature", "profile", "words"),
    [
        ({}, {"width": 320, "height": 300}, "input.width is 320, the server's 300; set input.width to 300"),
        ({}, {"width": 300, "height": 320}, "input.height is 320, the server's 300"),
        ({"shape": (-1, 3, 300, 300)}, {}, "three channels last"),
        ({"shape": (-1, 300, 300, 1)}, {}, r"\[-1, 300, 300, 1\]"),
        ({"shape": (300, 300, 3)}, {}, r"shape \[300, 300, 3\], but pictures are sent as \[batch, height"),
        ({"shape": None}, {}, "unknown rank"),
        ({"shape": (0, 300, 300, 3)}, {}, r"\[0, 300, 300, 3\]"),
        ({"dtype": DT_STRING, "shape": (-1,)}, {}, "takes DT_STRING, but pictures are sent as DT_UINT8"),
        ({"dtype": DT_INT64}, {}, "takes DT_INT64"),
        ({}, {"scale": 0.5}, "input.scale is 0.5.*takes DT_UINT8"),
        ({}, {"offset": -1.0}, "input.offset -1"),
        ({}, {"name": "image"}, "input.name is 'image', the server's inputs are 'input_tensor'; name the"),
        ({"further_inputs": ["anchors"]}, {}, "'anchors', 'input_tensor', but only 'input_tensor'"),
        (
            {},
            {"outputs": {"boxes": "boxes"}},
            "outputs.boxes is 'boxes', the server's outputs are 'detection_b",
        ),
        ({}, {"outputs": {"count": "n"}}, "outputs.count is 'n'"),
        ({"outputs": {"detection_scores": (DT_INT64, (-1, 10))}}, {}, "as DT_INT64, not DT_FLOAT"),
        ({"outputs": {"detection_classes": (DT_STRING, (-1, 10))}}, {}, "outputs.classes.*DT_STRING"),
        ({"outputs": {"detection_boxes": (DT_FLOAT, (-1, 10, 7))}}, {}, r"not \[batch, N, 4\]"),
        ({"outputs": {"detection_scores": (DT_FLOAT, (-1, 10, 91))}}, {}, r"not \[batch, N\]"),
    ],
)
def test_a_misfit_says_what_both_say_and_what_to_change(signature, profile, words):
    with pytest.raises(ModelMismatchError, match=words) as raised:
        check(signature_of(**signature), profile_of(**profile))
    assert str(raised.value).startswith("model 'ssd' at h:1: ")
    assert ";" in str(raised.value)

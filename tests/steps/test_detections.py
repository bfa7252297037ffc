"""Boxes, scores and labels as the contract gives them, from every form a model may give them in."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.detections import detections_of
from steps.errors import ModelMismatchError
from steps.profile import ModelProfile


def profile_of(box_format="ymin_xmin_ymax_xmax_normalized", *, count=None, offset=0, **of_input) -> ModelProfile:
    return ModelProfile.model_validate(
        {
            "input": {"name": "input_tensor", **of_input},
            "outputs": {"boxes": "b", "scores": "s", "classes": "c", "count": count},
            "box_format": box_format,
            "class_id_offset": offset,
            "labels": {1: "person", 3: "car"},
        }
    )


def outputs_of(*rows, count=None) -> dict:
    """Outputs of rows (score, class number, box)."""
    outputs = {
        "s": np.array([row[0] for row in rows], np.float32),
        "c": np.array([row[1] for row in rows], np.float32),
        "b": np.array([row[2] for row in rows], np.float32).reshape(len(rows), 4),
    }
    if count is not None:
        outputs["n"] = np.array(count, np.float32)
    return outputs


def detect(outputs, profile=None, **settings) -> list:
    chosen = {"width": 200, "height": 100, "min_score": 0.5, "labels": None, "max_detections": 100} | settings
    return detections_of(outputs, profile or profile_of(), **chosen)


WHOLE = (0.0, 0.0, 1.0, 1.0)


def test_a_detection_is_what_the_contract_says():
    found = detect(outputs_of((0.91337, 1, (0.1, 0.25, 0.5, 0.75))))
    assert found == [{"label": "person", "class_id": 1, "score": 0.9134, "box": [50.0, 10.0, 100.0, 40.0]}]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("ymin_xmin_ymax_xmax_normalized", (0.1, 0.25, 0.5, 0.75)),
        ("xmin_ymin_xmax_ymax_normalized", (0.25, 0.1, 0.75, 0.5)),
        ("xmin_ymin_width_height_normalized", (0.25, 0.1, 0.5, 0.4)),
        ("xcenter_ycenter_width_height_normalized", (0.5, 0.3, 0.5, 0.4)),
        ("ymin_xmin_ymax_xmax_pixels", (40, 100, 200, 300)),
        ("xmin_ymin_xmax_ymax_pixels", (100, 40, 300, 200)),
        ("xmin_ymin_width_height_pixels", (100, 40, 200, 160)),
        ("xcenter_ycenter_width_height_pixels", (200, 120, 200, 160)),
    ],
)
def test_every_box_format_gives_the_same_box(box_format, box):
    profile = profile_of(box_format, width=400, height=400)
    assert detect(outputs_of((0.9, 1, box)), profile)[0]["box"] == [50.0, 10.0, 100.0, 40.0]


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("ymin_xmin_ymax_xmax_normalized", (0.3, 0.25, 0.5, 0.75)),
        ("xmin_ymin_width_height_pixels", (100, 120, 200, 80)),
        ("xcenter_ycenter_width_height_pixels", (200, 160, 200, 80)),
    ],
)
def test_a_letterbox_is_undone(box_format, box):
    # A picture of 200x100 in 400x400: 400x200 of it, from row 100 on.
    profile = profile_of(box_format, width=400, height=400, resize="letterbox")
    assert detect(outputs_of((0.9, 1, box)), profile)[0]["box"] == [50.0, 10.0, 100.0, 40.0]


def test_a_box_in_the_padding_of_a_letterbox_is_dropped_and_one_across_it_clipped():
    profile = profile_of(width=400, height=400, resize="letterbox")
    found = detect(outputs_of((0.9, 1, (0, 0, 0.2, 1)), (0.8, 1, (0, 0, 0.5, 1))), profile)
    assert [one["box"] for one in found] == [[0.0, 0.0, 200.0, 50.0]]


def test_a_box_is_clipped_to_the_picture():
    found = detect(outputs_of((0.9, 1, (-0.5, -0.1, 1.2, 0.5)), (0.8, 1, (0.5, 0.9, 3, 1.01))))
    assert [one["box"] for one in found] == [[0.0, 0.0, 100.0, 100.0], [180.0, 50.0, 20.0, 50.0]]


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 1), (0.5, 0.5, 0.4, 0.6), (1.1, 0, 1.2, 1), (-1, -1, -0.5, 1), (0.5, 0.5, 0.5001, 0.6)]
)
def test_a_box_without_area_in_the_picture_is_dropped(box):
    assert detect(outputs_of((0.9, 1, box))) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_with_a_nan_or_an_infinity_are_dropped(bad):
    rows = [(0.9, 1, WHOLE), (bad, 1, WHOLE), (0.9, bad, WHOLE), (0.9, 1, (0, bad, 1, 1)), (0.8, 3, WHOLE)]
    assert [one["label"] for one in detect(outputs_of(*rows))] == ["person", "car"]


def test_a_class_number_that_is_none_is_dropped():
    assert detect(outputs_of((0.9, 1e30, WHOLE))) == []


def test_the_score_is_compared_before_it_is_rounded():
    found = detect(outputs_of((0.5, 1, WHOLE), (0.49999, 1, WHOLE), (0.50001, 1, WHOLE)))
    assert [one["score"] for one in found] == [0.5, 0.5]


def test_a_score_equal_to_the_decimal_asked_for_is_kept():
    assert len(detect(outputs_of((0.9, 1, WHOLE)), min_score=0.9)) == 1  # 0.9 as float32 is below 0.9


def test_the_best_come_first_and_equal_ones_in_the_models_order():
    rows = [(0.6, 3, WHOLE), (0.9, 1, WHOLE), (0.6, 1, WHOLE), (0.7, 3, WHOLE)]
    found = detect(outputs_of(*rows))
    assert [(one["score"], one["class_id"]) for one in found] == [(0.9, 1), (0.7, 3), (0.6, 3), (0.6, 1)]


def test_the_best_so_many_are_kept_of_those_asked_for():
    rows = [(0.6, 3, WHOLE), (0.9, 1, WHOLE), (0.8, 1, (0, 0, 0, 0)), (0.7, 3, WHOLE), (0.95, 1, WHOLE)]
    assert [one["score"] for one in detect(outputs_of(*rows), max_detections=2)] == [0.95, 0.9]
    found = detect(outputs_of(*rows), max_detections=2, labels={"car"})
    assert [one["score"] for one in found] == [0.7, 0.6]


def test_an_unknown_class_is_labelled_with_its_id():
    found = detect(outputs_of((0.9, 7, WHOLE)), profile_of(offset=1))
    assert [(one["class_id"], one["label"]) for one in found] == [(8, "8")]
    assert detect(outputs_of((0.9, 7, WHOLE)), profile_of(offset=1), labels={"8"}) == found


def test_the_offset_turns_class_numbers_into_class_ids():
    found = detect(outputs_of((0.9, 0, WHOLE)), profile_of(offset=1))
    assert [(one["class_id"], one["label"]) for one in found] == [(1, "person")]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_rows_behind_the_count_are_padding(shape):
    outputs = outputs_of((0.9, 1, WHOLE), (0.8, 3, WHOLE), (0.95, 1, WHOLE))
    outputs["n"] = np.full(shape, 2, np.float32)
    assert [one["score"] for one in detect(outputs, profile_of(count="n"))] == [0.9, 0.8]


def test_a_count_that_is_no_number_is_a_misfit():
    with pytest.raises(ModelMismatchError, match="nan"):
        detect(outputs_of((0.9, 1, WHOLE), count=math.nan), profile_of(count="n"))


def test_nothing_found_is_an_empty_list():
    assert detect(outputs_of((0.1, 1, WHOLE), count=1), profile_of(count="n")) == []
    assert detect(outputs_of()) == []


@given(
    st.integers(1, 8192),
    st.integers(1, 8192),
    st.lists(st.tuples(*[st.floats(-2, 3, width=32)] * 4, st.floats(0, 1, width=32), st.integers(0, 5)), max_size=8),
)
def test_a_box_lies_inside_the_picture_to_a_tenth_of_a_pixel(width, height, rows):
    outputs = outputs_of(*[(row[4], row[5], row[:4]) for row in rows])
    scores = []
    for found in detect(outputs, width=width, height=height, min_score=0.0):
        left, top, box_width, box_height = found["box"]
        assert left >= 0
        assert top >= 0
        assert box_width > 0
        assert box_height > 0
        assert round(10 * (left + box_width)) <= 10 * width
        assert round(10 * (top + box_height)) <= 10 * height
        assert all(round(value, 1) == value for value in found["box"])
        scores.append(found["score"])
    assert scores == sorted(scores, reverse=True)

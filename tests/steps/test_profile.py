"""Profiles: what is built in, what is found where, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import UsageError
from steps.profile import InputProfile, Placement, built_in_profiles, load_profile

SAMPLE = Path(__file__).parents[2] / "samples" / "reelscan.json"


def write(path: Path, profile: object) -> Path:
    path.write_text(json.dumps(profile))
    return path


@pytest.fixture
def sample() -> dict:
    return json.loads(SAMPLE.read_text())


def test_the_default_is_the_object_detection_api_of_free_size():
    profile = load_profile()
    assert profile == load_profile("tensorflow_object_detection_api")
    assert (profile.input.name, profile.input.width, profile.input.height) == ("input_tensor", None, None)
    assert profile.input.resize == "stretch"
    assert profile.box_format == "ymin_xmin_ymax_xmax_normalized"
    labels = profile.label_of_class_id
    assert len(labels) == 80
    assert (labels[1], labels[13], labels[44], labels[90]) == ("person", "stop sign", "bottle", "toothbrush")
    assert not {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91} & set(labels)


def test_the_sample_model_has_the_profile_beside_it_built_in():
    beside = load_profile(model_path=SAMPLE.parent / "coco_ssd_mobilenet_v1_1.0_quant.tflite")
    built_in = load_profile("coco_ssd_mobilenet_v1_quant")
    assert beside == built_in
    assert (beside.input.width, beside.input.height, beside.class_id_offset) == (300, 300, 1)
    assert beside.label_of_class_id[1] == "person"


@pytest.mark.parametrize("name", built_in_profiles())
def test_every_built_in_profile_is_valid(name):
    assert load_profile(name).digest() == load_profile(name).digest()


def test_the_option_goes_before_the_file_beside_the_model(tmp_path, sample):
    beside = tmp_path / "model.tflite"
    write(tmp_path / "reelscan.json", sample | {"class_id_offset": 5})
    chosen = write(tmp_path / "mine.json", sample | {"class_id_offset": 7})
    assert load_profile(None, beside).class_id_offset == 5
    assert load_profile(str(chosen), beside).class_id_offset == 7
    assert load_profile("coco_ssd_mobilenet_v1_quant", beside).class_id_offset == 1


def test_a_saved_model_may_have_its_profile_inside_or_beside(tmp_path, sample):
    model = tmp_path / "ssd"
    model.mkdir()
    assert load_profile(None, model) == load_profile()
    write(tmp_path / "reelscan.json", sample | {"class_id_offset": 5})
    assert load_profile(None, model).class_id_offset == 5
    write(model / "reelscan.json", sample | {"class_id_offset": 6})
    assert load_profile(None, model).class_id_offset == 6


def test_labels_may_be_a_map_by_class_id_or_a_list_from_the_offset(tmp_path, sample):
    by_id = load_profile(str(write(tmp_path / "a.json", sample | {"labels": {"1": "cat", "2": "dog"}})))
    listed = load_profile(str(write(tmp_path / "b.json", sample | {"labels": ["cat", "dog"]})))
    assert by_id.label_of_class_id == listed.label_of_class_id == {1: "cat", 2: "dog"}
    assert by_id.digest() == listed.digest()


def test_the_digest_changes_with_the_meaning_and_not_with_the_spelling(tmp_path, sample):
    digest = load_profile(str(SAMPLE)).digest()
    respelled = dict(reversed(sample.items())) | {"input": sample["input"] | {"scale": 1, "offset": 0}}
    assert load_profile(str(write(tmp_path / "a.json", respelled))).digest() == digest
    for change in (
        {"class_id_offset": 2},
        {"box_format": "xmin_ymin_xmax_ymax_normalized"},
        {"labels": sample["labels"] | {"1": "people"}},
        {"input": sample["input"] | {"offset": 0.5}},
        {"outputs": sample["outputs"] | {"count": None}},
    ):
        assert load_profile(str(write(tmp_path / "a.json", sample | change))).digest() != digest


def test_the_digest_is_stable_over_releases():
    # A change here makes every result computed so far be computed again.
    assert (
        load_profile("coco_ssd_mobilenet_v1_quant").digest()
        == "7b4240ae6f84b05777fd8089f1d392d5405c798871353f9b7760326cfb87e56b"
    )


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        (None, {"colour": "rgb"}, "'colour' is not a known field; known are input, outputs, box_format"),
        ("input", {"size": 300}, "'input.size' is not a known field; known are name, width, height, resize"),
        ("outputs", {"masks": "m"}, "'outputs.masks' is not a known field; known are boxes, scores, classes"),
        ("input", {"resize": "crop"}, "input.resize: 'crop'.*'stretch' or 'letterbox'"),
        ("input", {"color": "gray"}, "input.color: 'gray'.*'rgb' or 'bgr'"),
        ("input", {"width": "300"}, "input.width: '300'"),
        ("input", {"width": 0}, "input.width: 0"),
        ("input", {"width": None}, "width and height belong together"),
        (
            "input",
            {"width": None, "height": None, "resize": "letterbox"},
            "'letterbox' needs width and height",
        ),
        ("input", {"scale": 0}, "scale 0"),
        ("input", {"scale": float("nan")}, "input.scale.*finite"),
        ("input", {"name": ""}, "input.name"),
        ("outputs", {"boxes": None}, "outputs.boxes"),
        (None, {"box_format": "xyxy"}, "box_format: 'xyxy'.*'xmin_ymin_xmax_ymax_normalized'"),
        (None, {"class_id_offset": 1.5}, "class_id_offset: 1.5"),
        (None, {"labels": "person"}, "labels: 'person'"),
        (None, {"labels": [""]}, "labels.0"),
        (None, {"labels": {"one": "person"}}, "labels.one"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(tmp_path, sample, section, change, words):
    changed = sample | (change if section is None else {section: sample[section] | change})
    path = write(tmp_path / "reelscan.json", changed)
    with pytest.raises(UsageError, match=words) as raised:
        load_profile(str(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["input", "outputs", "box_format"])
def test_a_missing_field_is_named(tmp_path, sample, missing):
    del sample[missing]
    with pytest.raises(UsageError, match=f"'{missing}' is missing"):
        load_profile(str(write(tmp_path / "reelscan.json", sample)))


def test_boxes_in_pixels_need_the_size_of_the_input(tmp_path, sample):
    sample["input"] = {"name": "input_tensor"}
    sample["box_format"] = "xmin_ymin_xmax_ymax_pixels"
    with pytest.raises(UsageError, match=r"needs input\.width and input\.height"):
        load_profile(str(write(tmp_path / "reelscan.json", sample)))


def test_what_is_no_profile_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="built in are coco_ssd_mobilenet_v1_quant, tensorflow_object"):
        load_profile("no_such_profile")
    with pytest.raises(UsageError, match="directory"):
        load_profile(str(tmp_path))
    (tmp_path / "text.json").write_text('{"input": ')
    with pytest.raises(UsageError, match="no JSON"):
        load_profile(str(tmp_path / "text.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError, match="the file"):
        load_profile(str(tmp_path / "list.json"))
    (tmp_path / "large.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="larger than"):
        load_profile(str(tmp_path / "large.json"))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ((1920, 1080), Placement(0, 140, 640, 360)),
        ((1080, 1920), Placement(140, 0, 360, 640)),
        ((500, 500), Placement(0, 0, 640, 640)),
        ((10000, 1), Placement(0, 319, 640, 1)),
    ],
)
def test_a_letterbox_is_centred(picture, expected):
    profile = InputProfile(name="x", width=640, height=640, resize="letterbox")
    assert profile.placement(*picture, 640, 640) == expected


def test_a_stretched_picture_fills_the_input():
    assert InputProfile(name="x").placement(1920, 1080, 640, 480) == Placement(0, 0, 640, 480)


SIDE = st.integers(1, 8192)


@given(SIDE, SIDE, st.integers(1, 2000), st.integers(1, 2000))
def test_a_letterbox_touches_two_sides_and_keeps_the_aspect_ratio(picture_width, picture_height, width, height):
    profile = InputProfile(name="x", width=width, height=height, resize="letterbox")
    place = profile.placement(picture_width, picture_height, width, height)
    assert 0 < place.width <= width
    assert 0 < place.height <= height
    assert place.width == width or place.height == height
    assert 0 <= width - place.width - 2 * place.left <= 1
    assert 0 <= height - place.height - 2 * place.top <= 1
    scale = min(width / picture_width, height / picture_height)
    assert abs(place.width - max(1, picture_width * scale)) <= 0.5 + 1e-6
    assert abs(place.height - max(1, picture_height * scale)) <= 0.5 + 1e-6

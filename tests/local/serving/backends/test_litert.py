"""LiteRT detection models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from local.serving.backends import default_model
from local.serving.backends.detections import BOXES, CLASSES, COUNT, INPUT, SCORES
from local.serving.backends.litert import LiteRTBackend
from steps.errors import ModelMismatchError
from tests.local.serving.clip import sample_frames

PERSON = 0


@pytest.fixture(scope="module")
def model():
    backend = LiteRTBackend(default_model(), threads=2)
    yield backend
    backend.close()


def test_the_signature_is_the_models(model: LiteRTBackend) -> None:
    assert {name: (spec.dtype.name, spec.shape) for name, spec in model.signature.inputs.items()} == {
        INPUT: ("uint8", (-1, 300, 300, 3))
    }
    assert {name: spec.shape for name, spec in model.signature.outputs.items()} == {
        BOXES: (-1, 10, 4),
        SCORES: (-1, 10),
        CLASSES: (-1, 10),
        COUNT: (-1,),
    }


def test_the_people_of_the_sample_clip_are_found_where_they_are(model: LiteRTBackend) -> None:
    # samples/README.md: nobody at second 4, the man at second 10.
    outputs = model.predict({INPUT: sample_frames([4, 10], 300, 300)})
    people = (outputs[CLASSES] == PERSON) & (outputs[SCORES] >= 0.5)
    assert people.sum(axis=1).tolist() == [0, 1]
    top, left, bottom, right = outputs[BOXES][1][people[1]][0]
    assert 0.3 < left < 0.5 < right < 0.75
    assert top < 0.2
    assert bottom > 0.7


def test_the_outputs_are_those_of_the_interpreter(model: LiteRTBackend) -> None:
    frame = sample_frames([10], 300, 300)
    engine = Interpreter(str(default_model()), num_threads=1)
    engine.allocate_tensors()
    engine.set_tensor(engine.get_input_details()[0]["index"], frame)
    engine.invoke()
    boxes, classes, scores, count = (engine.get_tensor(out["index"]) for out in engine.get_output_details())
    outputs = model.predict({INPUT: frame})
    for name, expected in {BOXES: boxes, CLASSES: classes, SCORES: scores, COUNT: count}.items():
        np.testing.assert_array_equal(outputs[name], expected)


def test_a_frame_is_answered_the_same_in_any_batch_and_beside_other_requests(model: LiteRTBackend) -> None:
    frames = np.random.default_rng(5).integers(0, 256, (6, 300, 300, 3), dtype=np.uint8)
    alone = [model.predict({INPUT: frame[np.newaxis]}) for frame in frames]
    orders = [list(range(6)), [5, 3, 1], [0, 0, 4, 2]]
    with ThreadPoolExecutor(3) as callers:
        batches = list(callers.map(lambda order: model.predict({INPUT: frames[order]}), orders))
    for order, outputs in zip(orders, batches, strict=True):
        for position, index in enumerate(order):
            for name, array in alone[index].items():
                np.testing.assert_array_equal(outputs[name][position], array[0])


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x1c\0\0\0TFL3" + bytes(64)])
def test_a_file_that_is_no_model_is_a_mismatch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelMismatchError, match=r"broken\.tflite is no model that LiteRT can load"):
        LiteRTBackend(path, threads=1)


def test_a_truncated_model_is_a_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "half.tflite"
    path.write_bytes(default_model().read_bytes()[:2_000_000])
    with pytest.raises(ModelMismatchError):
        LiteRTBackend(path, threads=1)


def test_a_model_with_other_outputs_is_no_detection_model(tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(
        default_model().read_bytes().replace(b"TFLite_Detection_PostProcess:3", b"Something_Else_Is_In_Its_Place")
    )
    with pytest.raises(ModelMismatchError, match=r"no detection model: its outputs are .*Something_Else"):
        LiteRTBackend(path, threads=1)

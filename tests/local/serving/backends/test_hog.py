"""OpenCV's people detector."""

from __future__ import annotations

import numpy as np
import pytest

from local.serving.backends.detections import BOXES, CLASSES, COUNT, INPUT, SCORES
from local.serving.backends.hog import MAX_PIXELS, PERSON, HogBackend
from local.serving.status import ServingError
from tests.local.serving.clip import sample_frames

WIDTH, HEIGHT, BAR = 480, 270, 45


def letterboxed(seconds: list[float]) -> np.ndarray:
    """Frames as the profile of HOG has them sent: 480x360. People who fill the height need the bars around them."""
    return np.pad(sample_frames(seconds, WIDTH, HEIGHT), ((0, 0), (BAR, BAR), (0, 0), (0, 0)))


@pytest.fixture(scope="module")
def model():
    backend = HogBackend(threads=2)
    yield backend
    backend.close()


def test_the_man_of_the_sample_clip_is_found_and_nobody_where_nobody_is(model: HogBackend) -> None:
    # samples/README.md: nobody at second 4, the man at second 10.
    outputs = model.predict({INPUT: letterboxed([4, 10])})
    is_sure = outputs[SCORES] >= 0.5
    assert is_sure[0].sum() == 0
    (best,) = is_sure[1].nonzero()[0][:1]
    top, left, bottom, right = outputs[BOXES][1][best]
    assert outputs[CLASSES][1][best] == PERSON
    assert 0.3 < left < 0.5 < right < 0.8
    assert top < 0.2
    assert bottom > 0.7


def test_a_frame_is_answered_the_same_in_any_batch(model: HogBackend) -> None:
    frames = letterboxed([0.5, 8, 10, 12])
    alone = [model.predict({INPUT: frame[np.newaxis]}) for frame in frames]
    for order in ([0, 1, 2, 3], [3, 1], [2, 2, 0]):
        outputs = model.predict({INPUT: frames[order]})
        for position, index in enumerate(order):
            for name, array in alone[index].items():
                np.testing.assert_array_equal(outputs[name][position], array[0])


def test_scores_fall_and_rows_past_the_count_are_zero(model: HogBackend) -> None:
    outputs = model.predict({INPUT: letterboxed([0])})
    count = int(outputs[COUNT][0])
    assert count >= 2
    assert (np.diff(outputs[SCORES][0, :count]) <= 0).all()
    assert ((outputs[BOXES] >= 0) & (outputs[BOXES] <= 1)).all()
    assert not outputs[BOXES][0, count:].any()


@pytest.mark.parametrize("size", [(1, 1), (127, 500), (500, 63), (128, 64)])
def test_frames_around_the_size_of_the_detectors_window_are_answered(model: HogBackend, size: tuple[int, int]) -> None:
    outputs = model.predict({INPUT: np.zeros((1, *size, 3), np.uint8)})
    assert outputs[COUNT].tolist() == [0]


def test_a_frame_over_the_limit_of_pixels_is_refused(model: HogBackend) -> None:
    frames = np.broadcast_to(np.uint8(0), (1, MAX_PIXELS + 1, 1, 3))
    with pytest.raises(ServingError, match="pixels that HOG takes"):
        model.predict({INPUT: frames})

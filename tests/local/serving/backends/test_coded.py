"""The model that reads a frame number out of the picture."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from local.serving.backends.coded import FIRST_CRC_CLASS, READ, UNREADABLE, CodedBackend, read_frame_number
from local.serving.backends.detections import BOXES, CLASSES, COUNT, INPUT, SCORES
from tests.media.picture import draw_number, draw_picture

NUMBERS = [0, 1, 2, 255, 256, 12_345, 0x8000, 0xAAAA, 0x5555, 65_535]


def rgb(luma: np.ndarray) -> np.ndarray:
    return np.repeat(luma[..., np.newaxis], 3, axis=-1)


def classes_of(frame: np.ndarray) -> list[int]:
    outputs = CodedBackend().predict({INPUT: frame[np.newaxis]})
    count = int(outputs[COUNT][0])
    assert (outputs[SCORES][0, :count] == 1).all()
    assert (outputs[BOXES][0, :count] == [0, 0, 1, 1]).all()
    assert not outputs[SCORES][0, count:].any()
    return outputs[CLASSES][0, :count].astype(int).tolist()


def bits(value: int) -> set[int]:
    return {bit for bit in range(32) if value >> bit & 1}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("width", "height"), [(128, 64), (64, 32), (300, 300), (131, 67), (8, 4)])
def test_the_number_of_the_clip_maker_is_read(number: int, width: int, height: int) -> None:
    assert read_frame_number(rgb(draw_number(number, width, height))) == number


@pytest.mark.parametrize("number", NUMBERS)
def test_set_bits_of_number_and_checksum_are_the_classes(number: int) -> None:
    frame = rgb(draw_picture(number, 128, 64))
    checksum = {FIRST_CRC_CLASS + bit for bit in bits(zlib.crc32(frame.tobytes()))}
    assert set(classes_of(frame)) == bits(number) | {READ} | checksum


@pytest.mark.parametrize(
    "spoil",
    [
        lambda luma: np.full_like(luma, 127),  # no contrast
        lambda luma: luma[:3, :],  # smaller than the grid
        lambda luma: np.vstack([luma[: len(luma) // 2], luma[: len(luma) // 2]]),  # a concealed half
    ],
)
def test_a_picture_that_is_no_code_is_unreadable(spoil) -> None:
    frame = rgb(spoil(draw_number(0b1000_0000_0000_0001, 128, 64)))
    assert [name for name in classes_of(frame) if name < FIRST_CRC_CLASS] == [UNREADABLE]


def test_a_frame_is_answered_the_same_among_any_others() -> None:
    frames = np.stack([rgb(draw_picture(number, 128, 64)) for number in NUMBERS])
    together = CodedBackend().predict({INPUT: frames})
    for position, frame in enumerate(frames):
        alone = CodedBackend().predict({INPUT: frame[np.newaxis]})
        for name, array in alone.items():
            np.testing.assert_array_equal(together[name][position], array[0])

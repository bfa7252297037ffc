"""The number in a picture can be read, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from .picture import BLACK, WHITE, draw_number, draw_picture, read_number


@pytest.mark.parametrize("size", [(320, 180), (179, 101), (300, 300), (33, 17), (1920, 1080)])
@pytest.mark.parametrize("number", [0, 1, 300, 0x5555, 0xFFFF])
def test_a_number_is_read_back_at_any_size(number: int, size: tuple[int, int]) -> None:
    assert read_number(draw_number(number, *size)) == number
    assert read_number(draw_picture(number, *size)) == number


def test_the_most_significant_bit_is_the_first_cell_and_its_inverse_the_seventeenth() -> None:
    luma = draw_number(0x8000, 80, 40)
    assert luma[0, 0] == luma[29, 79] == WHITE
    assert luma[0, 79] == luma[20, 0] == BLACK


@pytest.mark.parametrize("level", [0, 32, 127, 128, 220, 255])
def test_a_picture_of_one_shade_shows_no_number(level: int) -> None:
    assert read_number(np.full((180, 320), level, np.uint8)) is None


def test_a_picture_torn_between_two_numbers_shows_none() -> None:
    torn = draw_number(5, 320, 180)
    torn[90:] = draw_number(6, 320, 180)[90:]
    assert read_number(torn) is None


def test_neighbouring_pictures_differ_by_more_than_their_number() -> None:
    codes = [draw_number(n, 320, 180).astype(int) for n in (4, 5)]
    pictures = [draw_picture(n, 320, 180).astype(int) for n in (4, 5)]
    textures = [picture - code for picture, code in zip(pictures, codes, strict=True)]
    assert not np.array_equal(*textures)
    assert max(np.abs(texture).max() for texture in textures) == 8

"""Pictures that carry their frame's number.

The luma picture is a grid of 4 rows by 8 columns of equal cells that fills the whole picture, each cell black
or white. Cells 0 to 15, row by row, are the bits of a 16-bit number, most significant first; cells 16 to 31
are the same bits inverted, so that a smeared or concealed picture is told from a number.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]

ROWS, COLUMNS = 4, 8
NUMBER_BITS = 16
BLACK, WHITE, THRESHOLD = 32, 220, 127
TEXTURE_AMPLITUDE = 8
TEXTURE_STEP = 4  # a texture of single pixels would cost more bits than the whole code


def _cells(number: int) -> npt.NDArray[np.bool_]:
    bits = [bool(number >> shift & 1) for shift in reversed(range(NUMBER_BITS))]
    return np.array(bits + [not bit for bit in bits]).reshape(ROWS, COLUMNS)


def draw_number(number: int, width: int, height: int) -> Luma:
    """The bare code of `number` (0 to 65,535) as luma, height x width."""
    if not 0 <= number < 1 << NUMBER_BITS:
        raise ValueError(f"number {number} does not fit in {NUMBER_BITS} bits")
    cells = np.where(_cells(number), WHITE, BLACK).astype(np.uint8)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    return cells[rows[:, None], columns[None, :]]


def read_number(luma: Luma) -> int | None:
    """The number in a picture (height x width, 8 bit), or None where no bit and its inverse agree to differ."""
    height, width = luma.shape
    bits = []
    for row in range(ROWS):
        rows = slice((4 * row + 1) * height // (4 * ROWS), (4 * row + 3) * height // (4 * ROWS))
        for column in range(COLUMNS):
            columns = slice((4 * column + 1) * width // (4 * COLUMNS), (4 * column + 3) * width // (4 * COLUMNS))
            bits.append(bool(luma[rows, columns].mean() > THRESHOLD))
    number, check = bits[:NUMBER_BITS], bits[NUMBER_BITS:]
    if any(bit == inverse for bit, inverse in zip(number, check, strict=True)):
        return None
    return sum(bit << shift for bit, shift in zip(number, reversed(range(NUMBER_BITS)), strict=True))


@cache
def _texture(width: int, height: int) -> npt.NDArray[np.int16]:
    shape = (-(-height // TEXTURE_STEP), -(-width // TEXTURE_STEP))
    coarse = np.random.default_rng(width * 10_007 + height).integers(-TEXTURE_AMPLITUDE, TEXTURE_AMPLITUDE + 1, shape)
    return coarse.repeat(TEXTURE_STEP, axis=0).repeat(TEXTURE_STEP, axis=1)[:height, :width].astype(np.int16)


def draw_picture(number: int, width: int, height: int, *, interlaced: bool = False) -> Luma:
    """The code of `number` under a faint moving texture, so that every frame differs and carries residuals.

    With `interlaced` the texture of the lower field lies half a step further on.
    """
    moved = np.roll(_texture(width, height), (number % height, 3 * number % width), axis=(0, 1))
    if interlaced:
        moved[1::2] = np.roll(moved, 2, axis=1)[1::2]
    return (draw_number(number, width, height) + moved).astype(np.uint8)

"""Reading coded headers bit by bit."""

from __future__ import annotations


class BitReader:
    """Reads bits, the most significant first; zeros behind the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """The next `count` bits as a number."""
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)

    def read_unsigned(self) -> int:
        """An unsigned Exp-Golomb code, ue(v) of ISO 14496-10, 9.1."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if self._left <= 0:
                return 0
        return (1 << zeros) - 1 + self.read(zeros)

    def read_signed(self) -> int:
        """A signed Exp-Golomb code, se(v)."""
        code = self.read_unsigned()
        return (code + 1) // 2 if code & 1 else -(code // 2)

    @property
    def is_over(self) -> bool:
        """Whether more was read than there was."""
        return self._left < 0

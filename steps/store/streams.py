"""Reading and writing forward, with the errors of the store that the bytes come from or go to."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

READ_BYTES = 1 << 20
"""What a reader fetches at once, and holds in memory."""

Reporting = Callable[[], AbstractContextManager[None]]
"""Gives a block in which failures become the store's errors."""


class Reader(io.RawIOBase):
    """A forward reader whose failures are the store's errors."""

    def __init__(self, read: Callable[[int], Any], reporting: Reporting) -> None:
        self._read = read
        self._reporting = reporting

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer; gives the number of bytes, 0 at the end."""
        with self._reporting():
            data = memoryview(self._read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


class Sink(io.RawIOBase):
    """A forward writer whose failures are the store's errors. Closing it leaves the object as it is."""

    def __init__(self, write: Callable[[Any], Any], reporting: Reporting) -> None:
        self._write = write
        self._reporting = reporting
        self._position = 0

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._position

    def write(self, data: Any) -> int:
        """Write all of it."""
        view = memoryview(data).cast("B")
        with self._reporting():
            self._write(view)
        self._position += len(view)
        return len(view)

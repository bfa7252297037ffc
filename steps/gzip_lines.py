"""Lines in a gzip member: written and read forward, in constant memory, the same bytes for the same lines."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import IO

LEVEL = 6
_BUFFER_BYTES = 64 << 10
_GZIP_CONTAINER = 31
"""zlib's window bits for a gzip member; its header then holds neither a name nor a time."""

MAX_LINE_BYTES = 64 << 20
"""Longest line that is read: far above 10,000 detections."""


class CorruptLinesError(Exception):
    """The bytes are no whole gzip member of lines; the text says why. Callers name the object."""


class GzipLinesWriter:
    """Writes lines to a binary file. `close` ends the member and leaves the file open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP_CONTAINER)
        self._buffer = bytearray()

    def write(self, line: str) -> None:
        """Add a line; the newline is added here."""
        self._buffer += line.encode()
        self._buffer += b"\n"
        if len(self._buffer) >= _BUFFER_BYTES:
            self._drain()

    def close(self) -> None:
        """Write what is left and the member's end."""
        self._drain()
        self._file.write(self._compressor.flush())

    def _drain(self) -> None:
        compressed = self._compressor.compress(self._buffer)
        self._buffer.clear()
        if compressed:
            self._file.write(compressed)


def read_gzip_lines(file: IO[bytes]) -> Iterator[str]:
    """The lines of a member, without their newlines.

    Raises:
        CorruptLinesError: the member is damaged or cut off, or its last line has no end.
    """
    with gzip.GzipFile(fileobj=file, mode="rb") as lines:
        while True:
            try:
                line = lines.readline(MAX_LINE_BYTES)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise CorruptLinesError(str(error) or "cut off") from error
            if not line:
                return
            if not line.endswith(b"\n"):
                raise CorruptLinesError("the last line is cut off")
            try:
                yield line[:-1].decode()
            except UnicodeDecodeError as error:
                raise CorruptLinesError(str(error)) from error

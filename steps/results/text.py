"""Text that is written in small pieces to a file that wants large ones."""

from __future__ import annotations

import json
from typing import IO, Any

_BUFFER_BYTES = 64 << 10

encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
"""`json.dumps` for many small values: that makes a new encoder at each call."""


class TextWriter:
    """Gathers text for a binary file. `close` writes what is left and leaves the file open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._buffer = bytearray()

    def write(self, text: str) -> None:
        """Add a piece."""
        self._buffer += text.encode()
        if len(self._buffer) >= _BUFFER_BYTES:
            self.close()

    def close(self) -> None:
        """Write what was gathered."""
        self._file.write(bytes(self._buffer))
        self._buffer.clear()


class ArrayWriter:
    """The items of a JSON array, a line each, between brackets that the caller writes."""

    def __init__(self, text: TextWriter) -> None:
        self._text = text
        self._separator = "\n"

    def write(self, item: Any) -> None:
        """Add an item."""
        self._text.write(self._separator + encode_json(item))
        self._separator = ",\n"

"""`frames.jsonl.gz`: a line per analysed frame, as detect rendered it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from steps.errors import StorageError
from steps.gzip_lines import CorruptLinesError, GzipLinesWriter, read_gzip_lines
from steps.results import FRAMES_KEY
from steps.store import Store


class FrameLine(NamedTuple):
    """A line of `frames.jsonl`, as text and parsed."""

    text: str
    record: dict[str, Any]


class FramesWriter:
    """Passes the lines on as they are."""

    def __init__(self, lines: GzipLinesWriter) -> None:
        self._lines = lines

    def add(self, text: str, record: dict[str, Any]) -> None:
        """Write a line; `record` is the same, parsed."""
        self._lines.write(text)


@contextmanager
def open_frames(store: Store, key: str) -> Iterator[FramesWriter]:
    """Write the file below RUN. Raises StorageError."""
    with store.open_writer(key) as file:
        lines = GzipLinesWriter(file)
        yield FramesWriter(lines)
        lines.close()


def read_frames(store: Store) -> Iterator[FrameLine]:
    """The lines of a RUN's `frames.jsonl.gz`, forward and in bounded memory.

    Raises:
        NotFoundError: there is none.
        StorageError: it is damaged, or cannot be read.
    """
    with store.open_reader(FRAMES_KEY) as file:
        try:
            for text in read_gzip_lines(file):
                yield FrameLine(text, json.loads(text))
        except (CorruptLinesError, ValueError) as error:
            raise StorageError(f"{store.url}{FRAMES_KEY} is damaged: {error}; run again with force") from error

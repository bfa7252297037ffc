"""`detections.parquet`: a row per detection, in the order of `frames.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.store import Store

ROWS_A_GROUP = 16384
"""Rows of a row group: what is held in memory before it is written."""

_FIELDS: list[pa.Field[Any]] = [
    pa.field("frame", pa.int64(), nullable=False),
    pa.field("time_seconds", pa.float64(), nullable=False),
    pa.field("pts", pa.int64()),
    pa.field("label", pa.string(), nullable=False),
    pa.field("class_id", pa.int32(), nullable=False),
    pa.field("score", pa.float64(), nullable=False),
    pa.field("x", pa.float64(), nullable=False),
    pa.field("y", pa.float64(), nullable=False),
    pa.field("width", pa.float64(), nullable=False),
    pa.field("height", pa.float64(), nullable=False),
]
SCHEMA = pa.schema(_FIELDS)
"""Boxes are in pixels of the displayed picture. 64-bit floats give the decimals as they stand in `frames.jsonl`."""


class ParquetWriter:
    """Gathers rows and writes them in groups."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._columns: list[list[Any]] = [[] for _ in SCHEMA]

    def add(self, text: str, record: dict[str, Any]) -> None:
        """Take the frame's detections; `text` is the same frame as a line."""
        for detection in record["detections"]:
            row = (
                record["frame"], record["time_seconds"], record["pts"],
                detection["label"], detection["class_id"], detection["score"], *detection["box"],
            )  # fmt: skip
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)
        if len(self._columns[0]) >= ROWS_A_GROUP:
            self.write_group()

    def write_group(self) -> None:
        """Write the gathered rows as a row group."""
        if self._columns[0]:
            arrays = [pa.array(column, field.type) for column, field in zip(self._columns, SCHEMA, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
            for column in self._columns:
                column.clear()


@contextmanager
def open_parquet(store: Store, key: str) -> Iterator[ParquetWriter]:
    """Write the file below RUN. Raises StorageError."""
    # Leaving by an error closes the writer as well, which ends the file; the store then drops it all the same.
    with store.open_writer(key) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        rows = ParquetWriter(writer)
        yield rows
        rows.write_group()

"""`detections.parquet`: a row per detection, in the order of `frames.jsonl`."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.store import Store

ROWS_A_GROUP = 8192
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
        self._columns = _empty_columns()
        self._labels: dict[str, str] = {}

    def add(self, text: str, record: dict[str, Any]) -> None:
        """Take the frame's detections; `text` is the same frame as a line."""
        for detection in record["detections"]:
            label = self._labels.setdefault(detection["label"], detection["label"])
            row = (
                record["frame"], record["time_seconds"], record["pts"],
                label, detection["class_id"], detection["score"], *detection["box"],
            )  # fmt: skip
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)
        if len(self._columns[0]) >= ROWS_A_GROUP:
            self.write_group()

    def write_group(self) -> None:
        """Write the gathered rows as a row group."""
        if self._columns[0]:
            arrays = [_arrow_array(column, field.type) for column, field in zip(self._columns, SCHEMA, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
            self._columns = _empty_columns()


def _empty_columns() -> list[Any]:
    """Numbers go into arrays of machine numbers, which neither cost nor scatter memory as Python's objects do."""
    codes = {pa.int64(): "q", pa.int32(): "i", pa.float64(): "d"}
    return [array(codes[field.type]) if field.type in codes and not field.nullable else [] for field in SCHEMA]


def _arrow_array(column: Any, kind: pa.DataType) -> pa.Array[Any]:
    if isinstance(column, array):
        return pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(column)])
    return pa.array(column, kind)


@contextmanager
def open_parquet(store: Store, key: str) -> Iterator[ParquetWriter]:
    """Write the file below RUN. Raises StorageError."""
    # Leaving by an error closes the writer as well, which ends the file; the store then drops it all the same.
    with store.open_writer(key) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        rows = ParquetWriter(writer)
        yield rows
        rows.write_group()

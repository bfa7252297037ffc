"""Shards: what detect writes for a chunk and aggregate reads, and the note of why a chunk has none.

A shard is a gzip member of JSON lines, one for each planned frame of the chunk in order, and a last one::

    {"frame": 12, "time_seconds": 0.4, "pts": 12288, "detections": [...]}   as it will stand in frames.jsonl
    {"frame": 13, "pts": 13312, "missing": "not_decodable"}
    {"stats": {...}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from steps.errors import ERROR_CODES, NotFoundError, StorageError
from steps.gzip_lines import CorruptLinesError, GzipLinesWriter, read_gzip_lines
from steps.plan import Chunk, Plan, load_segments
from steps.results.text import encode_json
from steps.store import Store

NOT_DECODABLE = "not_decodable"
"""Why a single frame is missing: the decoder gave no picture for it."""

MAX_MESSAGE_CHARACTERS = 2000


class ChunkStats(BaseModel):
    """How a chunk was analysed; the last line of its shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    """Frames that were analysed."""
    missing: int
    """Planned frames that could not be decoded."""
    seconds: dict[str, float]
    """Wall-clock seconds by stage: `ready`, `decode`, `serve`, `total`."""
    batch_size: int
    """Frames a request."""
    batch_halved: bool
    """Whether the server ran out of memory and the chunk was started again with smaller batches."""
    bytes_read: int
    """Of the video."""
    model_version: int


class ChunkError(NamedTuple):
    """Why a chunk has no shard."""

    code: str
    message: str


class PlannedFrame(NamedTuple):
    """A frame that the plan says to analyse."""

    frame: int
    pts: int | None
    time_seconds: float
    """From the first displayed frame, rounded to the microsecond as results state it."""


class ShardLine(NamedTuple):
    """A line of a shard that fits the plan."""

    text: str
    """As it is in the shard, without the newline."""
    record: dict[str, Any]
    """The same, parsed: a frame, a missing frame, or the stats."""


class CorruptShardError(Exception):
    """A shard does not fit its chunk. Aggregate makes a StorageError of it; it never reaches the user."""

    def __init__(self, chunk: Chunk, line: int, reason: str) -> None:
        super().__init__(f"chunk {chunk.index} (frames {chunk.name}): line {line} of its shard {reason}")


class _Abandoned(Exception):
    """Tells a store's writer that nothing failed, but that the object must not appear."""


class ShardWriter:
    """Writes a chunk's shard in constant memory: `add` and `add_missing` in the plan's order, then `finish`.

    A context manager. The shard appears whole when `finish` returns; a block left without it leaves no shard.
    """

    def __init__(self, store: Store, plan: Plan, chunk: Chunk) -> None:
        self._opened = store.open_writer(plan.shard_key(chunk))
        self._open = False

    def __enter__(self) -> ShardWriter:
        self._lines = GzipLinesWriter(self._opened.__enter__())
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._open = False
            signal = error or _Abandoned()
            try:
                self._opened.__exit__(type(signal), signal, signal.__traceback__)
            except _Abandoned:
                pass
            except BaseException as raised:
                if raised is not error:
                    raise

    def add(self, frame: int, time_seconds: float, pts: int | None, detections: Sequence[Mapping[str, Any]]) -> None:
        """Write an analysed frame. `detections` are written as they are: rounded and in order."""
        self._lines.write(render_frame(frame, time_seconds, pts, detections))

    def add_missing(self, frame: int, pts: int | None) -> None:
        """Write a planned frame that could not be decoded."""
        self._lines.write(json.dumps({"frame": frame, "pts": pts, "missing": NOT_DECODABLE}))

    def finish(self, stats: ChunkStats) -> None:
        """Write the last line and make the shard appear.

        Raises:
            StorageError: the store failed; there is no shard then.
        """
        self._lines.write(json.dumps({"stats": stats.model_dump()}, allow_nan=False))
        self._lines.close()
        self._open = False
        self._opened.__exit__(None, None, None)


def render_frame(frame: int, time_seconds: float, pts: int | None, detections: Sequence[Mapping[str, Any]]) -> str:
    """The line of `frames.jsonl` for an analysed frame; `time_seconds` from the first displayed frame."""
    return encode_json({"frame": frame, "time_seconds": time_seconds, "pts": pts, "detections": detections})


def planned_frames(store: Store, plan: Plan, chunk: Chunk) -> Iterator[PlannedFrame]:
    """The frames that the plan's table holds for a chunk, in order.

    Raises:
        StorageError: the table is gone, damaged, or cannot be read.
    """
    video = plan.video
    for segment in load_segments(store, plan, chunk):
        for position, (frame, pts) in enumerate(zip(segment.frames, segment.pts, strict=True)):
            if segment.ticks is not None:
                time_seconds = segment.ticks[position] * video.time_base_fraction
            else:
                time_seconds = video.time_seconds(pts or 0)
            yield PlannedFrame(frame, pts, round(float(time_seconds), 6))


def read_shard(store: Store, plan: Plan, chunk: Chunk) -> Iterator[dict[str, Any]]:
    """The parsed lines of a shard, forward and in bounded memory, each checked against the plan.

    Raises:
        NotFoundError: the chunk has no shard.
        StorageError: the shard is damaged, does not fit the plan, or cannot be read.
    """
    try:
        for line in read_shard_lines(store, plan, chunk):
            yield line.record
    except CorruptShardError as error:
        raise StorageError(f"{error} ({store.url}{plan.shard_key(chunk)})") from error


def read_shard_lines(store: Store, plan: Plan, chunk: Chunk) -> Iterator[ShardLine]:
    """The lines of a shard, checked by frame: number, pts, time, order, none doubled, none absent, the stats.

    Raises:
        NotFoundError: the chunk has no shard.
        CorruptShardError: the shard is damaged or does not fit the plan.
        StorageError: the store failed.
    """
    with store.open_reader(plan.shard_key(chunk)) as file:
        analysed = missing = 0
        lines = read_gzip_lines(file)
        try:
            for planned in planned_frames(store, plan, chunk):
                line = _checked_line(next(lines, ""), planned)
                if "missing" in line.record:
                    missing += 1
                else:
                    analysed += 1
                yield line
            yield _checked_stats(next(lines, ""), analysed, missing)
            if next(lines, None) is not None:
                raise ValueError("ends the shard, yet more follows")
        except (CorruptLinesError, ValueError) as error:
            raise CorruptShardError(chunk, analysed + missing + 1, str(error)) from error


def write_chunk_error(store: Store, plan: Plan, chunk: Chunk, code: str, message: str) -> None:
    """Note why a chunk has no shard. `code` is one of `ERROR_CODES`."""
    document = {"code": code, "message": message[:MAX_MESSAGE_CHARACTERS]}
    store.put(plan.error_key(chunk), json.dumps(document).encode())


def read_chunk_error(store: Store, plan: Plan, chunk: Chunk) -> ChunkError | None:
    """The note of why a chunk has no shard; None if there is none or it cannot be understood."""
    try:
        document = json.loads(store.get(plan.error_key(chunk)).data)
        code, message = document["code"], document["message"]
    except (NotFoundError, ValueError, KeyError, TypeError):
        return None
    return ChunkError(code, message) if code in ERROR_CODES and isinstance(message, str) else None


def _checked_line(text: str, planned: PlannedFrame) -> ShardLine:
    """Raises ValueError, which says what the line does, to follow "line N of its shard"."""
    frame, pts, time_seconds = planned
    if not text:
        raise ValueError(f"is absent; frame {frame} was expected")
    record = _parse(text)
    if not isinstance(record, dict) or "frame" not in record:
        raise ValueError(f"is {text[:80]!r}; frame {frame} was expected")
    if record["frame"] != frame:
        raise ValueError(f"holds frame {record['frame']!r}; frame {frame} was expected")
    if record.get("pts", "no pts") != pts:
        raise ValueError(f"holds pts {record.get('pts')!r} for frame {frame}; {pts} was planned")
    if "missing" in record:
        if set(record) != {"frame", "pts", "missing"} or record["missing"] != NOT_DECODABLE:
            raise ValueError(f"misses frame {frame} in another way than {NOT_DECODABLE}")
        return ShardLine(text, record)
    if list(record) != ["frame", "time_seconds", "pts", "detections"]:
        raise ValueError(f"holds the fields {', '.join(record)[:200]}")
    if repr(record["time_seconds"]) != repr(time_seconds):
        raise ValueError(f"holds time {record['time_seconds']!r} for frame {frame}; it is {time_seconds}")
    if not isinstance(record["detections"], list):
        raise ValueError("holds detections that are no list")
    return ShardLine(text, record)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error


def _checked_stats(text: str, analysed: int, missing: int) -> ShardLine:
    record = _parse(text) if text else None
    if not isinstance(record, dict) or list(record) != ["stats"]:
        raise ValueError(f"is {text[:80]!r}; the stats were expected")
    try:
        stats = ChunkStats.model_validate(record["stats"])
    except ValidationError as error:
        raise ValueError(f"holds stats that cannot be read: {error.errors()[0]['msg']}") from error
    if (stats.frames, stats.missing) != (analysed, missing):
        raise ValueError(
            f"counts {stats.frames} frames, {stats.missing} missing; the shard holds {analysed} and {missing}"
        )
    return ShardLine(text, record)

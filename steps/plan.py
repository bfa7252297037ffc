"""The plan of a run: which frames are analysed, and which chunk of the video's bytes holds them.

`plan.json` holds the video's facts and one line per chunk; the frame numbers of a chunk lie in the chunk table, one
gzip member a chunk, so that a worker reads what it needs and no more::

    RUN/plan.json                                the latest plan
    RUN/chunks/PLAN/plan.json                    the same, for those who began with it and are to go on with it
    RUN/chunks/PLAN/table.jsonl.gz               gzip members, one a chunk: the segments to decode
    RUN/chunks/PLAN/FIRST-LAST.jsonl.gz          the shard of a chunk, written by detect
    RUN/chunks/PLAN/FIRST-LAST.error.json        or why there is none
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from steps.errors import NotFoundError, StorageError

if TYPE_CHECKING:
    from steps.store import Store

FORMAT = 1
"""Version of the files under RUN; part of the RUN digest."""

PLAN_KEY = "plan.json"


def plan_key(plan: str) -> str:
    """Key of the plan of a name, below RUN."""
    return f"chunks/{plan}/plan.json"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceIdentity(_Model):
    """Which bytes were planned. `detect` refuses any others."""

    bucket: str | None
    """None for a local file."""
    key: str
    """The key, or the absolute path of a local file."""
    size: int
    etag: str
    version: str | None = None

    @property
    def url(self) -> str:
        """`s3://BUCKET/KEY` or the path."""
        return self.key if self.bucket is None else f"s3://{self.bucket}/{self.key}"


class VideoFacts(_Model):
    """What the video is. `*_from_header` is what its container claims, the rest was measured by reading it."""

    container: str
    codec: str
    width: int
    """Of the picture as displayed: after rotation."""
    height: int
    rotation_degrees: int
    """Clockwise turn from the coded to the displayed picture: 0, 90, 180 or 270."""
    mirrored: bool
    """Whether the coded picture is flipped left to right before it is turned."""
    pixel_format: str
    time_base: tuple[int, int]
    """Numerator and denominator of a pts unit in seconds."""
    first_pts: int
    """pts of the first displayed frame: the zero of all times."""
    frames: int
    """Displayed frames, counted."""
    duration_seconds: float
    """From the first displayed frame to the end of the last one."""
    fps: float
    """(frames - 1) / (last time - first time); 0 with a single frame."""
    keyframes: int
    frames_from_header: int | None
    duration_seconds_from_header: float | None
    fps_from_header: float | None
    not_displayed_packets: int = 0
    """Packets before the first decodable picture, or cut away by an edit list."""
    warnings: list[str] = []
    """What is wrong with the file, though it can be read."""

    @property
    def time_base_fraction(self) -> Fraction:
        """Seconds of one pts unit."""
        return Fraction(*self.time_base)

    def time_seconds(self, pts: int) -> Fraction:
        """Time of a pts from the first displayed frame, in seconds, exactly."""
        return (pts - self.first_pts) * self.time_base_fraction


class ModelIdentity(_Model):
    """The model that the deployment names."""

    name: str
    version: int
    profile_digest: str


class Segment(_Model):
    """Frames that are decoded in one go: from a keyframe on, without a gap of whole groups of pictures between."""

    key_pts: int | None
    """pts of the key packet to start at; None: from the first packet of the file."""
    key_dts: int | None
    """The smaller of that packet's pts and dts: where to seek."""
    key_position: int | None
    """Byte position of that packet in the file, where the container tells it."""
    key_displayed: bool
    """False where an edit list cuts the key picture away, though others need it."""
    last_pts: int | None
    """pts of the last packet, in order of decoding, that the frames need; None: to the end of the file."""
    frames: list[int]
    """Numbers of the analysed frames, counted over all displayed frames of the video from 0, ascending."""
    pts: list[int | None]
    """Their pts; None where the container has none."""
    ticks: list[int] | None = None
    """Their times in units of the time base from the first displayed frame, where the pts do not tell them."""
    damaged: list[int] = []
    """Packets that are known to be damaged, by their pts; where pictures are counted off, the numbers of the displayed
    frames that damage can have spoilt."""
    displayed_pts: list[int] | None = None
    """Where pts repeat: those of all displayed frames in order, by which decoded pictures are counted off."""


class Chunk(_Model):
    """A range of the video that one worker analyses."""

    index: int
    first_frame: int
    last_frame: int
    frames: int
    """How many frames are analysed."""
    start_seconds: float
    end_seconds: float
    """Times of the first analysed frame and of the last one."""
    first_byte: int
    last_byte: int
    """Byte range (end exclusive) of the packets, where the container tells it; else the whole object."""
    table_offset: int
    table_length: int
    """Where its segments lie in the chunk table."""

    @property
    def name(self) -> str:
        """`FIRST-LAST`, the stem of its files."""
        return f"{self.first_frame}-{self.last_frame}"


class Plan(_Model):
    """All that detect and aggregate need to know of a run."""

    format: int = FORMAT
    run: str
    plan: str
    source: SourceIdentity
    video: VideoFacts
    options: dict[str, Any]
    """Those that enter the RUN digest: `Options.digested()`."""
    model: ModelIdentity
    access: Literal["seek", "splice", "sequential"]
    """How a worker reaches its chunk: by the container's index; by reading the file's start and going on at the
    chunk's own bytes; or by reading from the start (then there is one chunk)."""
    identify_by: Literal["pts", "displayed_pts", "output_order"]
    """How a decoded picture is known to be frame n: see `steps.decode`."""
    header_bytes: int
    """Bytes at the file's start that its reader needs before the first packet."""
    planned_frames: int
    chunks: list[Chunk]
    seconds: float
    """Wall-clock time that planning took."""

    @property
    def prefix(self) -> str:
        """Where the chunk's files lie, below RUN, with a slash at the end."""
        return f"chunks/{self.plan}/"

    @property
    def table_key(self) -> str:
        """Key of the chunk table, below RUN."""
        return f"{self.prefix}table.jsonl.gz"

    def shard_key(self, chunk: Chunk) -> str:
        """Key of a chunk's shard, below RUN."""
        return f"{self.prefix}{chunk.name}.jsonl.gz"

    def error_key(self, chunk: Chunk) -> str:
        """Key of the reason why a chunk has no shard, below RUN."""
        return f"{self.prefix}{chunk.name}.error.json"


def run_digest(source: SourceIdentity, options: dict[str, Any], model: ModelIdentity) -> str:
    """RUN: a digest of all that decides the frames and the detections."""
    fields = {
        "format": FORMAT,
        "bucket": source.bucket,
        "key": source.key,
        # The version names the bytes; without one the ETag does.
        "bytes": source.version or source.etag,
        "options": options,
        "model": model.model_dump(),
    }
    return digest(fields)


def digest(value: Any) -> str:
    """32 hexadecimal digits of SHA-256 over the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def pack_segments(segments: list[Segment]) -> bytes:
    """A chunk's entry of the chunk table: one gzip member of JSON lines."""
    text = "".join(segment.model_dump_json() + "\n" for segment in segments)
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def unpack_segments(data: bytes) -> list[Segment]:
    """The reverse of `pack_segments`."""
    return [Segment.model_validate_json(line) for line in gzip.decompress(data).splitlines()]


def load_segments(store: Store, plan: Plan, chunk: Chunk) -> list[Segment]:
    """What there is to decode in a chunk: its entry of the chunk table.

    Raises:
        StorageError: the table is gone, damaged, or cannot be read.
    """
    where = f"{store.url}{plan.table_key}"
    try:
        data = store.get_range(plan.table_key, chunk.table_offset, chunk.table_length)
        segments = unpack_segments(data)
        held = sum(len(segment.frames) for segment in segments)
        if held != chunk.frames:
            raise ValueError(f"it holds {held} frames instead of {chunk.frames}")
        return segments
    except NotFoundError as error:
        raise StorageError(f"{where}: the plan's chunk table is gone; plan again with force") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise StorageError(
            f"{where}: chunk {chunk.index} is damaged ({str(error)[:200]}); plan again with force"
        ) from error

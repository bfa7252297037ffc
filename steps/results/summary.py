"""`summary.json`: what a run came to. It is written last, so that its presence means that all of the run is there.

Nothing of a message is in it: several tasks may share a run.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from steps.errors import NotFoundError, StorageError
from steps.plan import ModelIdentity, SourceIdentity, VideoFacts
from steps.results import SUMMARY_KEY
from steps.results.missing import MissingRange
from steps.store import Store


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FrameCounts(_Model):
    """How many frames there are. A frame is an analysed one of the plan, or missing."""

    planned: int
    analysed: int
    missing: list[MissingRange]
    """The first 1,000 ranges in order; `missing.jsonl.gz` holds all."""
    missing_ranges: int
    """How many ranges there are."""


class ChunkSummary(_Model):
    """How a chunk went. Without a shard only its range and `error` are known."""

    index: int
    first_frame: int
    last_frame: int
    frames: int
    """Analysed."""
    missing: int
    seconds: dict[str, float] = {}
    batch_size: int | None = None
    batch_halved: bool | None = None
    bytes_read: int | None = None
    model_version: int | None = None
    error: str | None = None
    """The code with which it failed."""


class Failure(_Model):
    """Why no frame at all was analysed."""

    code: str
    message: str


class Summary(_Model):
    """The content of `summary.json`. One whose status is `failed` is handed on, but not stored."""

    status: Literal["succeeded", "partial", "failed"]
    run: str
    source: SourceIdentity
    video: VideoFacts
    options: dict[str, Any]
    """Those that enter the RUN digest."""
    model: ModelIdentity
    frames: FrameCounts
    detections_by_label: dict[str, int]
    files: dict[str, str]
    """Every result file that is there, by output; `missing` if a frame is."""
    seconds: dict[str, float]
    """`plan` and `aggregate`: wall-clock; `detect`: the sum over the chunks."""
    chunks: list[ChunkSummary]
    created_at: str
    failure: Failure | None = None


def load_summary(store: Store) -> Summary | None:
    """The summary under RUN; None if there is none: the run is not complete.

    Raises:
        StorageError: it cannot be read, or is of another version.
    """
    try:
        data = store.get(SUMMARY_KEY).data
    except NotFoundError:
        return None
    try:
        return Summary.model_validate_json(data)
    except ValueError as error:
        raise StorageError(f"{store.url}{SUMMARY_KEY} is damaged; run again with force") from error


def write_summary(store: Store, summary: Summary) -> None:
    """Write the summary under RUN, which makes the run complete."""
    store.put(SUMMARY_KEY, summary.model_dump_json(indent=1, exclude={"failure"}).encode())

"""From the shards of a run to its result files: checked against the plan, merged in order, in constant memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from steps.errors import NotFoundError, StorageError, UnsupportedError
from steps.plan import Chunk, Plan
from steps.results import MISSING_KEY, OUTPUT_KEYS, SUMMARY_KEY, ResultWriter, open_output
from steps.results.frames import read_frames
from steps.results.missing import MissingFrames
from steps.results.summary import ChunkSummary, Failure, FrameCounts, Summary, load_summary, write_summary
from steps.shards import (
    NOT_DECODABLE,
    ChunkError,
    ChunkStats,
    CorruptShardError,
    planned_frames,
    read_chunk_error,
    read_shard_lines,
    write_chunk_error,
)
from steps.store import Store
from steps.timestamps import utc_now, utc_text

__all__ = ["Summary", "aggregate", "ensure_outputs", "load_summary"]


class _NothingAnalysedError(Exception):
    """Leaves the blocks of the writers so that no file appears."""


def aggregate(
    store: Store,
    plan: Plan,
    outputs: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write the result files of a run from its shards, and its summary last.

    `frames.jsonl.gz` is written whether asked for or not, since other outputs can be made from it later. If no
    frame at all was analysed nothing is written, and the summary, whose status is `failed`, is only returned.

    Args:
        store: The RUN.
        plan: Its plan.
        outputs: Those of the options.
        progress: Is told how many planned frames are merged, and of how many.

    Raises:
        StorageError: Reading or writing failed; or a shard was damaged, which is then deleted: the same task
            sent again computes that chunk anew.
    """
    started = time.monotonic()
    merge = _Merge(store, plan)
    try:
        with ExitStack() as files, merge.missing:
            # Blocks are left last first, and COCO's needs what that of the frames wrote.
            names = [*(name for name in OUTPUT_KEYS if name in outputs and name != "frames"), "frames"]
            merge.writers = [files.enter_context(open_output(name, store, plan)) for name in names]
            for chunk in plan.chunks:
                merge.add_chunk(chunk)
                if progress is not None:
                    progress(merge.analysed + merge.missing.frames, plan.planned_frames)
            merge.missing.finish()
            if not merge.analysed:
                raise _NothingAnalysedError
            # The files of an earlier, partial result are about to be replaced.
            store.delete(SUMMARY_KEY)
    except _NothingAnalysedError:
        return merge.summary([], time.monotonic() - started)
    if not merge.missing.frames:
        store.delete(MISSING_KEY)
    summary = merge.summary(names, time.monotonic() - started)
    write_summary(store, summary)
    return summary


def ensure_outputs(store: Store, plan: Plan, summary: Summary, outputs: Sequence[str]) -> Summary:
    """Write those outputs that a complete run lacks, from its `frames.jsonl.gz`; gives the summary that lists them.

    Raises:
        StorageError: reading or writing failed.
    """
    lacking = [name for name in OUTPUT_KEYS if name in outputs and name not in summary.files]
    if not lacking:
        return summary
    with ExitStack() as files:
        writers = [files.enter_context(open_output(name, store, plan)) for name in lacking]
        for line in read_frames(store):
            for writer in writers:
                writer.add(line.text, line.record)
    present = {**summary.files, **{name: OUTPUT_KEYS[name] for name in lacking}}
    summary = summary.model_copy(update={"files": present})
    write_summary(store, summary)
    return summary


class _Merge:
    """Passes the chunks' frames to the writers, and counts."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store = store
        self._plan = plan
        self._chunks: list[ChunkSummary] = []
        self._labels: Counter[str] = Counter()
        self._errors: dict[str, ChunkError] = {}
        self.writers: list[ResultWriter] = []
        self.missing = MissingFrames(store)
        self.analysed = 0

    def add_chunk(self, chunk: Chunk) -> None:
        """Merge the shard of a chunk; without one its frames are missing."""
        lines = 0
        try:
            for line in read_shard_lines(self._store, self._plan, chunk):
                lines += 1
                if "stats" in line.record:
                    self._add_stats(chunk, ChunkStats.model_validate(line.record["stats"]))
                elif "missing" in line.record:
                    self.missing.add_missing(line.record["frame"], NOT_DECODABLE)
                else:
                    self._add_frame(line.text, line.record)
        except NotFoundError as error:
            if lines:
                raise StorageError(f"{error}: it vanished while it was read; try again") from error
            self._add_without_shard(chunk)
        except CorruptShardError as error:
            self._store.delete(self._plan.shard_key(chunk))
            reason = f"{self._store.url}{self._plan.shard_key(chunk)}: {error}; it was deleted"
            write_chunk_error(self._store, self._plan, chunk, StorageError.code, reason)
            raise StorageError(f"{reason}: send the task again to compute it anew") from error

    def summary(self, outputs: Sequence[str], aggregate_seconds: float) -> Summary:
        """What it came to."""
        plan, missing = self._plan, self.missing
        status: Literal["succeeded", "partial", "failed"] = "succeeded"
        if missing.frames:
            status = "partial" if self.analysed else "failed"
        files = {name: key for name, key in OUTPUT_KEYS.items() if name in outputs}
        if status == "partial":
            files["missing"] = MISSING_KEY
        detect_seconds = sum(chunk.seconds.get("total", 0.0) for chunk in self._chunks)
        return Summary(
            status=status,
            run=plan.run,
            source=plan.source,
            video=plan.video,
            options=plan.options,
            model=plan.model,
            frames=FrameCounts(
                planned=plan.planned_frames,
                analysed=self.analysed,
                missing=missing.listed,
                missing_ranges=missing.ranges,
            ),
            detections_by_label=dict(sorted(self._labels.items())),
            files=files,
            seconds={
                "plan": round(self._plan.seconds, 3),
                "detect": round(detect_seconds, 3),
                "aggregate": round(aggregate_seconds, 3),
            },
            chunks=self._chunks,
            created_at=utc_text(utc_now()),
            failure=self._failure() if status == "failed" else None,
        )

    def _add_frame(self, text: str, record: dict[str, Any]) -> None:
        self.analysed += 1
        self.missing.add_analysed()
        for detection in record["detections"]:
            self._labels[detection["label"]] += 1
        for writer in self.writers:
            writer.add(text, record)

    def _add_stats(self, chunk: Chunk, stats: ChunkStats) -> None:
        self._chunks.append(
            ChunkSummary(
                index=chunk.index,
                first_frame=chunk.first_frame,
                last_frame=chunk.last_frame,
                **stats.model_dump(),
            )
        )

    def _add_without_shard(self, chunk: Chunk) -> None:
        error = read_chunk_error(self._store, self._plan, chunk)
        if error is None:
            error = ChunkError(StorageError.code, f"chunk {chunk.index} left neither a shard nor an error")
        self._errors.setdefault(error.code, error)
        missing = 0
        for planned in planned_frames(self._store, self._plan, chunk):
            self.missing.add_missing(planned.frame, error.code)
            missing += 1
        self._chunks.append(
            ChunkSummary(
                index=chunk.index,
                first_frame=chunk.first_frame,
                last_frame=chunk.last_frame,
                frames=0,
                missing=missing,
                error=error.code,
            )
        )

    def _failure(self) -> Failure:
        """The error that took most frames; frames that cannot be decoded only count if nothing else failed."""
        frames = {code: count for code, count in self.missing.frames_by_code.items() if code != NOT_DECODABLE}
        if not frames:
            return Failure(
                code=UnsupportedError.code,
                message=f"{self._plan.source.url}: none of its {self._plan.planned_frames} planned frames could be "
                "decoded",
            )
        error = self._errors[max(frames, key=lambda code: frames[code])]
        return Failure(code=error.code, message=error.message)

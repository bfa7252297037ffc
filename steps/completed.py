"""The completed message: what became of a task.

Its text stays below `MAX_BYTES` whatever the task held, so that any queue takes it. What does not fit gives way in this
order, each only if it must: `frame_records` (absent above 200 kB), ranges of `missing` but the first 100, counts of
`detections_by_label` but the 100 largest, and the `labels` among the options. `frames.missing_not_listed` says how many
ranges are not listed; `missing.jsonl.gz` of the run holds all.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from steps.errors import ERROR_CODES, BadInputError, ReelscanError, StorageError
from steps.plan import Plan
from steps.queues import escape_for_sqs
from steps.results.frames import read_frames
from steps.results.missing import MissingRange
from steps.results.summary import Summary
from steps.store import Store
from steps.task import Received
from steps.timestamps import utc_now, utc_text

MAX_BYTES = 250_000
"""Below the 256 KiB that queues made before 2025 allow."""
INLINE_BYTES = 200_000
"""A message with `frame_records` is smaller than this."""
MAX_REASON_CHARACTERS = 2000
_KEPT_WHEN_CUT = 100


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class StepError(_Model):
    """Why a task failed, and in which step."""

    code: str
    """One of `ERROR_CODES`."""
    message: str
    step: str

    @classmethod
    def make(cls, code: str, message: str, step: str) -> StepError:
        """With a code that is not one of the contract's as `internal`, and a long message cut."""
        return cls(
            code=code if code in ERROR_CODES else ReelscanError.code,
            message=_cut(" ".join(message.split()), MAX_REASON_CHARACTERS),
            step=step,
        )

    @classmethod
    def of(cls, error: ReelscanError, step: str) -> StepError:
        """What a step raised."""
        return cls.make(error.code, str(error), step)

    def refusal(self) -> BadInputError:
        """What a step raises of a task that has been reported as failed: nothing is gained by doing it again."""
        return BadInputError(f"{self.message} ({self.code}; the task is reported as failed)")


class TaskPlace(_Model):
    """Where the video of a task is."""

    bucket: str
    object: str


class CompletedModel(_Model):
    """The model that was asked."""

    name: str
    version: int


class CompletedVideo(_Model):
    """The measured facts of the video."""

    width: int
    height: int
    duration_seconds: float
    frames: int
    codec: str


class CompletedFrames(_Model):
    """How many frames were planned and analysed, and which are missing."""

    planned: int
    analysed: int
    missing: list[MissingRange]
    missing_not_listed: int = 0
    """Ranges that did not find room; the text has the field only if there are any."""


class Completed(_Model):
    """A completed message. What is not known, because the task failed before, is None."""

    version: Literal[1] = 1
    task_id: str
    attempt: int
    id: str | None
    status: Literal["succeeded", "partial", "failed"]
    task: TaskPlace | None
    options: dict[str, Any] | None
    model: CompletedModel | None
    workflow: str | None
    run: str | None
    received_at: str
    completed_at: str
    video: CompletedVideo | None
    frames: CompletedFrames | None
    detections_by_label: dict[str, int] | None
    objects_by_label: dict[str, int] | None = None
    """None: nothing was tracked."""
    results: str | None
    files: dict[str, str]
    frame_records: list[dict[str, Any]] | None
    """None: there are too many; the text lacks the field then."""
    seconds: dict[str, float] | None
    wall_seconds: float
    error: StepError | None

    def to_bytes(self) -> bytes:
        """The message's text, of at most `MAX_BYTES`. The same message gives the same bytes."""
        document = self.model_dump()
        frames, labels, options = document["frames"], document["detections_by_label"], document["options"]
        text = _render(document)
        if document["frame_records"] and len(text) >= INLINE_BYTES:
            document["frame_records"] = None
            text = _render(document)
        if len(text) > MAX_BYTES and frames is not None:
            frames["missing_not_listed"] += len(frames["missing"][_KEPT_WHEN_CUT:])
            del frames["missing"][_KEPT_WHEN_CUT:]
            text = _render(document)
        if len(text) > MAX_BYTES and labels is not None:
            largest = sorted(labels, key=lambda label: labels[label], reverse=True)[:_KEPT_WHEN_CUT]
            document["detections_by_label"] = {label: labels[label] for label in sorted(largest)}
            text = _render(document)
        if len(text) > MAX_BYTES and options is not None:
            options.pop("labels", None)
            text = _render(document)
        return text

    @classmethod
    def from_bytes(cls, data: bytes) -> Completed:
        """The reverse of `to_bytes`, for an entry of the ledger.

        Raises:
            StorageError: the bytes are no completed message.
        """
        try:
            document = json.loads(data)
            return cls.model_validate({"frame_records": None, **document})
        except (ValueError, TypeError) as error:
            raise StorageError(f"the ledger's entry is no completed message: {data[:80]!r}; remove it") from error


def completed_from_summary(
    received: Received,
    summary: Summary,
    store: Store,
    *,
    received_at: datetime,
    completed_at: datetime | None = None,
    attempt: int = 1,
    workflow: str | None = None,
) -> Completed:
    """The message for a task that a run answers. The run may have been computed for another task before.

    Args:
        received: The task.
        summary: Of its run.
        store: The run, for `results` and `frame_records`.
        received_at: When the task's message was received.
        completed_at: Now if None.
        attempt: Only `argo retry` begins another than the first.
        workflow: Name of the Workflow, if there is one.

    Raises:
        StorageError: the run's frames cannot be read.
    """
    completed_at = completed_at or utc_now()
    failed = summary.status == "failed"
    error = None
    if summary.failure is not None:
        error = StepError.make(summary.failure.code, summary.failure.message, "detect")
    asked = received.task.options.outputs if received.task is not None else []
    missing = summary.frames.missing
    completed = Completed(
        task_id=received.task_id,
        attempt=attempt,
        id=received.id,
        status=summary.status,
        task=_place(received),
        options=_options(received),
        model=CompletedModel(name=summary.model.name, version=summary.model.version),
        workflow=workflow,
        run=summary.run,
        received_at=utc_text(received_at),
        completed_at=utc_text(completed_at),
        video=_video(summary),
        frames=CompletedFrames(
            planned=summary.frames.planned,
            analysed=summary.frames.analysed,
            missing=missing,
            missing_not_listed=summary.frames.missing_ranges - len(missing),
        ),
        detections_by_label=summary.detections_by_label,
        results=None if failed else store.url,
        files={name: key for name, key in summary.files.items() if name in asked},
        frame_records=[],
        seconds=summary.seconds,
        wall_seconds=_wall_seconds(received_at, completed_at),
        error=error,
    )
    if failed:
        return completed
    records = _inline_records(store, INLINE_BYTES - len(completed.to_bytes()))
    return completed.model_copy(update={"frame_records": records})


def completed_from_error(
    received: Received,
    error: StepError,
    *,
    received_at: datetime,
    completed_at: datetime | None = None,
    attempt: int = 1,
    workflow: str | None = None,
    plan: Plan | None = None,
) -> Completed:
    """The message for a task that failed: of which no frame was analysed, or none that can be delivered.

    Args:
        received: The task, or what is known of it.
        error: Why.
        received_at: When the task's message was received.
        completed_at: Now if None.
        attempt: Only `argo retry` begins another than the first.
        workflow: Name of the Workflow, if there is one.
        plan: Of its run, if it came that far.
    """
    completed_at = completed_at or utc_now()
    frames = None
    if plan is not None:
        # The plan's chunks follow one another, so all planned frames are one range.
        whole = MissingRange(
            start_frame=plan.chunks[0].first_frame, end_frame=plan.chunks[-1].last_frame, code=error.code
        )
        frames = CompletedFrames(planned=plan.planned_frames, analysed=0, missing=[whole])
    return Completed(
        task_id=received.task_id,
        attempt=attempt,
        id=received.id,
        status="failed",
        task=_place(received),
        options=_options(received),
        model=None if plan is None else CompletedModel(name=plan.model.name, version=plan.model.version),
        workflow=workflow,
        run=None if plan is None else plan.run,
        received_at=utc_text(received_at),
        completed_at=utc_text(completed_at),
        video=None if plan is None else _video(plan),
        frames=frames,
        detections_by_label=None,
        results=None,
        files={},
        frame_records=[],
        seconds=None,
        wall_seconds=_wall_seconds(received_at, completed_at),
        error=error,
    )


def _render(document: dict[str, Any]) -> bytes:
    shown = dict(document)
    if shown["frame_records"] is None:
        del shown["frame_records"]
    if shown["frames"] is not None and not shown["frames"]["missing_not_listed"]:
        shown["frames"] = {name: shown["frames"][name] for name in ("planned", "analysed", "missing")}
    return escape_for_sqs(json.dumps(shown, ensure_ascii=False)).encode()


def _inline_records(store: Store, room_bytes: int) -> list[dict[str, Any]] | None:
    records = []
    for line in read_frames(store):
        room_bytes -= len(escape_for_sqs(line.text).encode()) + 2
        if room_bytes <= 0:
            return None
        records.append(line.record)
    return records


def _place(received: Received) -> TaskPlace | None:
    return None if received.place is None else TaskPlace(bucket=received.place[0], object=received.place[1])


def _options(received: Received) -> dict[str, Any] | None:
    return None if received.task is None else received.task.options.model_dump()


def _video(known: Summary | Plan) -> CompletedVideo:
    facts = known.video
    return CompletedVideo(
        width=facts.width,
        height=facts.height,
        duration_seconds=facts.duration_seconds,
        frames=facts.frames,
        codec=facts.codec,
    )


def _wall_seconds(received_at: datetime, completed_at: datetime) -> float:
    return round(max(0.0, (completed_at - received_at).total_seconds()), 3)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."

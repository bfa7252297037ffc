"""Analysing one chunk: decode its frames, send them to the model server several requests deep, write its shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.decode import ChunkDecoder, Damage, DecodedFrame
from steps.detections import detections_of
from steps.errors import ModelMismatchError, ModelUnavailableError
from steps.orientation import Orientation
from steps.picture import PictureScaler
from steps.plan import load_segments
from steps.serving import Batch, OutOfMemoryOnServer, ServingClient
from steps.shards import ChunkStats, ShardWriter

if TYPE_CHECKING:
    from steps.plan import Chunk, Plan, Segment
    from steps.profile import ModelProfile
    from steps.settings import Settings
    from steps.signature import InputSpec
    from steps.source import Source
    from steps.store import Store

_MOST_ENTRIES = 4096
"""Frames a batch may carry, undecodable ones included: a long damaged stretch must not be held in memory."""


def detect_chunk(
    store: Store, plan: Plan, chunk: Chunk, source: Source, profile: ModelProfile, settings: Settings, *,
    progress: Callable[[int, int], None] | None = None,
) -> ChunkStats:  # fmt: skip
    """Analyse one chunk of a plan and write its shard.

    Args:
        store: where the RUN's files are.
        source: the video, in the version that was planned.
        profile: the profile that the plan names.
        progress: is told the frames done and in all; done may fall back to 0 when the chunk starts again.

    Raises:
        BadInputError: the video or the model is not what was planned.
        OutsideError: the store, the video or the model server failed after retries, or the chunk's time was up.
    """
    if profile.digest() != plan.model.profile_digest:
        raise ModelMismatchError(
            f"the model profile here is not the one of the plan (digest {profile.digest()[:12]}, planned "
            f"{plan.model.profile_digest[:12]}); set REELSCAN_MODEL_PROFILE alike for plan and detect"
        )
    return _Detection(store, plan, chunk, source, profile, settings, progress).run()


@dataclass
class _Clock:
    """Wall-clock seconds by stage."""

    ready: float = 0.0
    decode: float = 0.0
    serve: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> dict[str, float]:
        total = time.monotonic() - self.began
        stages = {"ready": self.ready, "decode": self.decode, "serve": self.serve, "total": total}
        return {name: round(value, 3) for name, value in stages.items()}


class _Detection:
    def __init__(
        self, store: Store, plan: Plan, chunk: Chunk, source: Source, profile: ModelProfile, settings: Settings,
        progress: Callable[[int, int], None] | None,
    ) -> None:  # fmt: skip
        self._store = store
        self._plan = plan
        self._chunk = chunk
        self._source = source
        self._profile = profile
        self._settings = settings
        self._progress = progress or (lambda _done, _total: None)
        self._clock = _Clock()
        self._deadline = time.monotonic() + settings.chunk_timeout_seconds
        self._bytes_read = 0

    def run(self) -> ChunkStats:
        segments = load_segments(self._store, self._plan, self._chunk)
        settings, model = self._settings, self._plan.model
        with ServingClient(
            settings.serving,
            model.name,
            model.version,
            rpc_timeout_seconds=settings.rpc_timeout_seconds,
            ready_timeout_seconds=settings.ready_timeout_seconds,
            unavailable_timeout_seconds=settings.unavailable_timeout_seconds,
        ) as client:
            began = time.monotonic()
            version = client.wait_until_available()
            spec = client.signature(self._profile)
            self._clock.ready = time.monotonic() - began
            batch_size = spec.batch_size or settings.batch_size
            careful = halved = False
            while True:
                self._progress(0, self._chunk.frames)
                try:
                    return self._attempt(client, spec, segments, batch_size, careful, halved, version)
                except Damage:
                    careful = True
                except OutOfMemoryOnServer as error:
                    if spec.batch_size is not None or batch_size == 1:
                        raise ModelUnavailableError(
                            f"{settings.serving}: ran out of memory on a batch of {batch_size}, that cannot be halved; "
                            f"give the server more memory ({error})"
                        ) from error
                    batch_size, halved = batch_size // 2, True

    def _attempt(
        self, client: ServingClient, spec: InputSpec, segments: list[Segment], batch_size: int, careful: bool,
        halved: bool, version: int,
    ) -> ChunkStats:  # fmt: skip
        decoder = ChunkDecoder(self._source, self._plan, self._chunk, segments, self._settings, deadline=self._deadline)
        batches = _Batches(self._plan, spec, self._profile, batch_size, self._clock)
        analysed = missing = 0
        try:
            with ShardWriter(self._store, self._plan, self._chunk) as shard:
                results = client.predict_stream(
                    spec, batches.fill(decoder.frames(careful=careful)), self._settings.requests_in_flight
                )
                for batch, outputs in self._timed(results):
                    for entry, found in self._results_of(batch, outputs):
                        if found is None:
                            missing += 1
                            shard.add_missing(entry.number, entry.pts)
                        else:
                            analysed += 1
                            shard.add(entry.number, entry.time_seconds, entry.pts, found)
                    batches.give_back(batch)
                    self._progress(analysed + missing, self._chunk.frames)
                stats = ChunkStats(
                    frames=analysed,
                    missing=missing,
                    seconds=self._clock.seconds(),
                    batch_size=batch_size,
                    batch_halved=halved,
                    bytes_read=self._bytes_read + decoder.bytes_read,
                    model_version=version,
                )
                shard.finish(stats)
                return stats
        finally:
            self._bytes_read += decoder.bytes_read

    def _timed(self, results: Iterator[tuple[Batch, Any]]) -> Iterator[tuple[Batch, Any]]:
        while True:
            began, decoded = time.monotonic(), self._clock.decode
            result = next(results, None)
            # Filling batches happens in there too, and has been counted as decoding.
            self._clock.serve += time.monotonic() - began - (self._clock.decode - decoded)
            if result is None:
                return
            yield result

    def _results_of(
        self, batch: Batch, outputs: dict[str, Any]
    ) -> Iterator[tuple[DecodedFrame, list[dict[str, Any]] | None]]:
        entries: list[tuple[DecodedFrame, int | None]] = batch.tag  # type: ignore[assignment]
        options, video = self._plan.options, self._plan.video
        labels = None if options["labels"] is None else frozenset(options["labels"])
        for entry, place in entries:
            if place is None:
                yield entry, None
                continue
            yield (
                entry,
                detections_of(
                    {name: values[place] for name, values in outputs.items()},
                    self._profile,
                    width=video.width,
                    height=video.height,
                    min_score=options["min_score"],
                    labels=labels,
                    max_detections=self._settings.max_detections,
                ),
            )


class _Batches:
    """Fills batches of one shape with pictures, and uses their arrays again."""

    def __init__(self, plan: Plan, spec: InputSpec, profile: ModelProfile, batch_size: int, clock: _Clock) -> None:
        orientation = Orientation(plan.video.rotation_degrees, plan.video.mirrored)
        self._scaler = PictureScaler(spec, profile.input, orientation)
        self._shape = (batch_size, spec.height, spec.width, 3)
        self._dtype = spec.dtype
        self._clock = clock
        self._free: list[np.ndarray[Any, Any]] = []

    def fill(self, frames: Iterator[DecodedFrame]) -> Iterator[Batch]:
        """Batches of the frames in order. A frame without a picture takes no place in the array, only in the tag."""
        batch = self._new()
        entries: list[tuple[DecodedFrame, int | None]] = batch.tag  # type: ignore[assignment]
        began = time.monotonic()
        for frame in frames:
            if frame.picture is None:
                entries.append((frame, None))
            else:
                self._scaler.write(frame.picture, batch.array[batch.count])
                entries.append((frame._replace(picture=None), batch.count))
                batch.count += 1
            if batch.count == self._shape[0] or len(entries) == _MOST_ENTRIES:
                self._clock.decode += time.monotonic() - began
                yield self._padded(batch)
                began = time.monotonic()
                batch = self._new()
                entries = batch.tag  # type: ignore[assignment]
        self._clock.decode += time.monotonic() - began
        if entries:
            yield self._padded(batch)

    def give_back(self, batch: Batch) -> None:
        """The batch has been dealt with; its array may be filled again."""
        self._free.append(batch.array)

    def _new(self) -> Batch:
        array = self._free.pop() if self._free else np.zeros(self._shape, self._dtype)
        return Batch(array, 0, [])

    def _padded(self, batch: Batch) -> Batch:
        batch.array[batch.count :] = 0
        return batch

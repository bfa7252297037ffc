"""The stages of detecting, each measured in a process of its own: `python -m bench.stages STAGE RUN`.

For each line that comes in, chunk 0 of the plan in RUN is measured once, and one line of JSON goes out. The stages
are made of the parts that `reelscan detect` is made of, with the same settings from the environment.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steps.decode import ChunkDecoder, DecodedFrame
from steps.detect import detect_chunk
from steps.detections import detections_of
from steps.orientation import Orientation
from steps.picture import PictureScaler
from steps.plan import load_segments
from steps.planner import load_plan
from steps.profile import load_profile
from steps.serving import Batch, ServingClient
from steps.settings import Settings
from steps.shards import ShardWriter, render_frame
from steps.source import open_source
from steps.store import FolderStore

READY_FRAMES = 104
"""So many different frames are fed to the server, over and over: with fewer, the caches would help."""

Outputs = dict[str, NDArray[Any]]


class Stages:
    """What the stages share: a plan, its video, the model's input and a connection to the server."""

    def __init__(self, run: Path) -> None:
        self._settings = Settings.from_environment()
        self.store = FolderStore(run)
        self.plan = load_plan(self.store)
        self.chunk = self.plan.chunks[0]
        self._source = open_source(self.plan.source.bucket, self.plan.source.key, self._settings)
        self._profile = load_profile(self._settings.model_profile)
        self._client = ServingClient(self._settings.serving, self._settings.model_name)
        self._client.wait_until_available()
        self._spec = self._client.signature(self._profile)
        self._batch_size = self._spec.batch_size or self._settings.batch_size
        self._ready: list[Batch] = []

    def detect(self) -> dict[str, Any]:
        """The whole of detecting the chunk."""
        began, cpu = time.perf_counter(), time.process_time()
        stats = detect_chunk(self.store, self.plan, self.chunk, self._source, self._profile, self._settings)
        return _timed(began, cpu, stats.frames)

    def decode_and_scale(self) -> dict[str, Any]:
        """Decoding and scaling into as many batches as detecting holds at a time, sent to nobody.

        `scale_cpu_seconds` is the part of scaling, with the copying into the batch.
        """
        arrays = [self._new_array() for _ in range(self._settings.requests_in_flight + 1)]
        scaler, frames, scale_cpu = self._scaler(), 0, 0.0
        began, cpu = time.perf_counter(), time.process_time()
        for decoded in self._decoded():
            array = arrays[frames // self._batch_size % len(arrays)]
            before = time.thread_time()
            scaler.write(_picture(decoded), array[frames % self._batch_size])
            scale_cpu += time.thread_time() - before
            frames += 1
        return {**_timed(began, cpu, frames), "scale_cpu_seconds": scale_cpu}

    def feed(self) -> dict[str, Any]:
        """Sending ready batches, and receiving the answers.

        `write_cpu_seconds` is what it takes afterwards to make detections of as many answers and write them.
        """
        ready = self._ready_batches()
        answers: list[tuple[Batch, Outputs]] = []
        began, cpu = time.perf_counter(), time.process_time()
        frames = 0
        for batch, outputs in self._predicted(self._repeated(ready)):
            frames += batch.count
            if len(answers) < len(ready):
                answers.append((batch, outputs))
        timed = _timed(began, cpu, frames)
        before = time.process_time()
        with (
            tempfile.TemporaryDirectory() as folder,
            ShardWriter(FolderStore(Path(folder)), self.plan, self.chunk) as shard,
        ):
            written = 0
            while written < frames:
                for frame, detections in self._detections(answers):
                    shard.add(frame.number, frame.time_seconds, frame.pts, detections)
                    written += 1
        return {**timed, "write_cpu_seconds": (time.process_time() - before) * frames / written}

    def check(self) -> dict[str, Any]:
        """What detecting should give: the CRC-32 of each frame's scaled picture, and its line, from ready batches."""
        ready = self._ready_batches(self.chunk.frames)
        lines = [
            render_frame(frame.number, frame.time_seconds, frame.pts, detections)
            for frame, detections in self._detections(self._predicted(iter(ready)))
        ]
        crcs = [zlib.crc32(picture) for batch in ready for picture in batch.array[: batch.count]]
        return {"crcs": crcs, "lines": lines}

    def _ready_batches(self, frames: int = READY_FRAMES) -> list[Batch]:
        """Batches of the chunk's first frames. Each is tagged with its frames."""
        if not self._ready:
            scaler = self._scaler()
            for decoded in self._decoded():
                if not self._ready or self._ready[-1].count == self._batch_size:
                    if len(self._ready) * self._batch_size >= frames:
                        break
                    self._ready.append(Batch(self._new_array(), 0, []))
                batch = self._ready[-1]
                scaler.write(_picture(decoded), batch.array[batch.count])
                _frames_of(batch).append(decoded._replace(picture=None))
                batch.count += 1
        return self._ready

    def _repeated(self, ready: list[Batch]) -> Iterator[Batch]:
        """The ready batches over and over, until as many frames have been sent as the chunk has."""
        left = self.chunk.frames
        for batch in itertools.cycle(ready):
            count = min(left, batch.count)
            yield Batch(batch.array, count, _frames_of(batch)[:count])
            left -= count
            if not left:
                return

    def _predicted(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Outputs]]:
        return self._client.predict_stream(self._spec, batches, self._settings.requests_in_flight)

    def _detections(self, answers: Any) -> Iterator[tuple[DecodedFrame, list[dict[str, Any]]]]:
        options, video = self.plan.options, self.plan.video
        for batch, outputs in answers:
            for place, frame in enumerate(_frames_of(batch)):
                row = {name: values[place] for name, values in outputs.items()}
                yield frame, detections_of(
                    row, self._profile, width=video.width, height=video.height, min_score=options["min_score"],
                    labels=None, max_detections=self._settings.max_detections,
                )  # fmt: skip

    def _decoded(self) -> Iterator[DecodedFrame]:
        segments = load_segments(self.store, self.plan, self.chunk)
        deadline = time.monotonic() + self._settings.chunk_timeout_seconds
        return ChunkDecoder(self._source, self.plan, self.chunk, segments, self._settings, deadline=deadline).frames()

    def _scaler(self) -> PictureScaler:
        orientation = Orientation(self.plan.video.rotation_degrees, self.plan.video.mirrored)
        return PictureScaler(self._spec, self._profile.input, orientation)

    def _new_array(self) -> NDArray[Any]:
        return np.zeros((self._batch_size, self._spec.height, self._spec.width, 3), self._spec.dtype)


STAGES: dict[str, Callable[[Stages], dict[str, Any]]] = {
    "detect": Stages.detect,
    "decode_and_scale": Stages.decode_and_scale,
    "feed": Stages.feed,
    "check": Stages.check,
}


def _timed(began: float, cpu: float, frames: int) -> dict[str, Any]:
    return {
        "frames": frames,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def _picture(decoded: DecodedFrame) -> Any:
    if decoded.picture is None:
        raise ValueError(f"frame {decoded.number} of a bench's clip cannot be decoded")
    return decoded.picture


def _frames_of(batch: Batch) -> list[DecodedFrame]:
    frames: list[DecodedFrame] = batch.tag  # type: ignore[assignment]
    return frames


def main(stage: str, run: str) -> None:
    """Say `ready`, then measure the stage once for each line of stdin."""
    stages = Stages(Path(run))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(STAGES[stage](stages)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

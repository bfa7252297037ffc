"""How much of an object in S3 is read: once forward to plan it, and little more than once again to analyse it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from steps.plan import Plan
from steps.shards import planned_frames
from steps.source import Source
from steps.store import FolderStore, Store
from tests.conftest import Aws
from tests.media.library import FileStore
from tests.media.writer import remux
from tests.steps.analysis import Analyst
from tests.steps.noise_clips import FPS, write_noise

MIB = 1 << 20
PLAN_EXTRA_BYTES = 256 << 10
RUN_FACTOR = 2.2
RUN_EXTRA_BYTES_A_CHUNK = MIB
SECONDS = 20
KEY = "noise"

CLIPS: dict[str, dict[str, str]] = {
    "index_last.mp4": {},
    "index_first.mp4": {"movflags": "faststart"},
    "noise.ts": {},
    "noise.mkv": {},
}
"""Names, and options of their muxers."""

CHUNKING: dict[str, dict[str, Any]] = {"1 s": {"chunk_seconds": 1.0}, "auto": {}}


class CountingSource:
    """Notes what comes out of every read of another source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.identity = source.identity
        self.ranges: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        data = self._source.read(offset, length)
        self.ranges.append((offset, offset + len(data)))
        return data

    @property
    def bytes_read(self) -> int:
        return sum(end - start for start, end in self.ranges)

    @property
    def steps_back(self) -> int:
        """How often a read began before the end of the one before it."""
        return sum(start < end for (_, end), (start, _) in itertools.pairwise(self.ranges))


@pytest.fixture(scope="session")
def noise(media_folder: Path) -> dict[str, Path]:
    """The same ten megabytes of 720p in every container."""
    store = FileStore(media_folder / "noise")
    source = store.get("encoded.mp4", lambda path: write_noise(path, seconds=SECONDS, width=1280, height=720))
    return {
        name: store.get(name, lambda path, options=options: remux(source, path, options=options))
        for name, options in CLIPS.items()
    }


@pytest.fixture(params=CLIPS)
def clip(request: pytest.FixtureRequest, noise: dict[str, Path], aws: Aws) -> Path:
    """One of the clips, which lies in S3 too."""
    path = noise[request.param]
    aws.s3.put_object(Bucket=aws.bucket, Key=KEY, Body=path.read_bytes())
    assert 8 * MIB < path.stat().st_size < 20 * MIB
    return path


def planned_by_chunk(store: Store, plan: Plan) -> list[list[int]]:
    """The frames of each chunk."""
    return [[planned.frame for planned in planned_frames(store, plan, chunk)] for chunk in plan.chunks]


@pytest.mark.parametrize("chunking", CHUNKING)
def test_planning_reads_an_object_once_forward(aws: Aws, analyst: Analyst, clip: Path, chunking: str) -> None:
    source = CountingSource(analyst.open(KEY, aws.bucket))

    plan = analyst.plan(source, **CHUNKING[chunking])

    assert plan.video.frames == SECONDS * FPS
    assert source.bytes_read <= clip.stat().st_size + PLAN_EXTRA_BYTES
    # An index at the end is read first, and what lies before it then.
    assert source.steps_back <= (1 if clip.name == "index_last.mp4" else 0)


@pytest.mark.parametrize("chunking", CHUNKING)
def test_a_whole_run_reads_little_more_than_the_object_twice(
    aws: Aws, analyst: Analyst, clip: Path, chunking: str
) -> None:
    source = CountingSource(analyst.open(KEY, aws.bucket))

    plan = analyst.plan(source, **CHUNKING[chunking])
    planned_bytes = source.bytes_read
    analysis = analyst.detect(plan, source)

    assert len(analysis.analysed) == plan.planned_frames == SECONDS * 5
    allowed = RUN_FACTOR * clip.stat().st_size + RUN_EXTRA_BYTES_A_CHUNK * len(plan.chunks)
    assert source.bytes_read <= allowed
    assert sum(stats.bytes_read for stats in analysis.stats) == source.bytes_read - planned_bytes


@pytest.mark.parametrize("chunking", CHUNKING)
def test_a_clip_is_cut_at_every_second_if_the_reading_that_costs_is_within_bounds(
    aws: Aws, analyst: Analyst, clip: Path, chunking: str
) -> None:
    plan = analyst.plan(analyst.open(KEY, aws.bucket), **CHUNKING[chunking])

    assert plan.access == ("splice" if clip.suffix == ".ts" else "seek")
    if chunking == "auto":
        assert len(plan.chunks) == 1
    elif clip.suffix == ".ts":
        # Every chunk of a transport stream reads the stream's start again.
        assert 1 < len(plan.chunks) < SECONDS
    else:
        assert len(plan.chunks) == SECONDS


@pytest.mark.parametrize("chunking", CHUNKING)
def test_the_plan_of_an_object_is_that_of_the_same_bytes_in_a_file(
    aws: Aws, analyst: Analyst, clip: Path, chunking: str, tmp_path: Path
) -> None:
    stores = FolderStore(tmp_path / "object"), FolderStore(tmp_path / "file")
    sources = analyst.open(KEY, aws.bucket), analyst.open(clip)

    plans = [analyst.plan(source, store, **CHUNKING[chunking]) for source, store in zip(sources, stores, strict=True)]

    described = [plan.model_dump(exclude={"source", "run", "plan", "chunks", "seconds"}) for plan in plans]
    assert described[0] == described[1]
    frames = [planned_by_chunk(store, plan) for store, plan in zip(stores, plans, strict=True)]
    assert (
        list(itertools.chain(*frames[0]))
        == list(itertools.chain(*frames[1]))
        == list(range(0, SECONDS * FPS, FPS // 5))
    )
    if clip.suffix != ".ts" or chunking == "auto":
        assert plans[0].chunks == plans[1].chunks
        tables = [store.get(plan.table_key).data for store, plan in zip(stores, plans, strict=True)]
        assert tables[0] == tables[1]

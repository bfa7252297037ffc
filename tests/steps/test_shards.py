from __future__ import annotations

import gc
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.errors import NotFoundError, StorageError
from steps.plan import Chunk, Plan
from steps.settings import Settings
from steps.shards import (
    ShardWriter,
    planned_frames,
    read_chunk_error,
    read_shard,
    write_chunk_error,
)
from steps.store import FolderStore, Store, open_store
from tests.conftest import Aws
from tests.steps.runs import detections_of, make_run, pts_of, stats, time_of, write_shard

FRAMES = [0, 5, 10, 16]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "run")


@pytest.fixture
def plan(store: FolderStore) -> Plan:
    return make_run(store, [FRAMES, [20, 21]])


@pytest.fixture
def chunk(plan: Plan) -> Chunk:
    return plan.chunks[0]


def text_of(store: Store, plan: Plan, chunk: Chunk) -> list[str]:
    return gzip.decompress(store.get(plan.shard_key(chunk)).data).decode().splitlines()


def put_text(store: Store, plan: Plan, chunk: Chunk, lines: list[str]) -> None:
    store.put(plan.shard_key(chunk), gzip.compress("".join(line + "\n" for line in lines).encode()))


def test_a_shard_holds_a_line_per_planned_frame_in_order_and_its_stats(
    store: FolderStore, plan: Plan, chunk: Chunk
) -> None:
    write_shard(store, plan, chunk, missing={10})

    assert text_of(store, plan, chunk) == [
        '{"frame": 0, "time_seconds": 0.0, "pts": 900, "detections": []}',
        '{"frame": 5, "time_seconds": 0.2, "pts": 3460, "detections": [{"label": "Ampel-Männchen 🚦", '
        '"class_id": 3, "score": 0.9876, "box": [0.0, 10.5, 100.0, 50.2]}]}',
        '{"frame": 10, "pts": 6020, "missing": "not_decodable"}',
        '{"frame": 16, "time_seconds": 0.64, "pts": 9092, "detections": []}',
        json.dumps({"stats": stats(3, 1).model_dump()}),
    ]


def test_what_is_written_is_read_back(store: FolderStore, plan: Plan, chunk: Chunk) -> None:
    write_shard(store, plan, chunk, missing={10})

    *frames, last = read_shard(store, plan, chunk)

    assert [line["frame"] for line in frames] == FRAMES
    assert frames[1] == {
        "frame": 5, "time_seconds": time_of(5), "pts": pts_of(5), "detections": detections_of(5)
    }  # fmt: skip
    assert frames[2] == {"frame": 10, "pts": pts_of(10), "missing": "not_decodable"}
    assert last == {"stats": stats(3, 1).model_dump()}


def test_the_same_lines_give_the_same_bytes(store: FolderStore, plan: Plan, chunk: Chunk) -> None:
    write_shard(store, plan, chunk)
    first = store.get(plan.shard_key(chunk)).data
    write_shard(store, plan, chunk)

    assert store.get(plan.shard_key(chunk)).data == first
    # Bytes 4 to 7 of a gzip member are its time.
    assert first[4:8] == b"\0\0\0\0"


@pytest.mark.parametrize("times", ["ticks", "no pts"])
def test_times_come_from_the_table_where_pts_do_not_tell_them(store: FolderStore, times: str) -> None:
    plan = make_run(store, [FRAMES], times=times)
    chunk = plan.chunks[0]
    with ShardWriter(store, plan, chunk) as shard:
        for frame in FRAMES:
            shard.add(frame, time_of(frame), None if times == "no pts" else pts_of(frame), [])
        shard.finish(stats(4))

    assert [line["time_seconds"] for line in read_shard(store, plan, chunk) if "frame" in line] == [
        0.0, 0.2, 0.4, 0.64,
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_shard_that_is_not_finished_does_not_appear(request: pytest.FixtureRequest, store: Store, where: str) -> None:
    if where == "s3":
        aws: Aws = request.getfixturevalue("aws")
        store = open_store(f"s3://{aws.bucket}/run", Settings())
    plan = make_run(store, [FRAMES])
    chunk = plan.chunks[0]
    with ShardWriter(store, plan, chunk) as shard:
        shard.add(0, 0.0, 900, [])

    def fail_after_a_frame() -> None:
        with ShardWriter(store, plan, chunk) as shard:
            shard.add(0, 0.0, 900, [])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_a_frame()
    gc.collect()

    assert set(store.list("")) == {"plan.json", plan.table_key}


def test_a_number_that_json_does_not_know_is_refused(store: FolderStore, plan: Plan, chunk: Chunk) -> None:
    with ShardWriter(store, plan, chunk) as shard, pytest.raises(ValueError, match="Out of range float"):
        shard.add(0, 0.0, 900, [{"score": float("nan")}])


def test_the_frames_of_a_chunk_are_those_of_its_part_of_the_table(store: FolderStore, plan: Plan) -> None:
    assert [planned.frame for planned in planned_frames(store, plan, plan.chunks[1])] == [20, 21]
    assert [planned.pts for planned in planned_frames(store, plan, plan.chunks[1])] == [pts_of(20), pts_of(21)]


def test_a_chunk_without_a_shard_is_not_found(store: FolderStore, plan: Plan, chunk: Chunk) -> None:
    with pytest.raises(NotFoundError, match="0-16"):
        list(read_shard(store, plan, chunk))


Change = Callable[[list[str]], list[str]]


def with_line(number: int, **changes: Any) -> Change:
    return lambda lines: [
        json.dumps({**json.loads(line), **changes}) if index == number else line
        for index, line in enumerate(lines, start=1)
    ]


def without(number: int, name: str) -> Change:
    def change(lines: list[str]) -> list[str]:
        document = json.loads(lines[number - 1])
        del document[name]
        return [*lines[: number - 1], json.dumps(document), *lines[number:]]

    return change


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        (lambda lines: [], 1, "is absent; frame 0 was expected"),
        (lambda lines: lines[1:], 1, "holds frame 5; frame 0 was expected"),
        (lambda lines: [lines[0], *lines], 2, "holds frame 0; frame 5 was expected"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1, "holds frame 5; frame 0 was expected"),
        (lambda lines: lines[:3], 4, "is absent; frame 16 was expected"),
        (lambda lines: [*lines[:3], lines[4]], 4, "frame 16 was expected"),
        (lambda lines: lines[:4], 5, "the stats were expected"),
        (lambda lines: [*lines, lines[0]], 5, "yet more follows"),
        (lambda lines: [*lines, lines[4]], 5, "yet more follows"),
        (lambda lines: [lines[0][:-3], *lines[1:]], 1, "is no JSON"),
        (lambda lines: ["[1]", *lines[1:]], 1, "frame 0 was expected"),
        (lambda lines: ["3", *lines[1:]], 1, "frame 0 was expected"),
        (with_line(2, frame=6), 2, "holds frame 6; frame 5 was expected"),
        (with_line(2, pts=3461), 2, "holds pts 3461 for frame 5; 3460 was planned"),
        (with_line(2, pts=None), 2, "holds pts None for frame 5"),
        (without(2, "pts"), 2, "holds pts None for frame 5"),
        (with_line(2, time_seconds=0.3), 2, "holds time 0.3 for frame 5; it is 0.2"),
        (with_line(2, time_seconds="0.2"), 2, "holds time '0.2'"),
        (with_line(1, time_seconds=0), 1, "holds time 0 for frame 0; it is 0.0"),
        (with_line(2, detections=None), 2, "detections that are no list"),
        (without(2, "detections"), 2, "holds the fields frame, time_seconds, pts"),
        (with_line(2, more=1), 2, "holds the fields frame, time_seconds, pts, detections, more"),
        (with_line(3, missing="lunch"), 3, "misses frame 10 in another way than not_decodable"),
        (with_line(3, detections=[]), 3, "misses frame 10 in another way"),
        (with_line(5, stats={}), 5, "holds stats that cannot be read"),
        (with_line(5, stats=stats(4, 1).model_dump()), 5, "counts 4 frames, 1 missing; the shard holds 3 and 1"),
        (with_line(5, more=1), 5, "the stats were expected"),
    ],
)
def test_a_shard_that_does_not_fit_the_plan_is_refused_by_line(
    store: FolderStore, plan: Plan, chunk: Chunk, change: Change, line: int, reason: str
) -> None:
    write_shard(store, plan, chunk, missing={10})
    put_text(store, plan, chunk, change(text_of(store, plan, chunk)))

    with pytest.raises(StorageError) as caught:
        list(read_shard(store, plan, chunk))

    assert f"chunk 0 (frames 0-16): line {line} of its shard " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:-8],
        lambda data: b"",
        lambda data: b"no gzip" + data,
        lambda data: data + b"garbage",
        lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:],
        lambda data: gzip.compress(gzip.decompress(data)[:-1]),
        lambda data: gzip.compress(b"\xff\xfe\n"),
    ],
    ids=["half", "no last byte", "no checksum", "empty", "start", "end", "bit", "no last newline", "no UTF-8"],
)
def test_a_damaged_shard_is_refused(
    store: FolderStore, plan: Plan, chunk: Chunk, change: Callable[[bytes], bytes]
) -> None:
    write_shard(store, plan, chunk)
    store.put(plan.shard_key(chunk), change(store.get(plan.shard_key(chunk)).data))

    with pytest.raises(StorageError, match=r"chunk 0 \(frames 0-16\): line \d of its shard"):
        list(read_shard(store, plan, chunk))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[: len(data) - 5], "chunk 1 is damaged"),
        (lambda data: b"\0" * len(data), "chunk 1 is damaged"),
        (lambda data: b"", "chunk 1 is damaged"),
    ],
)
def test_a_damaged_chunk_table_is_a_storage_error(
    store: FolderStore, plan: Plan, change: Callable[[bytes], bytes], reason: str
) -> None:
    store.put(plan.table_key, change(store.get(plan.table_key).data))

    with pytest.raises(StorageError, match=reason):
        list(planned_frames(store, plan, plan.chunks[1]))


def test_a_chunk_table_that_is_gone_is_a_storage_error(store: FolderStore, plan: Plan) -> None:
    store.delete(plan.table_key)

    with pytest.raises(StorageError, match="chunk table is gone; plan again"):
        list(planned_frames(store, plan, plan.chunks[1]))


def test_the_error_of_a_chunk_is_read_back(store: FolderStore, plan: Plan, chunk: Chunk) -> None:
    assert read_chunk_error(store, plan, chunk) is None

    write_chunk_error(store, plan, chunk, "timeout", "took too long ⏱")

    assert read_chunk_error(store, plan, chunk) == ("timeout", "took too long ⏱")
    assert read_chunk_error(store, plan, plan.chunks[1]) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"code": "x", "message": "y"}', b'{"code": "timeout"}', b"\xff"])
def test_an_error_of_a_chunk_that_cannot_be_understood_counts_as_none(
    store: FolderStore, plan: Plan, chunk: Chunk, data: bytes
) -> None:
    store.put(plan.error_key(chunk), data)

    assert read_chunk_error(store, plan, chunk) is None

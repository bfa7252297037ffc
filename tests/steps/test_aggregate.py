from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.aggregate import aggregate, ensure_outputs, load_summary
from steps.errors import StorageError
from steps.options import OUTPUTS
from steps.settings import Settings
from steps.shards import ShardWriter, read_chunk_error, write_chunk_error
from steps.store import FolderStore, Store, open_store
from tests.conftest import Aws
from tests.faults import FaultProxy
from tests.steps.runs import detections_of, make_run, pts_of, stats, time_of, write_shard, write_shards

FRAMES = list(range(0, 60, 5))
CHUNKS = [FRAMES[:5], FRAMES[5:6], FRAMES[6:]]
FILES = {
    "frames": "frames.jsonl.gz",
    "parquet": "detections.parquet",
    "coco": "coco.json",
    "rekognition": "rekognition.json",
}


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "run")
    aws: Aws = request.getfixturevalue("aws")
    return open_store(f"s3://{aws.bucket}/run", Settings())


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "run")


def frames_text(store: Store) -> str:
    return gzip.decompress(store.get("frames.jsonl.gz").data).decode()


def ranges(summary: Any) -> list[tuple[int, int, str]]:
    return [(found.start_frame, found.end_frame, found.code) for found in summary.frames.missing]


def result_keys(store: Store) -> set[str]:
    return {key for key in store.list("") if not key.startswith("chunks/")} - {"plan.json"}


class TestMerging:
    def test_all_outputs_and_a_summary_are_written(self, store: Store) -> None:
        plan = make_run(store, CHUNKS)
        write_shards(store, plan)

        summary = aggregate(store, plan, OUTPUTS)

        assert summary.status == "succeeded"
        assert summary.files == FILES
        assert result_keys(store) == {*FILES.values(), "summary.json"}
        assert load_summary(store) == summary
        assert (summary.frames.planned, summary.frames.analysed, summary.frames.missing) == (12, 12, [])
        assert sum(summary.detections_by_label.values()) == sum(len(detections_of(frame)) for frame in FRAMES)
        assert list(summary.detections_by_label) == sorted(summary.detections_by_label)
        assert summary.seconds["plan"] == 0.5
        assert summary.seconds["detect"] == 3 * 2.25
        assert summary.failure is None

    def test_frames_are_the_shards_lines_in_order(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan, missing={5, 55})
        aggregate(folder, plan, OUTPUTS)

        lines = [json.loads(line) for line in frames_text(folder).splitlines()]

        assert lines == [
            {
                "frame": frame,
                "time_seconds": time_of(frame),
                "pts": pts_of(frame),
                "detections": detections_of(frame),
            }
            for frame in FRAMES
            if frame not in (5, 55)
        ]

    @pytest.mark.parametrize("missing", [(), (0, 30, 35, 55)])
    def test_every_result_is_the_same_under_any_chunking(self, tmp_path: Path, missing: tuple[int, ...]) -> None:
        results = []
        cuts = [[FRAMES], CHUNKS, [[frame] for frame in FRAMES], [FRAMES[:6], FRAMES[6:]]]
        for number, chunks in enumerate(cuts):
            store = FolderStore(tmp_path / str(number))
            plan = make_run(store, chunks)
            write_shards(store, plan, missing=missing)
            aggregate(store, plan, OUTPUTS)
            results.append({key: store.get(key).data for key in result_keys(store) - {"summary.json"}})

        assert len(results[0]) == (5 if missing else 4)
        assert all(result == results[0] for result in results)

    def test_the_summary_tells_how_each_chunk_went(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shard(folder, plan, plan.chunks[0], batch_size=4, batch_halved=True)
        write_shard(folder, plan, plan.chunks[1])
        write_chunk_error(folder, plan, plan.chunks[2], "timeout", "too slow")

        chunks = aggregate(folder, plan, OUTPUTS).chunks

        assert [chunk.index for chunk in chunks] == [0, 1, 2]
        assert (chunks[0].batch_size, chunks[0].batch_halved, chunks[0].bytes_read) == (4, True, 1234)
        assert chunks[1].batch_halved is False
        assert (chunks[2].frames, chunks[2].missing, chunks[2].error) == (0, 6, "timeout")

    def test_nothing_of_a_message_is_in_the_summary(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan)
        aggregate(folder, plan, OUTPUTS)

        assert set(json.loads(folder.get("summary.json").data)) == {
            "status", "run", "source", "video", "options", "model", "frames", "detections_by_label", "files",
            "seconds", "chunks", "created_at",
        }  # fmt: skip

    def test_progress_ends_with_all_planned_frames(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shard(folder, plan, plan.chunks[0], missing={0})
        write_shard(folder, plan, plan.chunks[2])
        told: list[tuple[int, int]] = []

        aggregate(folder, plan, OUTPUTS, progress=lambda done, total: told.append((done, total)))

        assert told == [(5, 12), (6, 12), (12, 12)]


class TestOutputs:
    @pytest.mark.parametrize("output", ["parquet", "coco", "rekognition"])
    def test_only_what_is_asked_for_is_written_and_frames_always(self, folder: FolderStore, output: str) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan)

        summary = aggregate(folder, plan, [output])

        assert result_keys(folder) == {"frames.jsonl.gz", FILES[output], "summary.json"}
        assert summary.files == {"frames": "frames.jsonl.gz", output: FILES[output]}

    @pytest.mark.parametrize("lacking", [["parquet"], ["coco"], ["rekognition"], ["parquet", "coco", "rekognition"]])
    def test_outputs_that_lack_are_made_from_the_frames_as_if_asked_for_at_first(
        self, tmp_path: Path, lacking: list[str]
    ) -> None:
        first, second = FolderStore(tmp_path / "first"), FolderStore(tmp_path / "second")
        plan = make_run(first, CHUNKS)
        make_run(second, CHUNKS)
        for store in (first, second):
            write_shards(store, plan, missing={25})
        aggregate(first, plan, OUTPUTS)
        summary = aggregate(second, plan, [output for output in OUTPUTS if output not in lacking])
        for chunk in plan.chunks:
            second.delete(plan.shard_key(chunk))

        summary = ensure_outputs(second, plan, summary, OUTPUTS)

        assert summary.files == {**FILES, "missing": "missing.jsonl.gz"}
        assert load_summary(second) == summary
        for key in FILES.values():
            assert second.get(key).data == first.get(key).data

    def test_outputs_that_are_there_are_not_written_again(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan)
        summary = aggregate(folder, plan, OUTPUTS)
        before = {key: folder.written_at(key) for key in folder.list("")}

        assert ensure_outputs(folder, plan, summary, ["coco"]) == summary
        assert {key: folder.written_at(key) for key in folder.list("")} == before

    def test_damaged_frames_are_a_storage_error_when_outputs_lack(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan)
        summary = aggregate(folder, plan, ["frames"])
        folder.put("frames.jsonl.gz", folder.get("frames.jsonl.gz").data[:-9])

        with pytest.raises(StorageError, match=r"frames\.jsonl\.gz is damaged"):
            ensure_outputs(folder, plan, summary, OUTPUTS)
        assert result_keys(folder) == {"frames.jsonl.gz", "summary.json"}


class TestMissing:
    def test_neighbours_in_the_plan_with_one_code_are_one_range_with_both_ends(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shard(folder, plan, plan.chunks[0], missing={0, 5, 15})
        write_chunk_error(folder, plan, plan.chunks[1], "timeout", "too slow")
        write_shard(folder, plan, plan.chunks[2], missing={30, 45, 50, 55})

        summary = aggregate(folder, plan, OUTPUTS)

        assert summary.status == "partial"
        assert (summary.frames.planned, summary.frames.analysed) == (12, 4)
        expected = [
            (0, 5, "not_decodable"),
            (15, 15, "not_decodable"),
            (25, 25, "timeout"),
            (30, 30, "not_decodable"),
            (45, 55, "not_decodable"),
        ]
        assert ranges(summary) == expected
        assert summary.frames.missing_ranges == 5
        assert summary.files == {**FILES, "missing": "missing.jsonl.gz"}
        listed = gzip.decompress(folder.get("missing.jsonl.gz").data).decode().splitlines()
        assert [tuple(json.loads(line).values()) for line in listed] == expected

    def test_a_range_goes_on_across_chunks(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shard(folder, plan, plan.chunks[0])
        for chunk in plan.chunks[1:]:
            write_chunk_error(folder, plan, chunk, "model_unavailable", "gone")

        assert ranges(aggregate(folder, plan, OUTPUTS)) == [(25, 55, "model_unavailable")]

    def test_a_chunk_without_shard_or_error_is_internal(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shard(folder, plan, plan.chunks[0])
        write_shard(folder, plan, plan.chunks[2])

        assert ranges(aggregate(folder, plan, OUTPUTS)) == [(25, 25, "internal")]

    def test_an_error_of_a_chunk_that_has_a_shard_by_now_does_not_count(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan)
        write_chunk_error(folder, plan, plan.chunks[1], "timeout", "the first time")

        assert aggregate(folder, plan, OUTPUTS).status == "succeeded"

    def test_of_more_ranges_than_the_summary_lists_all_are_in_the_file(self, folder: FolderStore) -> None:
        frames = list(range(4000))
        plan = make_run(folder, [frames[:100], frames[100:]])
        write_shards(folder, plan, missing=set(range(0, 4000, 2)))

        summary = aggregate(folder, plan, ["frames"])

        assert summary.frames.missing_ranges == 2000
        assert ranges(summary) == [(frame, frame, "not_decodable") for frame in range(0, 2000, 2)]
        assert gzip.decompress(folder.get("missing.jsonl.gz").data).count(b"\n") == 2000

    def test_completing_a_partial_run_leaves_nothing_of_what_was_missing(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shard(folder, plan, plan.chunks[0])
        assert aggregate(folder, plan, OUTPUTS).status == "partial"
        write_shards(folder, plan)

        summary = aggregate(folder, plan, OUTPUTS)

        assert summary.status == "succeeded"
        assert result_keys(folder) == {*FILES.values(), "summary.json"}
        assert frames_text(folder).count("\n") == 12


class TestFailed:
    def test_without_any_frame_nothing_is_written_and_the_summary_says_why(self, store: Store) -> None:
        plan = make_run(store, CHUNKS)
        write_chunk_error(store, plan, plan.chunks[0], "timeout", "too slow")
        write_shard(store, plan, plan.chunks[1], missing=FRAMES)
        write_chunk_error(store, plan, plan.chunks[2], "model_unavailable", "the server is gone")

        summary = aggregate(store, plan, OUTPUTS)

        assert summary.status == "failed"
        assert summary.failure is not None
        # The third chunk has most of the frames.
        assert (summary.failure.code, summary.failure.message) == ("model_unavailable", "the server is gone")
        assert summary.files == {}
        assert summary.frames.planned == 12
        assert summary.frames.analysed == 0
        assert result_keys(store) == set()
        assert load_summary(store) is None

    def test_a_video_of_which_no_frame_can_be_decoded_is_unsupported(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan, missing=FRAMES)

        failure = aggregate(folder, plan, OUTPUTS).failure

        assert failure is not None
        assert failure.code == "unsupported"
        assert "s3://videos/some/video.mp4: none of its 12 planned frames" in failure.message

    def test_an_error_counts_more_than_frames_that_cannot_be_decoded(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shard(folder, plan, plan.chunks[0], missing=FRAMES)
        write_chunk_error(folder, plan, plan.chunks[1], "timeout", "too slow")
        write_shard(folder, plan, plan.chunks[2], missing=FRAMES)

        failure = aggregate(folder, plan, OUTPUTS).failure

        assert failure is not None
        assert failure.code == "timeout"


class TestFaults:
    @pytest.mark.parametrize("damage", ["cut", "other plan"])
    def test_a_shard_that_does_not_fit_is_deleted_and_named(self, store: Store, damage: str) -> None:
        plan = make_run(store, CHUNKS)
        write_shards(store, plan)
        key = plan.shard_key(plan.chunks[1])
        if damage == "cut":
            store.put(key, store.get(key).data[:-3])
        else:
            with ShardWriter(store, plan, plan.chunks[1]) as shard:
                shard.add(26, time_of(26), pts_of(26), [])
                shard.finish(stats(1))

        with pytest.raises(StorageError, match=r"chunk 1 \(frames 25-25\): line \d .*deleted.*send the task again"):
            aggregate(store, plan, OUTPUTS)

        assert not store.exists(key)
        assert result_keys(store) == set()
        error = read_chunk_error(store, plan, plan.chunks[1])
        assert error is not None
        assert error.code == "internal"

    def test_once_the_damaged_shard_is_written_anew_the_run_succeeds(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan)
        folder.put(plan.shard_key(plan.chunks[2]), b"damaged")
        with pytest.raises(StorageError):
            aggregate(folder, plan, OUTPUTS)
        write_shard(folder, plan, plan.chunks[2])

        assert aggregate(folder, plan, OUTPUTS).status == "succeeded"

    def test_a_shard_that_cannot_be_read_is_kept(self, aws: Aws, faults: FaultProxy) -> None:
        store = open_store(f"s3://{aws.bucket}/run", Settings(storage_timeout_seconds=1))
        plan = make_run(store, CHUNKS)
        write_shards(store, plan)
        key = plan.shard_key(plan.chunks[1])
        faults.inject("throttle", f"GET .*{key}", times=1000)

        with pytest.raises(StorageError, match="SlowDown"):
            aggregate(store, plan, OUTPUTS)

        assert store.exists(key)
        assert result_keys(store) == set()

    @pytest.mark.parametrize("key", FILES.values())
    def test_a_result_that_cannot_be_written_leaves_the_run_incomplete(
        self, aws: Aws, faults: FaultProxy, key: str
    ) -> None:
        store = open_store(f"s3://{aws.bucket}/run", Settings(storage_timeout_seconds=1))
        plan = make_run(store, CHUNKS)
        write_shards(store, plan)
        faults.inject("throttle", f"PUT .*{key}", times=1000)

        with pytest.raises(StorageError, match="SlowDown"):
            aggregate(store, plan, OUTPUTS)

        assert load_summary(store) is None
        assert not store.exists(key)

    def test_death_while_the_results_are_written_leaves_the_run_incomplete(self, folder: FolderStore) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan)
        script = (
            "import os, sys\n"
            "from steps.aggregate import aggregate\n"
            "from steps.plan import Plan\n"
            "from steps.store import FolderStore\n"
            "store = FolderStore(__import__('pathlib').Path(sys.argv[1]))\n"
            "plan = Plan.model_validate_json(store.get('plan.json').data)\n"
            "def die_half_way(done, total):\n"
            "    if done == 6:\n"
            "        os.kill(os.getpid(), 9)\n"
            "aggregate(store, plan, ['frames', 'coco'], progress=die_half_way)\n"
        )
        died = subprocess.run([sys.executable, "-c", script, str(folder.folder)], check=False)

        assert died.returncode == -9
        assert result_keys(folder) == set()
        assert aggregate(folder, plan, OUTPUTS).status == "succeeded"
        assert result_keys(folder) == {*FILES.values(), "summary.json"}

    def test_an_earlier_summary_is_gone_before_its_files_are_replaced(
        self, folder: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = make_run(folder, CHUNKS)
        write_shards(folder, plan, missing={0})
        aggregate(folder, plan, OUTPUTS)
        put = folder.put

        def die_at_the_summary(key: str, data: bytes) -> str:
            if key == "summary.json":
                raise KeyboardInterrupt
            return put(key, data)

        monkeypatch.setattr(folder, "put", die_at_the_summary)
        write_shards(folder, plan)
        with pytest.raises(KeyboardInterrupt):
            aggregate(folder, plan, OUTPUTS)

        assert load_summary(folder) is None

    @pytest.mark.parametrize("data", [b"", b"{}", b'{"status": "succeeded"}', b"\xff"])
    def test_a_damaged_summary_is_a_storage_error(self, folder: FolderStore, data: bytes) -> None:
        folder.put("summary.json", data)

        with pytest.raises(StorageError, match=r"summary\.json is damaged; run again with force"):
            load_summary(folder)


_MEASURE = """
import resource, sys
from pathlib import Path
from steps.aggregate import aggregate
from steps.options import OUTPUTS
from steps.plan import Plan
from steps.store import FolderStore

store = FolderStore(Path(sys.argv[1]))
plan = Plan.model_validate_json(store.get("plan.json").data)
summary = aggregate(store, plan, OUTPUTS)
assert summary.frames.analysed == plan.planned_frames - 1, summary.frames
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(folder: Path, chunks: int) -> int:
    frames_a_chunk = 500
    store = FolderStore(folder)
    plan = make_run(
        store, [range(start, start + frames_a_chunk) for start in range(0, chunks * frames_a_chunk, frames_a_chunk)]
    )
    for chunk in plan.chunks:
        frames = range(chunk.first_frame, chunk.last_frame + 1)
        with ShardWriter(store, plan, chunk) as shard:
            for frame in frames:
                if frame == 0:
                    shard.add_missing(frame, pts_of(frame))
                else:
                    shard.add(frame, time_of(frame), pts_of(frame), detections_of(3) * 4)
            shard.finish(stats(len(frames) - (0 in frames), int(0 in frames)))
    done = subprocess.run([sys.executable, "-c", _MEASURE, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    # Both are long enough to fill row groups of the Parquet file and all buffers.
    short, long = peak_kib(tmp_path / "short", 3), peak_kib(tmp_path / "long", 30)

    assert long < short * 1.05

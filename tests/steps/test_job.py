"""The whole job on one machine: complete whatever happens to its processes, and never computed twice."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local.serving.server import ModelServer
from steps import workers
from steps.errors import InvalidTaskError, ModelUnavailableError, NotFoundError, UnsupportedError
from steps.job import GivenServer, Job, JobResult, Observer
from steps.lease import LEASE_KEY
from steps.options import Options
from steps.plan import ModelIdentity
from steps.planner import load_plan
from steps.processes import spawn
from steps.results.frames import read_frames
from steps.settings import Settings
from steps.shards import read_chunk_error
from steps.store import FolderStore, open_store
from tests.coded import CODED_PROFILE, number_read
from tests.conftest import Aws
from tests.gate import gated_server
from tests.media.bad_inputs import BadInputLibrary
from tests.media.library import ClipLibrary

CLIP = "h264_closed_gop.mp4"
FRAMES = 301


class Watcher(Observer):
    """Keeps what the job tells, and calls `reactions` by step."""

    def __init__(self, **reactions: Callable[[], object]) -> None:
        self.steps: list[str] = []
        self.progress: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self._reactions = reactions

    def begin(self, step: str) -> None:
        self.steps.append(step)
        reaction = self._reactions.pop(step, None)
        if reaction is not None:
            reaction()

    def advance(self, done: int, total: int) -> None:
        self.progress.append((self.steps[-1], done, total))

    def note(self, line: str) -> None:
        self.notes.append(line)
        reaction = self._reactions.get("note")
        if reaction is not None:
            reaction()


class NoServer:
    """For a job that has no use for one."""

    def address(self, model: ModelIdentity) -> str:
        raise AssertionError("the job asked for the model server")

    def ensure_running(self) -> None:
        raise AssertionError("the job asked for the model server")


@pytest.fixture
def settings() -> Settings:
    return Settings(model_name="coded", model_profile=str(CODED_PROFILE), decode_threads=1)


@pytest.fixture
def video(clips: ClipLibrary, tmp_path: Path) -> Path:
    """A clip of its own, that a test may change."""
    path = tmp_path / "video.mp4"
    path.write_bytes(clips[CLIP].path.read_bytes())
    return path


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "run")


@pytest.fixture
def job(video: Path, store: FolderStore, settings: Settings, coded_server: ModelServer) -> Job:
    """Every frame, in four chunks."""
    return Job(
        bucket=None,
        key=str(video),
        options=Options(fps=0, chunk_seconds=2.5, outputs=["frames"]),
        settings=settings,
        open_run=lambda run: store,
        server=GivenServer(coded_server.address, Settings()),
        processes=2,
        observer=Watcher(),
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes of chunks, in the order in which they were started."""
    processes: list[subprocess.Popen[bytes]] = []

    def spawn_and_keep(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        processes.append(spawn(*arguments, **named))
        return processes[-1]

    monkeypatch.setattr(workers, "spawn", spawn_and_keep)
    return processes


def changed(job: Job, **changes: Any) -> Job:
    return dataclasses.replace(job, **changes)


def with_options(job: Job, **options: Any) -> Job:
    return changed(job, options=job.options.model_copy(update=options))


def numbers_in_pictures(result: JobResult) -> list[int | None]:
    return [number_read(line.record) for line in read_frames(result.store)]


def assert_complete(result: JobResult) -> None:
    assert result.summary.status == "succeeded"
    assert numbers_in_pictures(result) == list(range(FRAMES))


def test_every_frame_is_analysed_by_parallel_processes(job: Job, started: list[subprocess.Popen[bytes]]) -> None:
    watcher = job.observer
    assert isinstance(watcher, Watcher)
    result = job.run()
    assert_complete(result)
    assert not result.reused
    assert watcher.steps == ["plan", "detect", "aggregate"]
    assert len(started) == len(load_plan(result.store).chunks) > 2
    detected = [(done, total) for step, done, total in watcher.progress if step == "detect"]
    assert detected[0] == (0, FRAMES)
    assert detected[-1] == (FRAMES, FRAMES)
    assert detected == sorted(detected)


def test_a_run_that_succeeded_is_found_done_without_a_model_server(job: Job) -> None:
    first = job.run()
    again = changed(job, server=NoServer()).run()
    assert again.reused
    assert again.summary == first.summary


def test_a_run_found_done_gets_the_outputs_that_it_lacks(job: Job) -> None:
    job.run()
    again = with_options(changed(job, server=NoServer()), outputs=["coco", "rekognition"]).run()
    assert again.reused
    assert set(again.summary.files) == {"frames", "coco", "rekognition"}
    assert len(json.loads(again.store.get("coco.json").data)["images"]) == FRAMES


def test_other_chunks_are_not_another_run(job: Job) -> None:
    job.run()
    assert with_options(changed(job, server=NoServer()), chunk_seconds=1.0).run().reused


def test_force_computes_all_chunks_again(job: Job, started: list[subprocess.Popen[bytes]]) -> None:
    job.run()
    chunks = len(started)
    result = changed(with_options(job, force=True), force_nonce="second").run()
    assert_complete(result)
    assert not result.reused
    assert len(started) == 2 * chunks


def test_the_same_force_goes_on_with_what_it_computed(job: Job, started: list[subprocess.Popen[bytes]]) -> None:
    forced = changed(with_options(job, force=True), force_nonce="a task")
    forced.run()
    chunks = len(started)
    assert_complete(forced.run())
    assert len(started) == chunks


@pytest.fixture
def interrupted(job: Job, started: list[subprocess.Popen[bytes]], store: FolderStore) -> list[int]:
    """A job that was interrupted when some chunks were done; gives the numbers of their frames."""

    class Interrupter(Watcher):
        def advance(self, done: int, total: int) -> None:
            if self.steps[-1] == "detect" and done > total // 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        changed(job, observer=Interrupter(), processes=1).run()
    plan = load_plan(store)
    finished = [chunk for chunk in plan.chunks if store.exists(plan.shard_key(chunk))]
    assert 0 < len(finished) < len(plan.chunks)
    return [number for chunk in finished for number in range(chunk.first_frame, chunk.last_frame + 1)]


def test_an_interrupted_job_leaves_no_process_and_no_summary(
    interrupted: list[int], started: list[subprocess.Popen[bytes]], store: FolderStore
) -> None:
    assert started
    assert all(process.returncode is not None for process in started)
    assert not store.exists("summary.json")


def test_an_interrupted_job_goes_on_with_the_chunks_that_lack(
    job: Job, interrupted: list[int], started: list[subprocess.Popen[bytes]], store: FolderStore
) -> None:
    before = len(started)
    assert_complete(job.run())
    lacking = {chunk.index for chunk in load_plan(store).chunks if chunk.first_frame not in interrupted}
    assert len(started) - before == len(lacking)


def test_a_chunk_whose_process_is_killed_is_tried_again(
    job: Job, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RETRY_SECONDS", 0.01)
    watcher = Watcher()
    with gated_server() as (backend, address):

        def kill_one() -> None:
            backend.wait_until_stuck()
            started[0].kill()
            backend.gate.set()

        with ThreadPoolExecutor(1) as pool:
            killed = pool.submit(kill_one)
            result = changed(job, server=GivenServer(address, Settings()), observer=watcher).run()
            killed.result()
    assert_complete(result)
    assert len(watcher.notes) == 1
    assert "was killed by signal 9" in watcher.notes[0]
    assert watcher.notes[0].endswith("trying again (1 of 3)")


@pytest.fixture
def broken_chunk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of the processes of the chunk with index 2, each of which is killed at once."""
    tried: list[str] = []

    def spawn_and_kill(command: list[str], **named: Any) -> subprocess.Popen[bytes]:
        process = spawn(command, **named)
        if command[command.index("--chunk") + 1] == "2":
            tried.append(" ".join(command))
            process.kill()
        return process

    monkeypatch.setattr(workers, "spawn", spawn_and_kill)
    monkeypatch.setattr(workers, "RETRY_SECONDS", 0.01)
    return tried


def test_a_chunk_that_breaks_down_for_good_gives_a_partial_result_that_says_so(
    job: Job, broken_chunk: list[str], store: FolderStore
) -> None:
    result = job.run()
    assert len(broken_chunk) == 4  # the first time and three more
    plan = load_plan(store)
    lost = plan.chunks[2]
    assert result.summary.status == "partial"
    assert [missing.model_dump() for missing in result.summary.frames.missing] == [
        {"start_frame": lost.first_frame, "end_frame": lost.last_frame, "code": "internal"}
    ]
    expected = [n for n in range(FRAMES) if not lost.first_frame <= n <= lost.last_frame]
    assert numbers_in_pictures(result) == expected
    error = read_chunk_error(store, plan, lost)
    assert error is not None
    assert "was killed by signal 9" in error.message


def test_a_partial_run_is_completed_by_the_next_one(
    job: Job, broken_chunk: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job.run().summary.status == "partial"
    monkeypatch.setattr(workers, "spawn", spawn)
    result = job.run()
    assert_complete(result)
    assert not result.reused


def test_a_video_replaced_after_planning_fails_every_chunk_once(
    job: Job, video: Path, clips: ClipLibrary, started: list[subprocess.Popen[bytes]]
) -> None:
    watcher = Watcher(detect=lambda: video.write_bytes(clips["h264_open_gop.mp4"].path.read_bytes()))
    result = changed(job, observer=watcher).run()
    assert result.summary.status == "failed"
    assert result.summary.failure is not None
    assert result.summary.failure.code == "object_changed"
    assert len(started) == len(load_plan(result.store).chunks)
    assert not result.store.exists("summary.json")


def test_a_damaged_shard_is_analysed_again(
    job: Job, store: FolderStore, started: list[subprocess.Popen[bytes]]
) -> None:
    def damage() -> None:
        plan = load_plan(store)
        path = store.folder / plan.shard_key(plan.chunks[1])
        path.write_bytes(path.read_bytes()[:-20])

    watcher = Watcher(aggregate=damage)
    result = changed(job, observer=watcher).run()
    assert_complete(result)
    assert len(started) == len(load_plan(store).chunks) + 1
    assert watcher.steps == ["plan", "detect", "aggregate", "detect", "aggregate"]


def test_what_is_not_done_at_the_time_limit_is_missing_with_the_code_timeout(
    job: Job, settings: Settings, interrupted: list[int], started: list[subprocess.Popen[bytes]]
) -> None:
    with gated_server() as (_, address):
        short = settings.model_copy(update={"job_timeout_seconds": 1.0})
        result = changed(job, server=GivenServer(address, Settings()), settings=short).run()
    assert result.summary.status == "partial"
    assert {missing.code for missing in result.summary.frames.missing} == {"timeout"}
    assert numbers_in_pictures(result) == interrupted
    assert all(process.returncode is not None for process in started)


def test_a_server_that_is_given_up_ends_the_job_and_its_processes(
    job: Job, started: list[subprocess.Popen[bytes]]
) -> None:
    class DyingServer(GivenServer):
        def ensure_running(self) -> None:
            if started:
                raise ModelUnavailableError("it ended")

    with gated_server() as (_, address), pytest.raises(ModelUnavailableError, match="it ended"):
        changed(job, server=DyingServer(address, Settings())).run()
    assert started
    assert all(process.returncode is not None for process in started)


def test_two_at_once_compute_once(job: Job, settings: Settings) -> None:
    job = changed(job, settings=settings.model_copy(update={"lease_seconds": 4.0}))
    with gated_server() as (backend, address), ThreadPoolExecutor(1) as pool:
        first = pool.submit(changed(job, server=GivenServer(address, Settings())).run)
        backend.wait_until_stuck()
        waiting = Watcher(note=backend.gate.set)
        second = changed(job, server=NoServer(), observer=waiting).run()
        assert_complete(first.result())
    assert "another process computes" in waiting.notes[0]
    assert second.reused
    assert second.summary == first.result().summary


def test_a_lease_that_was_lost_is_taken_again_and_the_work_goes_on(
    job: Job, settings: Settings, store: FolderStore
) -> None:
    def take_it_away() -> None:
        released = {"owner": "another", "seconds": 1.0, "released": True}
        store.put(LEASE_KEY, json.dumps(released).encode())

    with gated_server() as (backend, address):
        watcher = Watcher(detect=take_it_away, note=backend.gate.set)
        short = settings.model_copy(update={"lease_seconds": 1.0})
        result = changed(job, server=GivenServer(address, Settings()), settings=short, observer=watcher).run()
    assert "the lease was lost" in watcher.notes[0]
    assert_complete(result)


def test_a_video_that_is_not_there_leaves_nothing(job: Job, video: Path, store: FolderStore) -> None:
    video.unlink()
    with pytest.raises(NotFoundError, match=r"video\.mp4"):
        job.run()
    assert not store.folder.exists()


def test_a_video_that_cannot_be_planned_leaves_nothing_in_s3(
    job: Job, settings: Settings, aws: Aws, bad_inputs: BadInputLibrary
) -> None:
    aws.s3.upload_file(str(bad_inputs["encrypted.mp4"].path), aws.bucket, "video.mp4")
    runs = open_store(f"s3://{aws.bucket}/results", settings)
    with pytest.raises(UnsupportedError):
        changed(job, bucket=aws.bucket, key="video.mp4", open_run=runs.below).run()
    assert list(runs.list("")) == []


def test_a_label_that_the_model_does_not_have_is_refused_with_the_nearest(job: Job) -> None:
    with pytest.raises(InvalidTaskError, match=r"label 'bit1x' is none of the model's .* bit1"):
        dataclasses.replace(job, options=Options(labels=["bit1x"])).run()

"""Planning in a process of its own gives what planning gives, and survives what breaks that process."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from steps import planning
from steps.errors import NotAVideoError, ObjectChangedError, OutsideError, TimeLimitError
from steps.options import Options
from steps.plan import Plan
from steps.planner import make_plan
from steps.planning import PlanRequest, plan_in_process
from steps.settings import Settings
from steps.source import open_source
from steps.store import FolderStore
from tests.conftest import Aws
from tests.faults import FaultProxy
from tests.media.bad_inputs import BadInputLibrary
from tests.media.library import ClipLibrary
from tests.steps.analysis import Analyst

OPTIONS = Options(fps=7.5, labels=["read", "Ampel-Männchen 🚦", "\x00\n"])


def request_for(
    analyst: Analyst, path: Path | str, folder: Path, *, bucket: str | None = None, **changes: Any
) -> tuple[PlanRequest, FolderStore]:
    store = FolderStore(folder)
    request = PlanRequest(
        source=open_source(bucket, str(path), analyst.settings).identity,
        options=OPTIONS,
        model=analyst.model,
        store_url=store.url,
        force_nonce="",
        start_of_worker_seconds=0.5,
    )
    return request.model_copy(update=changes), store


def run(request: PlanRequest, store: FolderStore, settings: Settings) -> Plan:
    return plan_in_process(request, store, settings, lambda done, total: None)


def test_the_plan_is_the_one_that_planning_in_this_process_makes(
    analyst: Analyst, clips: ClipLibrary, tmp_path: Path
) -> None:
    path = clips["h264_open_gop.mp4"].path
    request, store = request_for(analyst, path, tmp_path / "other", force_nonce="again")
    source = open_source(None, str(path), analyst.settings)
    here = make_plan(
        source, OPTIONS, analyst.model, analyst.settings, FolderStore(tmp_path / "here"),
        force_nonce="again", start_of_worker_seconds=0.5,
    )  # fmt: skip
    there = run(request, store, analyst.settings)
    assert there.model_copy(update={"seconds": here.seconds}) == here
    assert store.get(there.table_key).data == (tmp_path / "here" / here.table_key).read_bytes()


def test_an_error_comes_back_as_what_it_was(analyst: Analyst, bad_inputs: BadInputLibrary, tmp_path: Path) -> None:
    path = bad_inputs["prose.mp4"].path
    with pytest.raises(NotAVideoError, match=r"prose\.mp4: "):
        run(*request_for(analyst, path, tmp_path / "run"), analyst.settings)
    assert not (tmp_path / "run").exists()


def test_a_video_that_was_replaced_before_it_is_planned_is_refused(
    analyst: Analyst, clips: ClipLibrary, tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(clips["h264_closed_gop.mp4"].path.read_bytes())
    request, store = request_for(analyst, path, tmp_path / "run")
    path.write_bytes(clips["h264_open_gop.mp4"].path.read_bytes())
    with pytest.raises(ObjectChangedError, match="was replaced before it was planned"):
        run(request, store, analyst.settings)


@pytest.fixture
def hanging_request(
    analyst: Analyst, aws: Aws, faults: FaultProxy, clips: ClipLibrary, tmp_path: Path
) -> tuple[PlanRequest, FolderStore]:
    """A request for a video whose reading hangs after it was opened."""
    aws.s3.upload_file(str(clips["h264_closed_gop.mp4"].path), aws.bucket, "video.mp4")
    request = request_for(analyst, "video.mp4", tmp_path / "run", bucket=aws.bucket)
    faults.inject("hang", "GET .*video.mp4", times=100)
    return request


def test_a_process_that_is_killed_fails_this_plan_and_not_this_process(
    analyst: Analyst, hanging_request: tuple[PlanRequest, FolderStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = planning.spawn

    def spawn_and_kill(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        process = spawn(*arguments, **named)
        process.kill()
        return process

    monkeypatch.setattr(planning, "spawn", spawn_and_kill)
    with pytest.raises(OutsideError, match=r"video\.mp4: planning was killed by signal 9: it said nothing"):
        run(*hanging_request, analyst.settings)


def test_a_process_that_hangs_is_ended_at_the_time_limit(
    analyst: Analyst, hanging_request: tuple[PlanRequest, FolderStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "GRACE_SECONDS", 0.0)
    settings = analyst.settings.model_copy(update={"plan_timeout_seconds": 0.5})
    with pytest.raises(TimeLimitError, match=r"video\.mp4: planning took over 0\.5 s"):
        run(*hanging_request, settings)

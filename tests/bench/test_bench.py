import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.__main__ import NAMES, bench, run_bench
from bench.agreement import Agreement, detected_lines, line_differences, picture_differences
from bench.cases import NULL, SD, Case, Effort, Setup, coded, plan_run
from bench.children import model_server, step_environment, two_cores
from bench.clips import SD_FRAMES, sd_clip
from bench.report import Report
from bench.stages import Stages
from bench.throughput import CpuPerFrame, Repetition, Throughput
from steps.picture import PictureScaler
from steps.planner import load_plan
from steps.store import FolderStore

TINY = Effort("tiny", repetitions=2, run_seconds=0.1, checked_frames=3, memory_frames=10, starts=1)


def test_a_wrong_picture_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = coded(64).write_profile(tmp_path)
    run = plan_run(tmp_path / "run", sd_clip(tmp_path, 1), profile, frames=11)
    with model_server("coded") as server:
        environment = step_environment(server, profile)
        lines = detected_lines(run, environment)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        right = Stages(run).check()
        monkeypatch.setattr(PictureScaler, "write", changing_one_pixel(of_frame=9))
        wrong = Stages(run).check()

    assert len(lines) == 11
    assert picture_differences(lines, right["crcs"]) == line_differences(lines, right["lines"]) == []
    for differences in (picture_differences(lines, wrong["crcs"]), line_differences(lines, wrong["lines"])):
        assert [difference.partition(":")[0] for difference in differences] == ["frame 9"]


def test_a_frame_too_few_is_found(tmp_path: Path) -> None:
    assert line_differences([], ["{}"]) == ["detect wrote 0 frames, its stages give 1"]
    assert picture_differences([], [1]) == ["detect wrote 0 frames, its stages give 1"]


def changing_one_pixel(of_frame: int) -> Any:
    write = PictureScaler.write
    written = 0

    def write_and_change(self: PictureScaler, frame: Any, place: Any) -> None:
        nonlocal written
        write(self, frame, place)
        if written == of_frame:
            place[0, 0, 0] ^= 1
        written += 1

    return write_and_change


def test_where_outputs_disagree_nothing_is_measured_and_the_status_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.__main__.check_cases", lambda _: [Agreement("432p", "ssd", 3, ["frame 2: differs"])])
    result = CliRunner().invoke(bench, ["--only", "throughput", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "432p, ssd: frame 2: differs" in result.output
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["outputs_agree"] is False
    assert document["agreement"][0]["differences"] == ["frame 2: differs"]
    assert document["throughput"] == []


def test_the_json_holds_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.clips.HD_FRAMES", 10)
    setup = Setup(tmp_path, TINY, lambda _: None, (Case(SD, NULL, 100),))
    report = run_bench(setup, NAMES, Console(file=io.StringIO()))
    document = json.loads((tmp_path / "bench.json").read_text())

    assert document == json.loads(json.dumps(report.document()))
    assert document["outputs_agree"] is True
    assert document["agreement"] == [{"clip": "432p", "model": "null", "frames": 3, "differences": []}]
    assert {"cpu", "cores", "platform", "python", "ffmpeg", "packages"} <= document["system"].keys()
    assert len(document["throughput"]) == (0 if two_cores() is None else 1)
    for case in document["throughput"]:
        assert case["frames"] == 10
        assert [set(one) for one in case["repetitions"]] == [
            {"detect_fps", "decode_and_scale_fps", "server_fps", "ratio"}
        ] * TINY.repetitions
        assert case["cpu_ms_per_frame"].keys() >= {"decode", "scale", "request", "write", "rest", "detect"}
        assert case["cpu_ms_per_frame"]["decode"] > 0
        assert case["cpu_ms_per_frame"]["scale"] > 0
    for read in document["bytes_read"]:
        assert read["plan_bytes"] > read["object_bytes"] > read["aggregate_bytes"] > 0
        assert read["total_bytes"] == read["plan_bytes"] + read["detect_bytes"] + read["aggregate_bytes"]
    assert [read["clip"].rpartition(".")[2] for read in document["bytes_read"]] == ["mp4", "ts"]
    assert document["memory"]["short_bytes"] > 10_000_000
    assert [start["command"] for start in document["start"]] == [
        f"reelscan {name}" for name in ("--help", "plan", "detect", "aggregate", "finish")
    ]
    for figure in (*document["throughput"], *document["bytes_read"], document["memory"], *document["start"]):
        assert isinstance(figure["reached"], bool)
        assert figure["goal"] > 0


def test_a_figure_under_its_goal_is_shown_as_such() -> None:
    def throughput(detect_fps: float) -> Throughput:
        rounds = [Repetition(detect_fps, 100.0, 1000.0), Repetition(1.0, 1000.0, 100.0), Repetition(99.0, 100.0, 200.0)]
        return Throughput("432p", "null", 10, rounds, CpuPerFrame(1, 1, 1, 1, 1, 5, 1.0, 0.5), 0.0)

    assert throughput(90.0).ratios == [0.01, 0.9, 0.99]
    assert throughput(90.0).document()["reached"] is True
    assert throughput(89.9).document()["reached"] is False
    assert throughput(90.0).limit == "decode and scale"
    shown = Console(width=120, record=True, file=io.StringIO())
    Report("tiny", throughputs=[throughput(89.9)]).show(shown)
    row = next(line for line in shown.export_text().splitlines() if "0.01 to 0.99" in line)
    assert row.split()[-2] == "no"


def test_on_one_core_it_says_that_frames_per_second_cannot_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.__main__.two_cores", lambda: None)
    shown = Console(width=200, record=True, file=io.StringIO())
    report = run_bench(Setup(tmp_path, TINY, lambda _: None, ()), ("throughput",), shown)
    report.show(shown)
    assert "throughput: not measured, processes cannot be pinned here to two cores" in shown.export_text()


def test_a_repeated_clip_has_every_frame_as_often(tmp_path: Path) -> None:
    run = plan_run(tmp_path / "run", sd_clip(tmp_path, 2 * SD_FRAMES), NULL.write_profile(tmp_path))
    plan = load_plan(FolderStore(run))
    assert plan.planned_frames == 2 * SD_FRAMES
    assert plan.video.fps == pytest.approx(10, rel=1e-3)
    assert plan.access == "seek"

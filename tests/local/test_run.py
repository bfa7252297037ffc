"""`reelscan run` as a process: results, going on after a stop, exit statuses."""

from __future__ import annotations

import gzip
import json
import re
import signal
from pathlib import Path

import pytest

from local.runner import Video, parse_video
from local.serving.server import ModelServer
from steps.errors import NotFoundError, UsageError
from steps.planner import load_plan
from steps.store import FolderStore
from tests.coded import CODED_PROFILE
from tests.conftest import Aws
from tests.gate import gated_server
from tests.local.command import children_of, finish, reelscan, runs, started, wait_until
from tests.media.bad_inputs import BadInputLibrary
from tests.media.library import ClipLibrary

CLIP = "h264_closed_gop.mp4"
FRAMES = 301
CODED = ("--model-path", "coded", "--outputs", "frames")


def analysed(folder: Path) -> list[int]:
    with gzip.open(folder / "frames.jsonl.gz", "rt") as lines:
        return [json.loads(line)["frame"] for line in lines]


def test_a_file_is_analysed_with_a_server_of_its_own_and_the_paths_of_the_results_are_printed(
    clips: ClipLibrary, tmp_path: Path
) -> None:
    done = reelscan("run", str(clips[CLIP].path), "--fps", "0", *CODED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out/h264_closed_gop"
    assert analysed(folder) == list(range(FRAMES))
    for name in ("frames.jsonl.gz", "summary.json"):
        assert str(folder / name) in done.stdout
        assert (folder / name).is_file()
    assert f"{FRAMES} frames, of which {FRAMES} analysed" in done.stdout
    assert re.search(rf"^read +{FRAMES} +{FRAMES} +1.00 at 0.0 s +0.0 s to 10.0 s", done.stdout, re.MULTILINE)
    assert f"analysing frames: {FRAMES} of {FRAMES} frames" in done.stderr


def test_running_again_reads_no_frame(clips: ClipLibrary, tmp_path: Path) -> None:
    arguments = ("run", str(clips[CLIP].path), "--fps", "1", "--out", "mine", *CODED)
    first, again = (reelscan(*arguments, cwd=tmp_path) for _ in range(2))
    assert "nothing had to be computed" not in first.stdout
    assert "nothing had to be computed" in again.stdout
    assert "analysing" not in again.stderr


def test_another_model_is_another_run(clips: ClipLibrary, tmp_path: Path) -> None:
    path = str(clips["h264_one_frame.mp4"].path)
    for model in ("coded", "null"):
        done = reelscan(
            "run", path, "--out", "mine", "--force", "--model-path", model, "--outputs", "frames", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "mine/summary.json").read_text())["model"]["name"] == model


def test_results_of_other_options_are_kept_unless_forced(clips: ClipLibrary, tmp_path: Path) -> None:
    arguments = ("run", str(clips[CLIP].path), "--model-path", "coded", "--outputs", "frames")
    reelscan(*arguments, "--out", "mine", "--fps", "1", cwd=tmp_path)
    before = (tmp_path / "mine/summary.json").read_bytes()
    for bad in (("--fps", "2"), ("--start", "1000")):
        done = reelscan(*arguments, "--out", "mine", *bad, cwd=tmp_path)
        assert done.returncode == 2
        assert "holds results of another video or of other options" in done.stderr
    assert (tmp_path / "mine/summary.json").read_bytes() == before


def test_without_a_folder_named_each_video_and_set_of_options_has_its_own(clips: ClipLibrary, tmp_path: Path) -> None:
    arguments = ("run", str(clips[CLIP].path), "--model-path", "coded", "--outputs", "frames")
    for fps in ("1", "2", "1"):
        assert reelscan(*arguments, "--fps", fps, cwd=tmp_path).returncode == 0
    assert sorted(len(analysed(folder)) for folder in (tmp_path / "out").iterdir()) == [11, 21]


def test_results_of_other_options_are_replaced_if_forced_and_nothing_else_is(
    clips: ClipLibrary, tmp_path: Path
) -> None:
    arguments = ("run", str(clips[CLIP].path), "--out", "mine", "--model-path", "coded")
    reelscan(*arguments, "--fps", "1", cwd=tmp_path)
    (tmp_path / "mine/notes.txt").write_text("mine")
    before = {path.name for path in (tmp_path / "mine/chunks").iterdir()}
    done = reelscan(*arguments, "--fps", "2", "--outputs", "frames", "--force", cwd=tmp_path)
    assert f"{tmp_path}/mine/ holds results of another video or of other options; they are replaced" in done.stderr
    assert len(analysed(tmp_path / "mine")) == 21
    assert {path.name for path in (tmp_path / "mine").iterdir() if not path.name.startswith(".")} == {
        "chunks", "frames.jsonl.gz", "lease.json", "notes.txt", "plan.json", "summary.json",
    }  # fmt: skip
    assert before.isdisjoint(path.name for path in (tmp_path / "mine/chunks").iterdir())


def test_a_video_in_s3_is_analysed(aws: Aws, clips: ClipLibrary, tmp_path: Path) -> None:
    aws.s3.upload_file(str(clips[CLIP].path), aws.bucket, "a folder/clip.mp4")
    done = reelscan("run", f"s3://{aws.bucket}/a folder/clip.mp4", "--fps", "1", *CODED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(analysed(tmp_path / "out/clip")) == 11


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_leaves_no_process_and_the_same_command_goes_on(
    number: signal.Signals, status: int, clips: ClipLibrary, tmp_path: Path
) -> None:
    with gated_server(free=12) as (backend, address):
        arguments = ("run", str(clips[CLIP].path), "--fps", "0", "--out", "mine", "--outputs", "frames")
        arguments += ("--serving", address, "--model", "coded", "--model-profile", str(CODED_PROFILE))
        arguments += ("--chunk-seconds", "2", "--jobs", "1")
        with started(*arguments, cwd=tmp_path) as process:
            backend.wait_until_stuck()
            children = children_of(process.pid)
            process.send_signal(number)
            ended, _, errors = finish(process)
        assert ended == status, errors
        assert "the same command goes on from there" in errors
        assert "Traceback" not in errors
        assert children
        assert not [pid for pid in children if runs(pid)]
        store = FolderStore(tmp_path / "mine")
        plan = load_plan(store)
        finished = [path for chunk in plan.chunks if (path := tmp_path / "mine" / plan.shard_key(chunk)).exists()]
        assert 0 < len(finished) < len(plan.chunks)
        written = [path.stat().st_mtime_ns for path in finished]
        backend.gate.set()
        done = reelscan(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert analysed(tmp_path / "mine") == list(range(FRAMES))
    assert [path.stat().st_mtime_ns for path in finished] == written


def test_the_embedded_server_ends_with_the_command(clips: ClipLibrary, tmp_path: Path) -> None:
    with started("run", str(clips[CLIP].path), "--fps", "0", *CODED, cwd=tmp_path) as process:
        wait_until(lambda: bool(children_of(process.pid)), "a child")
        children = children_of(process.pid)
        status, _, errors = finish(process)
    assert status == 0, errors
    assert not [pid for pid in children if runs(pid)]


def test_frames_that_cannot_be_decoded_give_a_partial_result_and_status_5(clips: ClipLibrary, tmp_path: Path) -> None:
    done = reelscan("run", str(clips["h264_broken_middle.mp4"].path), "--fps", "0", *CODED, cwd=tmp_path)
    assert done.returncode == 5
    assert re.search(r"reelscan: \d+ of \d+ planned frames could not be analysed; .*summary.json", done.stderr)
    assert str(tmp_path / "out/h264_broken_middle/frames.jsonl.gz") in done.stdout


@pytest.mark.parametrize("name", ["prose.mp4", "encrypted.mp4", "huge.mp4", "empty.mp4"])
def test_a_video_that_cannot_be_analysed_is_status_3_and_leaves_nothing(
    name: str, bad_inputs: BadInputLibrary, tmp_path: Path
) -> None:
    done = reelscan("run", str(bad_inputs[name].path), *CODED, cwd=tmp_path)
    assert done.returncode == 3
    assert re.fullmatch(rf"reelscan: .*{name}: .*", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nowhere.mp4",), 3, "nowhere.mp4: does not exist"),
        (("https://example.com/a.mp4",), 2, "only a file or s3://BUCKET/KEY"),
        (("s3://bucket",), 2, "expected s3://BUCKET/KEY"),
        ((__file__, "--fps", "fast"), 2, "--fps: 'fast' is not a number"),
        ((__file__, "--outputs", "film"), 2, "--outputs: 'film' is not known"),
        ((__file__, "--fps", "-1.0"), 2, "--fps: '-1.0' is not allowed; allowed is a number from 0 to 1000"),
        ((__file__, "--end", "1", "--start", "2"), 2, "--end 1 is not after --start 2"),
        ((__file__, "--serving", "nonsense"), 2, "serving address 'nonsense' is not HOST:PORT"),
        ((__file__, "--serving", "host:many"), 2, "serving address 'host:many' is not HOST:PORT"),
        ((__file__, "--serving", "host:65536"), 2, "serving address 'host:65536' is not HOST:PORT"),
        ((__file__, "--serving", "no..host:8500"), 2, "'no..host:8500': there is no such host"),
        ((__file__, "--model-profile", "nowhere.json"), 2, "model profile 'nowhere.json' is no file"),
        ((__file__, "--serving", "h:1", "--model-path", "hog"), 2, "leave one out"),
        ((__file__, "--jobs", "-1"), 2, "--jobs"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments: tuple[str, ...], status: int, said: str, tmp_path: Path) -> None:
    done = reelscan("run", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 2  # the step that was begun, and the error
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_served_is_told(clips: ClipLibrary, tmp_path: Path) -> None:
    done = reelscan("run", str(clips[CLIP].path), "--model-path", "nowhere.tflite", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.tflite" in done.stderr.splitlines()[-1]


def test_a_wrong_address_of_a_server_is_told_before_the_video_is_read(tmp_path: Path) -> None:
    done = reelscan("run", __file__, "--serving", "nonsense", cwd=tmp_path)
    assert done.stderr.splitlines() == [
        "reelscan: serving address 'nonsense' is not HOST:PORT of a gRPC port, such as 127.0.0.1:8500"
    ]


def test_a_server_without_a_model_profile_is_told_with_what_is_assumed(
    clips: ClipLibrary, tmp_path: Path, coded_server: ModelServer
) -> None:
    arguments = ("run", str(clips["h264_one_frame.mp4"].path), "--outputs", "frames")
    arguments += ("--serving", coded_server.address, "--model", "coded")
    without = reelscan(*arguments, "--out", "without", cwd=tmp_path)
    assert "no model profile is set" in without.stderr.splitlines()[0]
    assert "--model-profile or REELSCAN_MODEL_PROFILE" in without.stderr.splitlines()[0]
    with_profile = reelscan(*arguments, "--out", "with", "--model-profile", str(CODED_PROFILE), cwd=tmp_path)
    assert with_profile.returncode == 0, with_profile.stderr
    assert "profile" not in with_profile.stderr


def test_a_server_that_is_not_there_is_told_once_its_time_is_up(
    clips: ClipLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELSCAN_READY_TIMEOUT_SECONDS", "0.5")
    done = reelscan("run", str(clips[CLIP].path), "--serving", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 4
    assert "was not available within 0.5 s" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("video.mp4", "video"),
        ("a/b/clip.one.mkv", "clip.one"),
        ("../../etc/passwd", "passwd"),
        ("a/..", "video"),
        ("a/.hidden", "hidden"),
        ("a/new\nline {{x}}.mp4", "new_line_x"),
        ("Straße 🚦.mp4", "Straße"),
        ("x" * 1000 + ".mp4", "x" * 100),
        ("a\\..\\b.mp4", "b"),
    ],
)
def test_the_folder_of_the_results_is_named_after_the_video_whatever_that_is_called(key: str, name: str) -> None:
    assert Video("bucket", key).name == name


def test_an_address_in_s3_is_bucket_and_key() -> None:
    assert parse_video("s3://bucket/a//b c.mp4") == Video("bucket", "a//b c.mp4")


@pytest.mark.parametrize("text", ["s3://", "s3://bucket/", "http://x/y", "file:///x"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_video(text)


def test_a_file_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        parse_video("nowhere.mp4")

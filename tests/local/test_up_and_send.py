"""`reelscan up` and `reelscan send` as processes."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gate import gated_server
from tests.local.command import children_of, finish, reelscan, runs, started
from tests.local.conftest import Deployment
from tests.media.bad_inputs import BadInputLibrary
from tests.media.library import ClipLibrary

CLIP = "h264_closed_gop.mp4"


def read_until(process: subprocess.Popen[str], prefix: str) -> str:
    """The rest of the first line of its stdout that starts so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(prefix):
            return line.removeprefix(prefix).strip()
    raise AssertionError(f"no line {prefix!r}; its errors: {process.stderr and process.stderr.read()}")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port of a service with S3, SQS and a model server of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("AWS_", "REELSCAN_")):
                patch.delenv(name)
        with started("up", "--port", "0", "--model-path", "coded", cwd=tmp_path_factory.mktemp("up")) as process:
            port = read_until(process, "send a task  reelscan send --port ").split()[0]
            yield port
            process.send_signal(signal.SIGTERM)
            status, _, errors = finish(process)
    assert status == 143, errors
    assert "Traceback" not in errors


def test_a_file_is_sent_to_the_embedded_service_and_its_outcome_printed(embedded: str, clips: ClipLibrary) -> None:
    done = reelscan("send", "--port", embedded, "--wait", "--fps", "1", "--id", "mine", str(clips[CLIP].path))
    assert done.returncode == 0, done.stderr
    said = dict(re.findall(r"^(\w+) +(.*)$", done.stdout, re.MULTILINE))
    assert said["status"] == "succeeded"
    assert said["frames"] == "11 of 11 analysed"
    assert "read 11" in said["found"]
    assert re.fullmatch(r"s3://results-bucket/reelscan/[0-9a-f]{32}/", said["results"])


def test_several_outcomes_are_a_table_and_the_worst_decides_the_exit_status(
    embedded: str, clips: ClipLibrary, bad_inputs: BadInputLibrary
) -> None:
    videos = [str(clips["h264_one_frame.mp4"].path), str(bad_inputs["prose.mp4"].path), "s3://task-data-bucket/none"]
    done = reelscan("send", "--port", embedded, "--wait", *videos)
    assert done.returncode == 3
    for word in ("succeeded", "failed", "not_a_video", "not_found"):
        assert word in done.stdout
    assert "2 of 3 tasks did not succeed" in done.stderr.splitlines()[-1]


def test_results_are_copied_to_the_folder_named(embedded: str, clips: ClipLibrary, tmp_path: Path) -> None:
    arguments = ("send", "--port", embedded, "--wait", "--fps", "1", "--outputs", "frames,coco", "--out")
    done = reelscan(*arguments, str(tmp_path / "mine"), str(clips[CLIP].path))
    assert done.returncode == 0, done.stderr
    assert f"copied    {tmp_path}/mine/" in done.stdout
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"frames.jsonl.gz", "coco.json", "summary.json"}
    with gzip.open(tmp_path / "mine/frames.jsonl.gz", "rt") as lines:
        assert len(list(lines)) == 11
    # The same task again may replace them, another one not.
    assert reelscan(*arguments, str(tmp_path / "mine"), str(clips[CLIP].path)).returncode == 0
    before = (tmp_path / "mine/summary.json").read_bytes()
    other = reelscan(*arguments, str(tmp_path / "mine"), "--min-score", "0.6", str(clips[CLIP].path))
    assert other.returncode == 2
    assert "holds results of another video or of other options" in other.stderr
    assert (tmp_path / "mine/summary.json").read_bytes() == before


def test_results_of_several_videos_are_copied_to_a_folder_each_and_a_failure_has_none(
    embedded: str, clips: ClipLibrary, bad_inputs: BadInputLibrary, tmp_path: Path
) -> None:
    one = str(clips["h264_one_frame.mp4"].path)
    videos = [one, one, str(clips["h264_broken_middle.mp4"].path), str(bad_inputs["prose.mp4"].path)]
    done = reelscan("send", "--port", embedded, "--wait", "--outputs", "frames", "--out", "all", *videos, cwd=tmp_path)
    assert done.returncode == 3
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "h264_one_frame", "h264_one_frame-2", "h264_broken_middle",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "all/h264_broken_middle").iterdir()} == {
        "frames.jsonl.gz", "missing.jsonl.gz", "summary.json",
    }  # fmt: skip


def test_a_single_task_that_failed_shows_why_on_stdout(embedded: str, bad_inputs: BadInputLibrary) -> None:
    done = reelscan("send", "--port", embedded, "--wait", str(bad_inputs["prose.mp4"].path))
    assert done.returncode == 3
    said = dict(re.findall(r"^(\w+) +(.*)$", done.stdout, re.MULTILINE))
    assert said["status"] == "failed"
    assert re.fullmatch(r"not_a_video: .*prose\.mp4: .*", said["error"])


def test_frames_that_cannot_be_decoded_are_status_5(embedded: str, clips: ClipLibrary) -> None:
    done = reelscan("send", "--port", embedded, "--wait", "--fps", "0", str(clips["h264_broken_middle.mp4"].path))
    assert done.returncode == 5
    assert "partial" in done.stdout


def test_without_wait_the_task_ids_are_printed(embedded: str) -> None:
    done = reelscan("send", "--port", embedded, "s3://task-data-bucket/a", "s3://task-data-bucket/b\x1b[31m")
    assert done.returncode == 0
    assert re.fullmatch(
        r"[0-9a-f-]{36} s3://task-data-bucket/a\n[0-9a-f-]{36} s3://task-data-bucket/b\\x1b\[31m\n", done.stdout
    )


def test_a_wait_that_ends_too_soon_is_status_4(embedded: str, clips: ClipLibrary) -> None:
    arguments = ("send", "--port", embedded, "--wait", "--timeout", "0", "--fps", "0", "--force")
    done = reelscan(*arguments, str(clips["h264_long_gop.mp4"].path))
    assert done.returncode == 4
    assert "not reported within 0 s" in done.stderr.splitlines()[-1]


def test_a_second_service_on_the_same_port_is_refused(embedded: str) -> None:
    done = reelscan("up", "--port", embedded)
    assert done.returncode == 2
    assert f"port {embedded} of 127.0.0.1 is taken" in done.stderr


def test_sending_without_a_service_says_how_to_start_one() -> None:
    done = reelscan("send", "--port", "1", "s3://b/k")
    assert done.returncode == 4
    assert "start `reelscan up`" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("s3://b/k", "--fps", "x"), ("s3://b",), ("s3://b/k", "--timeout", "-1"), ("s3://b/k", "--out", "mine")],
)
def test_wrong_usage_of_send_is_status_2(arguments: tuple[str, ...], deployment: Deployment) -> None:
    done = reelscan("send", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_once_ends_when_the_queue_is_empty(deployment: Deployment, clips: ClipLibrary, tmp_path: Path) -> None:
    for _ in range(2):
        deployment.send_task(deployment.upload(clips["h264_one_frame.mp4"].path))
    deployment.send("not JSON")
    done = reelscan("up", "--once", "--model-path", "coded", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(message.status for message in deployment.completed()) == ["failed", "succeeded", "succeeded"]
    assert deployment.waiting() == (0, 0)
    assert str(deployment.settings.task_queue) in done.stdout


def test_a_deployment_without_results_is_told_what_to_set(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REELSCAN_RESULTS")
    done = reelscan("up", "--once", "--model-path", "coded")
    assert done.returncode == 2
    assert "REELSCAN_RESULTS" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REELSCAN_TASK_QUEUE", "no-such-queue"),
        ("REELSCAN_COMPLETED_QUEUE", "no-such-queue"),
        ("REELSCAN_DEAD_LETTER_QUEUE", "no-such-queue"),
        ("REELSCAN_RESULTS", "s3://no-such-bucket/reelscan"),
    ],
)
def test_a_place_that_does_not_exist_is_told_at_the_start(
    variable: str, value: str, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    done = reelscan("up", "--once", "--model-path", "coded")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert value in line
    assert variable in line
    assert done.stdout == ""


def test_a_wrong_variable_of_an_option_is_told_at_the_start(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELSCAN_FPS", "often")
    done = reelscan("up", "--once")
    assert done.returncode == 2
    assert "REELSCAN_FPS" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_in_mid_task_leaves_its_message_on_the_queue_and_no_process(
    number: signal.Signals, status: int, deployment: Deployment, clips: ClipLibrary
) -> None:
    message_id = deployment.send_task(deployment.upload(clips[CLIP].path), fps=1)
    with gated_server() as (backend, address):
        with started("up", "--serving", address) as process:
            backend.wait_until_stuck()
            children = children_of(process.pid)
            process.send_signal(number)
            ended, _, errors = finish(process)
        assert ended == status, errors
        assert "Traceback" not in errors
        assert children
        assert not [pid for pid in children if runs(pid)]
        assert deployment.waiting() == (1, 0)
        assert deployment.completed() == []
        backend.gate.set()
        done = reelscan("up", "--once", "--serving", address)
    assert done.returncode == 0, done.stderr
    (completed,) = deployment.completed()
    assert (completed.task_id, completed.status) == (message_id, "succeeded")


def test_an_idle_service_stops_at_once_on_sigterm(deployment: Deployment) -> None:
    with started("up", "--model-path", "coded") as process:
        read_until(process, "send a task")
        children = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        status, _, errors = finish(process)
    assert status == 143, errors
    assert not [pid for pid in children if runs(pid)]


def test_send_uses_the_deployments_queue(deployment: Deployment) -> None:
    done = reelscan("send", f"s3://{deployment.aws.bucket}/k", "--priority", "3")
    assert done.returncode == 0, done.stderr
    (message,) = deployment.aws.messages(str(deployment.settings.task_queue))
    assert json.loads(message["Body"]) == {"bucket": deployment.aws.bucket, "object": "k", "priority": 3}
    assert done.stdout.split()[0] == message["MessageId"]

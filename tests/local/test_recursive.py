"""`reelscan send --recursive`: what is sent, waited for and shown of many tasks."""

from __future__ import annotations

import io
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from local import sender, waiting
from local.aws import TASK_DATA_BUCKET, embedded_environment
from local.batch import print_batch
from local.counting import Counting
from local.sender import make_tasks, send_tasks, wait_for_tasks
from local.view import PLAIN_LINE_SECONDS
from local.waiting import wait_and_print
from steps.completed import Completed
from steps.errors import QueueError, TimeLimitError
from tests.faults import FaultProxy
from tests.local.command import reelscan
from tests.local.conftest import Deployment
from tests.local.test_listing import ODD_KEYS, put
from tests.local.test_sender import PARTIAL, completed, failed
from tests.local.test_up_and_send import embedded
from tests.media.library import ClipLibrary

__all__ = ["embedded"]


class TestSending:
    def tasks(self, deployment: Deployment, count: int) -> list[Any]:
        return make_tasks([f"s3://b1/{number}" for number in range(count)], {}, "batch", deployment.settings, None)

    def test_many_tasks_are_sent_ten_at_a_time(self, deployment: Deployment, faults: FaultProxy) -> None:
        tasks = self.tasks(deployment, 25)
        told: list[int] = []
        ids = send_tasks(tasks, deployment.settings, told.append)

        sent = {message["MessageId"]: message["Body"] for message in self.messages(deployment)}
        assert [sent[task_id] for task_id in ids] == [task.to_message() for task in tasks]
        assert told == [10, 20, 25]
        assert faults.count("SendMessageBatch") == 3

    def test_a_failure_halfway_says_how_many_were_sent(self, deployment: Deployment, faults: FaultProxy) -> None:
        settings = deployment.settings.model_copy(update={"queue_timeout_seconds": 3})

        def fail_from_now_on(sent: int) -> None:
            faults.inject("throttle", "SendMessageBatch", times=100)

        with pytest.raises(QueueError, match="10 of 25 tasks were sent before: send all again"):
            send_tasks(self.tasks(deployment, 25), settings, fail_from_now_on)
        assert len(self.messages(deployment)) == 10

    def messages(self, deployment: Deployment) -> list[dict[str, Any]]:
        return deployment.aws.messages(str(deployment.settings.task_queue))


class TestWaiting:
    def report(self, deployment: Deployment, *outcomes: Completed) -> None:
        ledger = deployment.ledger()
        for outcome in outcomes:
            ledger.store.put(f"{outcome.task_id}.1.completed.json", outcome.to_bytes())

    def test_thousands_are_asked_for_in_rounds_until_each_is_reported(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sender, "ASKED_A_ROUND", 4)
        ids = [f"t{number}" for number in range(30)]
        late = ids[:7]
        self.report(deployment, *(completed(task_id) for task_id in ids if task_id not in late))
        pauses: list[float] = []

        def report_one(seconds: float) -> None:
            pauses.append(seconds)
            if late:
                self.report(deployment, completed(late.pop()))

        monkeypatch.setattr(sender.time, "sleep", report_one)
        told: list[str] = []
        reported = wait_for_tasks(
            ids, deployment.settings, timeout_seconds=3600, told=lambda one: told.append(one.task_id)
        )
        assert set(reported) == set(ids)
        assert sorted(told) == sorted(ids)
        assert max(pauses) <= sender.LONGEST_POLL_SECONDS

    def test_a_round_asks_for_no_more_than_its_share(
        self, deployment: Deployment, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sender, "ASKED_A_ROUND", 4)
        asked: list[int] = []

        def stop(seconds: float) -> None:
            asked.append(faults.count(r"GET .*completed\.json"))
            if len(asked) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(sender.time, "sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            wait_for_tasks(
                [f"t{number}" for number in range(30)],
                deployment.settings,
                timeout_seconds=3600,
                told=lambda one: None,
            )
        assert asked == [4, 8, 12]

    def test_the_last_round_misses_none(self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sender, "ASKED_A_ROUND", 4)
        ids = [f"t{number}" for number in range(30)]
        self.report(deployment, *(completed(task_id) for task_id in ids[1:]))
        told: list[str] = []
        with pytest.raises(TimeLimitError, match="1 of 30 tasks were not reported within 0 s, among them t0"):
            wait_for_tasks(ids, deployment.settings, timeout_seconds=0, told=lambda one: told.append(one.task_id))
        assert len(told) == 29

    def test_the_records_of_frames_are_not_kept(self, deployment: Deployment) -> None:
        self.report(deployment, completed(frame_records=[{"frame": 0}]))
        reported = wait_for_tasks(["t"], deployment.settings, timeout_seconds=0, told=lambda one: None)
        assert reported["t"].frame_records is None

    def test_many_tasks_end_with_counts_and_those_that_did_not_succeed(
        self, deployment: Deployment, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ids = [f"t{number}" for number in range(waiting.FEW_TASKS + 1)]
        outcomes = [completed(task_id, detections_by_label={"person": 2}) for task_id in ids[1:]]
        self.report(deployment, failed("not_a_video", "t0"), *outcomes)
        assert [one.task_id for one in wait_and_print(ids, deployment.settings, 0, "batch-1")] == ids
        said = capsys.readouterr()
        assert "id        batch-1\ntasks     21 of 21 done: 20 succeeded, 0 partial, 1 failed\n" in said.out
        assert "found     person 40\n" in said.out
        assert re.search(r"s3://b/o +failed +not_a_video +because", said.out)
        lines = said.err.splitlines()
        assert lines[0].startswith("waiting for 21 tasks: 0 done: ")
        assert lines[-1] == "waiting for 21 tasks: 21 done: 20 succeeded, 0 partial, 1 failed"

    def test_a_wait_for_many_that_ends_too_soon_shows_what_is_known(
        self, deployment: Deployment, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.report(deployment, completed("t0"))
        with pytest.raises(TimeLimitError):
            wait_and_print([f"t{number}" for number in range(21)], deployment.settings, 0)
        assert "tasks     1 of 21 done: 1 succeeded" in capsys.readouterr().out


class TestSummary:
    def text(self, *outcomes: Completed) -> str:
        file = io.StringIO()
        print_batch(Console(file=file, width=200), outcomes, len(outcomes), 61.5, None)
        return file.getvalue()

    def test_frames_and_labels_are_added_up_and_the_most_found_named(self) -> None:
        labels = {f"label{number}": number for number in range(1, 13)}
        text = self.text(completed(detections_by_label=labels), completed(detections_by_label=labels), PARTIAL)
        assert "frames    27 analysed\n" in text
        assert "found     label12 24, label11 22, " in text
        assert "label3 6, and 2 labels more\n" in text
        assert "seconds   61.5\n" in text

    def test_of_many_failures_the_first_are_listed_and_the_rest_counted(self) -> None:
        text = self.text(*(failed("timeout", f"t{number}") for number in range(23)))
        assert text.count("timeout") == 20
        assert text.endswith("and 3 more\n")

    def test_a_partial_result_says_how_many_frames_it_has(self) -> None:
        missing = [
            {"start_frame": 1, "end_frame": 2, "code": "not_decodable"},
            {"start_frame": 5, "end_frame": 5, "code": "timeout"},
        ]
        frames = {"planned": 10, "analysed": 7, "missing": missing}
        text = self.text(completed(status="partial", frames=frames))
        assert re.search(r"partial +not_decodable, timeout +7 of 10 frames analysed", text)

    def test_a_name_does_not_steer_the_terminal(self) -> None:
        assert "\x1b" not in self.text(completed(status="partial", task={"bucket": "b", "object": "\x1b[31m"}))


class TestCounting:
    def lines(self, *reports: tuple[float, int], after_seconds: float = 1.0) -> list[str]:
        """What is shown where there is no terminal, of reports at times from the start on."""
        file, now = io.StringIO(), [0.0]
        with Counting(Console(file=file), after_seconds=after_seconds, clock=lambda: now[0]) as counting:
            for now[0], done in reports:
                counting.update("sending", done, 100, f"{done} sent")
        return file.getvalue().splitlines()

    def test_what_is_over_in_a_second_is_not_shown(self) -> None:
        assert self.lines((0.0, 0), (0.9, 100)) == []

    def test_a_line_is_shown_at_most_every_few_seconds_and_the_last_one_always(self) -> None:
        late = 1.1 + PLAIN_LINE_SECONDS
        assert self.lines((0.5, 1), (1.1, 2), (1.2, 3), (late, 4), (late + 0.1, 100)) == [
            "sending: 2 sent", "sending: 4 sent", "sending: 100 sent",
        ]  # fmt: skip

    def test_a_terminal_has_a_bar_that_is_gone_at_the_end(self) -> None:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=100, _environ={})
        with Counting(console, after_seconds=0) as counting:
            counting.update("sending \x1b[31m", 50, 100, "50 of 100 tasks")
        assert "50 of 100 tasks" in file.getvalue()
        assert "\x1b[31m" not in file.getvalue().replace("\\x1b[31m", "")


def told_besides_progress(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines on stderr: progress is told of what takes longer than a second, as anything may on a slow machine."""
    return [line for line in done.stderr.splitlines() if not line.startswith(("listing: ", "sending: "))]


class TestCommand:
    def messages(self, deployment: Deployment) -> list[dict[str, Any]]:
        messages = deployment.aws.messages(str(deployment.settings.task_queue))
        return [json.loads(message["Body"]) for message in messages]

    def test_the_tasks_of_a_prefix_have_one_generated_id_which_is_told(self, deployment: Deployment) -> None:
        aws = deployment.aws
        put(aws, "v/a.mp4", "v/b.mov", "v/c.MP4", "w/d.mp4")
        done = reelscan("send", "--recursive", f"s3://{aws.bucket}/v/", "--include", "*.mp4", "--fps", "1")
        assert done.returncode == 0, done.stderr
        *lines, last = done.stdout.splitlines()
        found = re.fullmatch(r"sent 2 tasks with the id (batch-[0-9a-f]{12})", last)
        assert found is not None
        assert [line.partition(" ")[2] for line in lines] == [
            f"s3://{aws.bucket}/v/a.mp4", f"s3://{aws.bucket}/v/c.MP4",
        ]  # fmt: skip
        assert self.messages(deployment) == [
            {"bucket": aws.bucket, "object": key, "fps": 1.0, "id": found.group(1)} for key in ("v/a.mp4", "v/c.MP4")
        ]
        assert told_besides_progress(done) == []

    def test_an_id_of_the_senders_own_is_kept(self, deployment: Deployment) -> None:
        put(deployment.aws, *ODD_KEYS)
        done = reelscan("send", "--recursive", "--id", "mine", f"s3://{deployment.aws.bucket}/")
        assert done.returncode == 0, done.stderr
        assert "sent 6 tasks with the id mine" in done.stdout
        messages = self.messages(deployment)
        assert {message["id"] for message in messages} == {"mine"}
        assert {message["object"] for message in messages} == set(ODD_KEYS)

    def test_one_task_that_would_be_refused_keeps_all_from_being_sent(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(deployment.aws, "v/a.mp4", "w/b.mp4")
        monkeypatch.setenv("REELSCAN_ALLOWED_SOURCES", f"s3://{deployment.aws.bucket}/v/*")
        done = reelscan("send", "--recursive", f"s3://{deployment.aws.bucket}/")
        assert done.returncode == 3
        assert "outside the allowed sources" in done.stderr
        assert self.messages(deployment) == []

    def test_nothing_below_a_prefix_is_status_3(self, deployment: Deployment) -> None:
        done = reelscan("send", "--recursive", f"s3://{deployment.aws.bucket}/none/")
        assert done.returncode == 3
        assert len(told_besides_progress(done)) == 1

    def test_patterns_without_recursive_say_what_to_add(self, deployment: Deployment) -> None:
        done = reelscan("send", "--include", "*.mp4", f"s3://{deployment.aws.bucket}/v/")
        assert done.returncode == 2
        assert "needs --recursive" in done.stderr


def test_a_prefix_is_sent_waited_for_and_its_results_copied(
    embedded: str, clips: ClipLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in embedded_environment(int(embedded), {}).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    s3 = boto3.client("s3")
    for key in ("batch/a/clip.mp4", "batch/b/clip.mp4"):
        s3.upload_file(str(clips["h264_one_frame.mp4"].path), TASK_DATA_BUCKET, key)
    url = f"s3://{TASK_DATA_BUCKET}/batch"
    done = reelscan(
        "send", "--port", embedded, "--recursive", url, "--wait", "--outputs", "frames", "--out", str(tmp_path / "out")
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^sent 2 tasks with the id batch-[0-9a-f]{12}$", done.stderr, re.MULTILINE)
    assert done.stdout.count("succeeded") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip", "clip-2"}


def test_statuses_are_counted_in_one_order() -> None:
    from local.batch import tally

    assert tally(Counter(["failed", "succeeded", "failed"])) == "1 succeeded, 0 partial, 2 failed"

"""`make demo`: the whole job on the sample clip, by way of a service with S3, SQS and a model server of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from local.aws import TASK_DATA_BUCKET, endpoint_url, use_embedded_aws
from local.download import copy_results
from local.findings import clock, read_findings
from local.sender import make_tasks, send_tasks
from local.view import findings_table, printable
from steps.completed import Completed
from steps.errors import NotFoundError, ReelscanError, TimeLimitError
from steps.processes import reelscan_command, spawn, stop, wait_for_line
from steps.queues import Queues
from steps.results import SUMMARY_KEY
from steps.settings import Settings
from steps.signals import stopped_by_sigterm
from steps.store import FolderStore, open_store

CLIP = Path(__file__).resolve().parents[1] / "samples" / "one-by-one-person.mp4"
OUT = Path("out/demo")
READY_SECONDS = 120.0
TASK_SECONDS = 300.0
STOP_SECONDS = 30.0
"""The service gives its own processes time to stop."""


def demo(out: Path = OUT) -> Completed:
    """Start the service, send it the sample, print what became of that, stop the service.

    Raises:
        ReelscanError: something did not work.
    """
    console = Console()
    if not CLIP.is_file():
        raise NotFoundError(f"{CLIP}: the sample clip is not there; run the demo in a checkout")
    _say(console, "Starting S3, SQS, the model server and the service on this machine")
    service = spawn(reelscan_command("up", "--port", "0", "--quiet-stop"), stdout=subprocess.PIPE)
    try:
        line = wait_for_line(service, "send a task", READY_SECONDS, "the service")
        port = int(line.partition("--port ")[2].split()[0])
        use_embedded_aws(port)
        settings = Settings.from_environment()
        _say(console, f"Uploading {CLIP.name} to s3://{TASK_DATA_BUCKET} at {endpoint_url(port)}, sending a task")
        tasks = make_tasks([str(CLIP)], {}, "demo", settings, TASK_DATA_BUCKET)
        (task_id,) = send_tasks(tasks, settings)
        completed = receive_completed(task_id, settings, service)
        if completed.error is not None:
            raise ReelscanError(f"the task failed: {completed.error.code}: {completed.error.message}")
        results = FolderStore(out)
        _say(console, "Copying the results, stopping the service")
        copy_results(open_store(completed.results or "", settings), results, list(completed.files.values()))
    finally:
        stop([service], grace_seconds=STOP_SECONDS)
    print_completed(console, completed, results)
    return completed


def receive_completed(task_id: str, settings: Settings, service: subprocess.Popen[bytes]) -> Completed:
    """The completed message of a task, from the completed queue.

    Raises:
        TimeLimitError: it did not come.
        ReelscanError: the service ended.
    """
    queues, queue = Queues(settings), settings.completed_queue or ""
    deadline = time.monotonic() + TASK_SECONDS
    while time.monotonic() < deadline:
        for message in queues.receive(queue, wait_seconds=5, visibility_seconds=30):
            queues.delete(queue, message.receipt)
            completed = Completed.from_bytes(message.body.encode())
            if completed.task_id == task_id:
                return completed
        if service.poll() is not None:
            raise ReelscanError(f"the service ended with status {service.returncode}; its message stands above")
    raise TimeLimitError(f"no completed message came within {TASK_SECONDS:g} seconds")


def print_completed(console: Console, completed: Completed, results: FolderStore) -> None:
    """The essence of a completed message, and where its results are."""
    _say(console, "")
    _say(console, f"status   {completed.status}")
    if completed.video is not None and completed.frames is not None:
        video = completed.video
        size = f"{video.codec} {video.width}x{video.height}"
        _say(console, f"video    {size}, {clock(video.duration_seconds)}, {video.frames} frames")
        _say(console, f"frames   {completed.frames.analysed} of {completed.frames.planned} analysed: 5 a second")
    _say(console, f"seconds  {completed.wall_seconds:.1f} from the task's receipt to this message")
    _say(console, "")
    console.print(findings_table(read_findings(results)))
    _say(console, "")
    for key in (*completed.files.values(), SUMMARY_KEY):
        _say(console, f"{OUT / key}")


def _say(console: Console, line: str) -> None:
    console.print(printable(line), soft_wrap=True)


def main() -> None:
    """Run the demo and exit with the status of the contract."""
    try:
        with stopped_by_sigterm():
            demo()
    except ReelscanError as error:
        click.echo(f"reelscan: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        click.echo("reelscan: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()

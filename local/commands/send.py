"""`reelscan send`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from local.commands.flags import option_flags, port_flag


@click.command()
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@option_flags()
@click.option("--id", "token", metavar="TEXT", help="A token of your own, returned in the completed message.")
@click.option(
    "--bucket",
    envvar="REELSCAN_TASK_DATA_BUCKET",
    metavar="NAME",
    help="Bucket that local files are uploaded to. Default: the embedded service's.",
)
@click.option("--wait", is_flag=True, help="Wait until the tasks are done, and print what became of them.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="With --wait: copy the results to this folder; of several videos, each to a folder in it.",
)
@port_flag
def send(
    *,
    videos: tuple[str, ...],
    token: str | None,
    bucket: str | None,
    wait: bool,
    timeout: float,
    out: Path | None,
    port: int,
    **options: str | None,
) -> None:
    """Put a task on the queue for each VIDEO: s3://BUCKET/KEY, or a file, which is uploaded first.

    Without REELSCAN_TASK_QUEUE the tasks go to the service that `reelscan up` runs on this machine. With --wait the
    exit status tells the outcome: 1, 3 or 4 if a task failed, 5 if frames are missing.
    """
    from rich.console import Console

    from local.aws import TASK_DATA_BUCKET, use_embedded_aws
    from local.download import download_all
    from local.outcomes import raise_for_outcomes
    from local.sender import check_embedded, make_tasks, message_options, send_tasks
    from local.view import printable
    from local.waiting import wait_and_print
    from steps.errors import UsageError
    from steps.settings import Settings

    if out is not None and not wait:
        raise UsageError("--out copies the results when they are there, and so needs --wait")
    fields = message_options(options)
    if not os.environ.get("REELSCAN_TASK_QUEUE"):
        check_embedded(port)
        use_embedded_aws(port)
        bucket = bucket or TASK_DATA_BUCKET
    settings = Settings.from_environment()
    tasks = make_tasks(videos, fields, token, settings, bucket)
    task_ids = send_tasks(tasks, settings)
    if not wait:
        console = Console()
        for task, task_id in zip(tasks, task_ids, strict=True):
            console.print(printable(f"{task_id} {task.url}"), soft_wrap=True)
        return
    outcomes = wait_and_print(task_ids, settings, timeout)
    if out is not None:
        for folder in download_all(tasks, outcomes, out, settings):
            Console().print(printable(f"copied    {folder}"), soft_wrap=True)
    raise_for_outcomes(outcomes)

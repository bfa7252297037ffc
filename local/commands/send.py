"""`reelscan send`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from local.commands.flags import option_flags, port_flag


@click.command()
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@option_flags()
@click.option("--recursive", is_flag=True, help="Each s3:// VIDEO is a prefix: a task for each object below it.")
@click.option(
    "--include",
    multiple=True,
    metavar="GLOB",
    help="With --recursive: only objects whose name, or whose key behind the prefix, fits, as '*.mp4'. Repeatable.",
)
@click.option(
    "--id",
    "token",
    metavar="TEXT",
    help="A token of your own, returned in the completed message. Default with --recursive: batch-..., which is told.",
)
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
    recursive: bool,
    include: tuple[str, ...],
    token: str | None,
    bucket: str | None,
    wait: bool,
    timeout: float,
    out: Path | None,
    port: int,
    **options: str | None,
) -> None:
    """Put a task on the queue for each VIDEO: s3://BUCKET/KEY, or a file, which is uploaded first.

    With --recursive s3://BUCKET/PREFIX stands for all objects below it. Their tasks have one id in common.

    Without REELSCAN_TASK_QUEUE the tasks go to the service that `reelscan up` runs on this machine. With --wait the
    exit status tells the outcome: 1, 3 or 4 if a task failed, 5 if frames are missing.
    """
    import uuid

    from rich.console import Console

    from local.aws import TASK_DATA_BUCKET, use_embedded_aws
    from local.counting import Counting
    from local.download import download_all
    from local.listing import list_videos
    from local.outcomes import raise_for_outcomes
    from local.sender import check_embedded, make_tasks, message_options, send_tasks
    from local.view import printable
    from local.waiting import wait_and_print
    from steps.errors import UsageError
    from steps.settings import Settings

    if out is not None and not wait:
        raise UsageError("--out copies the results when they are there, and so needs --wait")
    if include and not recursive:
        raise UsageError("--include chooses among the objects below a prefix, and so needs --recursive")
    fields = message_options(options)
    if not os.environ.get("REELSCAN_TASK_QUEUE"):
        check_embedded(port)
        use_embedded_aws(port)
        bucket = bucket or TASK_DATA_BUCKET
    settings = Settings.from_environment()
    if recursive and token is None:
        token = f"batch-{uuid.uuid4().hex[:12]}"
    with Counting(Console(stderr=True)) as counting:
        if recursive:
            videos = tuple(
                list_videos(
                    videos,
                    include,
                    settings,
                    lambda found: counting.update("listing", found, None, f"{found} objects found"),
                )
            )
        tasks = make_tasks(videos, fields, token, settings, bucket)
        task_ids = send_tasks(
            tasks,
            settings,
            lambda sent: counting.update("sending", sent, len(tasks), f"{sent} of {len(tasks)} tasks"),
        )
    if not wait:
        console = Console()
        for task, task_id in zip(tasks, task_ids, strict=True):
            console.print(printable(f"{task_id} {task.url}"), soft_wrap=True)
        if recursive:
            console.print(printable(_sent(len(tasks), token)), soft_wrap=True)
        return
    if recursive:
        # Told now, in case that the wait does not last to the end.
        Console(stderr=True).print(printable(_sent(len(tasks), token)), soft_wrap=True)
    outcomes = wait_and_print(task_ids, settings, timeout, token)
    if out is not None:
        for folder in download_all(tasks, outcomes, out, settings):
            Console().print(printable(f"copied    {folder}"), soft_wrap=True)
    raise_for_outcomes(outcomes)


def _sent(count: int, token: str | None) -> str:
    return f"sent {count} task{'' if count == 1 else 's'} with the id {token}"

"""`reelscan up`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

import click

from local.commands.flags import DEFAULT_PORT, jobs_flag, model_path_flag, model_profile_flag, port_flag, serving_flag
from steps.errors import StoppedError
from steps.signals import Terminated


@click.command()
@click.option("--once", is_flag=True, help="Stop when the task queue is empty.")
@port_flag
@serving_flag
@model_path_flag
@model_profile_flag
@jobs_flag
@click.option("--quiet-stop", is_flag=True, hidden=True, help="Say nothing of SIGTERM, which the parent itself sends.")
def up(
    *, once: bool, port: int, serving: str | None, model_path: str | None, model_profile: str | None, jobs: int,
    quiet_stop: bool,
) -> None:  # fmt: skip
    """Run the service on this machine: tasks from a queue, results to S3, a message for each to a queue.

    With REELSCAN_TASK_QUEUE and the other variables of a deployment set, it works for that one; without, it starts an
    S3 and an SQS of its own on 127.0.0.1, which hold everything in memory.
    """
    try:
        _serve(once, port, serving, model_path, model_profile, jobs)
    except Terminated:
        if not quiet_stop:
            raise
        sys.exit(StoppedError.exit_status)


def _serve(
    once: bool, port: int, serving: str | None, model_path: str | None, model_profile: str | None, jobs: int
) -> None:
    from rich.console import Console

    from local.aws import create_resources, embedded_aws, use_embedded_aws
    from local.model_server import choose_server, note_on_labels
    from local.service import Service
    from local.view import JobView
    from steps.job import model_identity
    from steps.options import Options
    from steps.settings import Settings

    defaults = Options.from_text({})  # a wrong variable is told now, not at the first task
    with ExitStack() as stack:
        if not os.environ.get("REELSCAN_TASK_QUEUE"):
            port = stack.enter_context(embedded_aws(port))
            create_resources(port)
            use_embedded_aws(port)
            click.echo(f"S3 and SQS   {os.environ['AWS_ENDPOINT_URL']}, in memory until this stops")
        settings = Settings.from_environment(model_profile=model_profile)
        server, settings = choose_server(serving, model_path, settings)
        if (note := note_on_labels(settings)) is not None:
            click.echo(f"reelscan: {note}", err=True)
        running = stack.enter_context(server)
        view = stack.enter_context(JobView(Console(stderr=True)))
        service = Service(settings, running, view, processes=jobs)
        service.check_places()
        model = model_identity(defaults, settings)
        click.echo(f"model        {model.name} version {model.version} at {running.address(model)}")
        click.echo(f"tasks from   {settings.task_queue}")
        click.echo(f"results to   {settings.results}")
        port_argument = "" if port == DEFAULT_PORT else f" --port {port}"
        click.echo(f"send a task  reelscan send{port_argument} VIDEO --wait")
        service.serve(once=once)

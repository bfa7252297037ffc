"""`reelscan cancel`: end the run of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from events.cancel import Cancelled


@click.command()
@click.argument("task_id", metavar="TASK_ID")
@click.option(
    "--namespace", metavar="NAME", help="Namespace of the workflows. Default: the kubeconfig's, or the pod's."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the end; 0 does not wait.",
)
def cancel(*, task_id: str, namespace: str | None, timeout: float) -> None:
    """End the run of a task: its pods stop, and it is reported as failed with the code `stopped`.

    TASK_ID is the one of the completed message: the id of the SQS message that `send` printed, or of a run by hand the
    workflow's uid. A message with several records is one run, and ends whole.
    """
    from rich.console import Console

    from events.cancel import cancel as end
    from events.cancel import find_run, wait_for_end
    from events.kubernetes import Namespace

    console = Console(stderr=True)
    with Namespace(namespace) as cluster:
        run = find_run(cluster, task_id)
        told = end(cluster, run)
        if told.had_ended:
            click.echo(f"{told.workflow} had ended before: {told.phase}")
            return
        click.echo(f"{told.workflow} was told to end; {_consequence(told)}")
        if timeout:
            with console.status(f"waiting for {told.workflow} to end") as status:
                phase = wait_for_end(
                    cluster,
                    told.workflow,
                    timeout_seconds=timeout,
                    force=told.is_held,
                    told=lambda phase: status.update(f"waiting for {told.workflow} to end: {phase or 'not begun'}"),
                )
            click.echo(f"{told.workflow} has ended: {phase}")


def _consequence(told: Cancelled) -> str:
    if told.is_held:
        return "its tasks are reported as stopped within three minutes"
    if told.phase == "Running":
        return "it reports its tasks as stopped when its pods have ended"
    return "it had not begun, and nothing reports it: this namespace has no reconciler that you may see"

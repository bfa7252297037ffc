"""`reelscan aggregate`: check and merge the chunks, write the results, report the task."""

from __future__ import annotations

import click

from steps.commands.flags import given_task, task_flags


@click.command()
@task_flags
@click.option("--run", "run_url", required=True, metavar="URL", help="s3://BUCKET/PREFIX/RUN or folder of the plan.")
@click.option("--attempt", type=click.IntRange(1), default=1, show_default=True, help="Attempt of the task.")
@click.option("--workflow", metavar="NAME", help="Name of the workflow, for the completed message.")
@click.option("--report/--no-report", default=True, show_default=True, help="Send the completed message.")
def aggregate(*, run_url: str, attempt: int, workflow: str | None, report: bool, **task_arguments: str | None) -> None:
    """Check every chunk against the plan, write the result files, and send the completed message."""
    from steps.aggregate import aggregate as merge
    from steps.aggregate import ensure_outputs
    from steps.completed import completed_from_summary
    from steps.errors import UsageError
    from steps.job import find_summary
    from steps.ledger import Ledger, Outbox
    from steps.planner import load_plan
    from steps.queues import Queues
    from steps.settings import Settings
    from steps.store import open_store

    given = given_task(**task_arguments)  # type: ignore[arg-type]
    settings = Settings.from_environment()
    if report and settings.results is None:
        raise UsageError("no place for the ledger is set; set REELSCAN_RESULTS to s3://BUCKET/PREFIX")
    received = given.received(settings)
    task = given.task(settings)
    store = open_store(run_url, settings)
    plan = load_plan(store)
    summary = find_summary(store, task.options)
    if summary is None:
        summary = merge(store, plan, task.options.outputs)
    else:
        summary = ensure_outputs(store, plan, summary, task.options.outputs)
    completed = completed_from_summary(
        received, summary, store, received_at=given.received_at, attempt=attempt, workflow=workflow
    )
    if report:
        ledger = Ledger(open_store(settings.results or "", settings).below("ledger"))
        outcome = Outbox(ledger, Queues(settings), settings).report(completed, received.body, wait=True)
        completed = outcome.completed
    click.echo(completed.to_bytes().decode())

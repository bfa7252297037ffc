"""`reelscan aggregate`: check and merge the chunks, write the results, report the task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps.commands.artifacts import artifacts_option, copy_artifacts
from steps.commands.detect import analyse_chunk, chunk_of
from steps.commands.flags import given_task, lease_owner_option, open_reporter, report_flags, task_flags
from steps.commands.progress import progress_file_option

if TYPE_CHECKING:
    from steps.results.summary import Summary
    from steps.settings import Settings
    from steps.store import Store
    from steps.task import Task


@click.command()
@task_flags
@click.option("--run", "run_url", required=True, metavar="URL", help="s3://BUCKET/PREFIX/RUN or folder of the plan.")
@click.option("--plan", "plan_name", metavar="PLAN", help="Name of the plan. Default: the latest.")
@click.option("--chunk", "chunk_index", type=click.IntRange(0), help="Analyse this chunk first, by its index from 0.")
@click.option("--serving", default=None, metavar="HOST:PORT", help="With --chunk: the TensorFlow Serving server.")
@click.option("--report/--no-report", default=True, show_default=True, help="Send the completed message.")
@report_flags
@lease_owner_option
@artifacts_option
@progress_file_option
def aggregate(
    *, run_url: str, plan_name: str | None, chunk_index: int | None, serving: str | None, report: bool,
    attempt: int | None, workflow: str | None, lease_owner: str | None, artifacts_folder: Path | None,
    progress_file: Path | None, **task_arguments: str | None,
) -> None:  # fmt: skip
    """Check every chunk against the plan, write the result files, and send the completed message.

    A task of which no frame was analysed is reported as failed; the exit status is then 3, since nothing is gained by
    doing this again.
    """
    from steps.completed import StepError, completed_from_summary
    from steps.errors import OutsideError
    from steps.settings import Settings
    from steps.store import open_store

    given = given_task(**task_arguments)  # type: ignore[arg-type]
    settings = Settings.from_environment(serving=serving)
    received = given.received(settings)
    task = given.task(settings)
    store = open_store(run_url, settings)
    work = _Work(store, task, plan_name, chunk_index, settings, lease_owner, progress_file)
    if not report:
        summary = work.summary()
        copy_artifacts(store, summary, artifacts_folder)
        completed = completed_from_summary(
            received, summary, store, received_at=given.received_at, attempt=attempt or 1, workflow=workflow
        )
        click.echo(completed.to_bytes().decode())
        return
    reporter = open_reporter(settings, given, attempt=attempt, workflow=workflow)
    reporter.begin([received])
    try:
        summary = work.summary()
        copy_artifacts(store, summary, artifacts_folder)
        completed = reporter.report_summary(received, summary, store)
    except OutsideError as error:
        reporter.leave_reason(
            received.task_id, StepError.of(error, "detect" if chunk_index is not None else "aggregate")
        )
        raise
    click.echo(completed.to_bytes().decode())
    if completed.error is not None:
        raise completed.error.refusal()


class _Work:
    """A run's summary, found or made."""

    def __init__(
        self, store: Store, task: Task, plan_name: str | None, chunk_index: int | None, settings: Settings,
        lease_owner: str | None, progress_file: Path | None,
    ) -> None:  # fmt: skip
        self._store = store
        self._task = task
        self._plan_name = plan_name
        self._chunk_index = chunk_index
        self._settings = settings
        self._lease_owner = lease_owner
        self._progress_file = progress_file

    def summary(self) -> Summary:
        """The summary, which counts as the one of this plan if the task is forced. Raises ReelscanError."""
        from steps.job import find_results, find_summary
        from steps.lease import Lease

        if self._lease_owner is None:
            return find_results(self._store, self._task.options) or self._make()
        lease = Lease(self._store, self._settings.lease_seconds, self._lease_owner)
        try:
            lease.acquire(
                self._settings.lease_wait_seconds,
                until=lambda: find_summary(self._store, self._task.options) is not None,
            )
            return find_results(self._store, self._task.options) or self._make()
        finally:
            lease.release()

    def _make(self) -> Summary:
        from steps.aggregate import aggregate as merge
        from steps.errors import BadInputError
        from steps.planner import load_plan

        plan = load_plan(self._store, self._plan_name)
        if self._chunk_index is not None:
            chunk = chunk_of(plan, self._chunk_index)
            if not self._store.exists(plan.shard_key(chunk)):
                try:
                    analyse_chunk(self._store, plan, chunk, self._settings, self._progress_file)
                except BadInputError as error:
                    # The note that it left is what the summary of the other chunks tells.
                    click.echo(f"reelscan: chunk {chunk.index}: {error}", err=True)
        return merge(self._store, plan, self._task.options.outputs)

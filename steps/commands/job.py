"""`reelscan job`: the whole job for the tasks of a message, beside one model server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps.commands.artifacts import artifacts_option, copy_artifacts
from steps.commands.flags import given_task, lease_owner_option, open_reporter, report_flags, task_flags
from steps.commands.progress import ProgressFile, progress_file_option

if TYPE_CHECKING:
    from steps.job import JobResult
    from steps.settings import Settings
    from steps.task import Received


@click.command()
@task_flags
@click.option("--serving", default=None, metavar="HOST:PORT", help="The TensorFlow Serving server.")
@click.option("--processes", type=click.IntRange(0), default=0, help="Chunks at a time. Default: as the cores allow.")
@report_flags
@lease_owner_option
@artifacts_option
@progress_file_option
def job(
    *, serving: str | None, processes: int, attempt: int | None, workflow: str | None,
    lease_owner: str | None, artifacts_folder: Path | None, progress_file: Path | None, **task_arguments: str | None,
) -> None:  # fmt: skip
    """Plan, analyse, merge and report every task of a message, one after another, in this pod.

    The exit status is that of the first task that failed outside, else 3 if all were refused.
    """
    from steps.completed import StepError
    from steps.errors import BadInputError, OutsideError
    from steps.settings import Settings

    given = given_task(**task_arguments, to_report=True)  # type: ignore[arg-type]
    settings = Settings.from_environment(serving=serving)
    reporter = open_reporter(settings, given, attempt=attempt, workflow=workflow)
    numbered = given.all_received(settings)
    reporter.begin([received for _, received in numbered])
    progress = ProgressFile(progress_file)
    refused: list[BadInputError] = []
    failed: list[OutsideError] = []
    done = 0
    for _, received in numbered:
        answered = reporter.resume(received)
        if answered is not None:
            if answered.completed.error is None:
                done += 1
            else:
                refused.append(answered.completed.error.refusal())
            continue
        try:
            result = _do(received, settings, given.message_id, lease_owner, processes, progress)
            completed = reporter.report_summary(received, result.summary, result.store)
            copy_artifacts(result.store, result.summary, artifacts_folder)
        except BadInputError as error:
            refused.append(error)
            completed = reporter.report_error(received, StepError.of(error, "plan")).completed
        except OutsideError as error:
            failed.append(error)
            reporter.leave_reason(received.task_id, StepError.of(error, "detect"))
            continue
        click.echo(completed.to_bytes().decode())
        if completed.error is None:
            done += 1
        elif not refused:
            refused.append(completed.error.refusal())
    if failed:
        raise failed[0]
    if refused and not done:
        raise refused[0]


def _do(
    received: Received, settings: Settings, message_id: str, lease_owner: str | None, processes: int,
    progress: ProgressFile,
) -> JobResult:  # fmt: skip
    from steps.job import GivenServer, Job, Observer
    from steps.store import open_store

    class Telling(Observer):
        step = ""

        def begin(self, step: str) -> None:
            self.step = step

        def advance(self, done: int, total: int) -> None:
            # What is told may not fall back, and analysing takes the most time by far.
            if self.step == "detect":
                progress.write(done, total)

        def note(self, line: str) -> None:
            click.echo(f"reelscan: {line}", err=True)

    task = received.require()
    results = open_store(settings.results or "", settings)
    return Job(
        bucket=task.bucket,
        key=task.object,
        options=task.options,
        settings=settings,
        open_run=results.below,
        server=GivenServer(settings.serving, settings),
        processes=processes,
        force_nonce=message_id,
        lease_owner=lease_owner,
        observer=Telling(),
    ).run()

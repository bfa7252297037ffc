"""`reelscan finish`: report what failed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from steps.commands.flags import given_task, open_reporter, report_flags, task_flags, time_of


@click.command()
@task_flags
@click.option("--run", "run_url", metavar="URL", help="s3://BUCKET/PREFIX/RUN or folder, if planning came that far.")
@click.option("--code", default="internal", show_default=True, help="Code of the error, as completed messages have it.")
@click.option("--message", default="a step failed and did not say why", help="What went wrong, in one line.")
@click.option("--step", default="finish", show_default=True, help="The step that failed.")
@click.option(
    "--errors-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='Errors as JSON, [{"code", "message", "step"}, ...], instead of --code, --message and --step.',
)
@click.option(
    "--failed-at",
    metavar="TIME",
    help="When the last of the steps failed. If given, what was reported and ended before is left as it is, and the "
    "next attempt reported.",
)
@report_flags
def finish(
    *, run_url: str | None, code: str, message: str, step: str, errors_file: Path | None, failed_at: str | None,
    attempt: int | None, workflow: str | None, **task_arguments: str | None,
) -> None:  # fmt: skip
    """Report every task of a message as failed, unless it has been reported already. Harmless to repeat."""
    from steps.completed import StepError
    from steps.errors import ERROR_CODES, UsageError
    from steps.finish import TaskError
    from steps.finish import finish as report
    from steps.settings import Settings
    from steps.store import open_store

    given = given_task(**task_arguments, to_report=True)  # type: ignore[arg-type]
    settings = Settings.from_environment()
    by_flags = [{"code": code, "message": message, "step": step}]
    try:
        errors = json.loads(errors_file.read_text()) if errors_file else by_flags
        told = [StepError.make(stated["code"], stated["message"], stated["step"]) for stated in errors]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"--errors-file {errors_file}: is no list of objects with code, message and step ({error})"
        ) from error
    for step_error in told:
        if step_error.code not in ERROR_CODES:
            raise UsageError(f"code {step_error.code!r} is not known; allowed are {', '.join(ERROR_CODES)}")
    reporter = open_reporter(
        settings, given, attempt=attempt, workflow=workflow, since=time_of("--failed-at", failed_at, given.received_at)
    )
    run = open_store(run_url, settings) if run_url else None
    errors_of_steps = [TaskError(error) for error in told]
    for finished in report(given.body, given.message_id, errors_of_steps, settings, reporter, run=run, wait=True):
        click.echo(finished.outcome.completed.to_bytes().decode())

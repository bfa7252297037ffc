"""`reelscan run`."""

from __future__ import annotations

from pathlib import Path

import click

from local.commands.flags import jobs_flag, model_path_flag, model_profile_flag, option_flags, serving_flag
from steps.errors import PartialResultError, StoppedError


@click.command()
@click.argument("video")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results. Default: out/NAME."
)
@option_flags("priority")
@serving_flag
@model_path_flag
@model_profile_flag
@jobs_flag
def run(
    *, video: str, out: Path | None, serving: str | None, model_path: str | None, model_profile: str | None,
    jobs: int, **options: str | None,
) -> None:  # fmt: skip
    """Do the whole job for VIDEO on this machine: a file, or s3://BUCKET/KEY.

    Ctrl-C stops it, and the same command goes on from there. Exit status 5: some frames could not be analysed.
    """
    from rich.console import Console

    from local.outcomes import error_for
    from local.runner import parse_video, run_video
    from local.view import JobView, print_result
    from steps.options import Options
    from steps.settings import Settings

    parsed = parse_video(video)
    task_options = Options.from_text(options)
    settings = Settings.from_environment(model_profile=model_profile)
    console = Console(stderr=True)
    try:
        with JobView(console) as view:
            result = run_video(
                parsed,
                task_options,
                settings,
                out=out,
                serving=serving,
                model=model_path,
                processes=jobs,
                observer=view,
            )
    except (KeyboardInterrupt, StoppedError):
        click.echo("\nStopped. What is done is kept: the same command goes on from there.", err=True)
        raise
    failure = result.summary.failure
    if failure is not None:
        raise error_for(failure.code, failure.message)
    print_result(Console(), result)
    missing = result.summary.frames.planned - result.summary.frames.analysed
    if missing:
        raise PartialResultError(
            f"{missing} of {result.summary.frames.planned} planned frames could not be analysed; "
            f"{result.store.url}summary.json lists them"
        )

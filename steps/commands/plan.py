"""`reelscan plan`: index a video and cut it into chunks."""

from __future__ import annotations

import json
from pathlib import Path

import click

from steps.commands.flags import given_task, task_flags
from steps.commands.progress import ProgressFile, progress_file_option


@click.command()
@task_flags
@click.option(
    "--results", metavar="URL", help="s3://BUCKET/PREFIX or folder of the results. Default: REELSCAN_RESULTS."
)
@click.option("--run-file", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the URL of the RUN.")
@click.option(
    "--chunks-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the chunks to analyse, as JSON.",
)
@progress_file_option
def plan(
    *, results: str | None, run_file: Path | None, chunks_file: Path | None, progress_file: Path | None,
    **task_arguments: str | None,
) -> None:  # fmt: skip
    """Plan a task: which frames are analysed, in which chunks. Prints, and writes, what is left to do.

    A RUN that has results already has no chunks left; one that was interrupted has those that lack.
    """
    from steps.errors import UsageError
    from steps.job import find_or_make_plan, find_summary, lacking_chunks, model_identity
    from steps.plan import run_digest
    from steps.settings import Settings
    from steps.source import open_source
    from steps.store import open_store

    given = given_task(**task_arguments)  # type: ignore[arg-type]
    settings = Settings.from_environment(results=results)
    if settings.results is None:
        raise UsageError("no place for results is set; give --results or set REELSCAN_RESULTS to s3://BUCKET/PREFIX")
    task = given.task(settings)
    source = open_source(task.bucket, task.object, settings)
    model = model_identity(task.options, settings)
    run = run_digest(source.identity, task.options.digested(), model)
    store = open_store(settings.results, settings).below(run)
    chunks = []
    if find_summary(store, task.options) is None:
        made = find_or_make_plan(
            source, task.options, model, settings, store,
            force_nonce=given.message_id, progress=ProgressFile(progress_file).write,
        )  # fmt: skip
        chunks = [
            {
                "index": chunk.index,
                "frames": chunk.frames,
                "start_seconds": chunk.start_seconds,
                "end_seconds": chunk.end_seconds,
            }
            for chunk in lacking_chunks(made, store)
        ]
    if run_file:
        run_file.write_text(store.url)
    if chunks_file:
        chunks_file.write_text(json.dumps(chunks))
    click.echo(json.dumps({"run": run, "results": store.url, "chunks": chunks}))

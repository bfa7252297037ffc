"""`reelscan detect`: analyse one chunk."""

from __future__ import annotations

from pathlib import Path

import click

from steps.commands.progress import ProgressFile, progress_file_option


@click.command()
@click.option("--run", "run_url", required=True, metavar="URL", help="s3://BUCKET/PREFIX/RUN or folder of the plan")
@click.option("--chunk", "chunk_index", required=True, type=click.IntRange(0), help="index of the chunk, from 0")
@click.option("--serving", default=None, metavar="HOST:PORT", help="the TensorFlow Serving server")
@progress_file_option
def detect(run_url: str, chunk_index: int, serving: str | None, progress_file: Path | None) -> None:
    """Analyse one chunk of a planned run and write its shard, or the reason why there is none."""
    from steps.detect import detect_chunk
    from steps.errors import ReelscanError, StoppedError, UsageError
    from steps.planner import load_plan
    from steps.profile import load_profile
    from steps.settings import Settings
    from steps.shards import write_chunk_error
    from steps.source import open_source
    from steps.store import open_store

    settings = Settings.from_environment(serving=serving)
    store = open_store(run_url, settings)
    plan = load_plan(store)
    if chunk_index >= len(plan.chunks):
        raise UsageError(f"--chunk {chunk_index}: the plan has the chunks 0 to {len(plan.chunks) - 1}")
    chunk = plan.chunks[chunk_index]
    progress = ProgressFile(progress_file)
    try:
        source = open_source(plan.source.bucket, plan.source.key, settings)
        profile = load_profile(settings.model_profile)
        stats = detect_chunk(store, plan, chunk, source, profile, settings, progress=progress.write)
    except StoppedError:
        raise
    except ReelscanError as error:
        write_chunk_error(store, plan, chunk, error.code, str(error))
        raise
    click.echo(stats.model_dump_json())

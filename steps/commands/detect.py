"""`reelscan detect`: analyse one chunk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from steps.commands.flags import lease_owner_option
from steps.commands.progress import ProgressFile, progress_file_option

if TYPE_CHECKING:
    from steps.plan import Chunk, Plan
    from steps.settings import Settings
    from steps.shards import ChunkStats
    from steps.store import Store


@click.command()
@click.option("--run", "run_url", required=True, metavar="URL", help="s3://BUCKET/PREFIX/RUN or folder of the plan.")
@click.option("--plan", "plan_name", metavar="PLAN", help="Name of the plan. Default: the latest.")
@click.option("--chunk", "chunk_index", required=True, type=click.IntRange(0), help="Index of the chunk, from 0.")
@click.option("--serving", default=None, metavar="HOST:PORT", help="The TensorFlow Serving server.")
@lease_owner_option
@progress_file_option
def detect(
    *, run_url: str, plan_name: str | None, chunk_index: int, serving: str | None, lease_owner: str | None,
    progress_file: Path | None,
) -> None:  # fmt: skip
    """Analyse one chunk of a planned run and write its shard, or the reason why there is none."""
    from steps.planner import load_plan
    from steps.settings import Settings
    from steps.store import open_store

    settings = Settings.from_environment(serving=serving)
    store = open_store(run_url, settings)
    plan = load_plan(store, plan_name)
    chunk = chunk_of(plan, chunk_index)
    stats = (
        analyse_chunk(store, plan, chunk, settings, progress_file)
        if lease_owner is None
        else analyse_under_lease(store, plan, chunk, settings, lease_owner, progress_file)
    )
    click.echo("the chunk had been analysed" if stats is None else stats.model_dump_json())


def chunk_of(plan: Plan, index: int) -> Chunk:
    """The chunk of an index. Raises UsageError."""
    from steps.errors import UsageError

    if index >= len(plan.chunks):
        raise UsageError(f"--chunk {index}: the plan has the chunks 0 to {len(plan.chunks) - 1}")
    return plan.chunks[index]


def analyse_chunk(
    store: Store, plan: Plan, chunk: Chunk, settings: Settings, progress_file: Path | None
) -> ChunkStats:  # fmt: skip
    """Write the shard of a chunk. Raises ReelscanError, after noting why there is none."""
    from steps.detect import detect_chunk
    from steps.errors import ReelscanError, StoppedError
    from steps.profile import load_profile
    from steps.shards import write_chunk_error
    from steps.source import open_source

    try:
        source = open_source(plan.source.bucket, plan.source.key, settings)
        profile = load_profile(settings.model_profile)
        progress = ProgressFile(progress_file)
        return detect_chunk(store, plan, chunk, source, profile, settings, progress=progress.write)
    except StoppedError:
        raise
    except ReelscanError as error:
        write_chunk_error(store, plan, chunk, error.code, str(error))
        raise


def analyse_under_lease(
    store: Store, plan: Plan, chunk: Chunk, settings: Settings, owner: str, progress_file: Path | None
) -> ChunkStats | None:
    """As `analyse_chunk`, while this workflow holds the lease on the run; None if the chunk has a shard by then.

    Raises:
        ReelscanError: as `analyse_chunk`.
        TimeLimitError: another computed the run all the time.
    """
    from steps.lease import Lease

    lease = Lease(store, settings.lease_seconds, owner)

    def analysed() -> bool:
        return store.exists(plan.shard_key(chunk))

    try:
        if not lease.acquire(settings.lease_wait_seconds, until=analysed) or analysed():
            return None
        return analyse_chunk(store, plan, chunk, settings, progress_file)
    finally:
        # Aggregate, which comes last, releases it.
        lease.leave()

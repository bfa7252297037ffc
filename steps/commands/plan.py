"""`reelscan plan`: index videos and cut them into chunks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steps.commands.artifacts import artifacts_option, copy_artifacts
from steps.commands.flags import given_task, open_reporter, report_flags, task_flags
from steps.commands.progress import ProgressFile, progress_file_option

if TYPE_CHECKING:
    from steps.plan import Chunk
    from steps.reporting import Reporter
    from steps.settings import Settings
    from steps.task import Received


@click.command()
@task_flags
@click.option(
    "--results", metavar="URL", help="s3://BUCKET/PREFIX or folder of the results. Default: REELSCAN_RESULTS."
)
@click.option(
    "--runs-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the runs that are left to compute, as JSON, without their chunks.",
)
@click.option(
    "--chunks-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write, by `rRECORD`, their chunks: those to `detect`, and a single one to `detect_and_aggregate`.",
)
@click.option(
    "--report/--no-report",
    default=False,
    show_default=True,
    help="Answer at once what needs no analysis: a task that cannot be done, and one whose results exist.",
)
@report_flags
@artifacts_option
@progress_file_option
def plan(
    *, results: str | None, runs_file: Path | None, chunks_file: Path | None, report: bool, attempt: int | None,
    workflow: str | None, artifacts_folder: Path | None, progress_file: Path | None,
    **task_arguments: str | None,
) -> None:  # fmt: skip
    """Plan the tasks of a message: which frames are analysed, in which chunks. Prints, and writes, what is left to do.

    A RUN that has results already has no chunks left; one that was interrupted has those that lack.
    """
    from steps.completed import StepError
    from steps.errors import BadInputError, OutsideError, UsageError
    from steps.settings import Settings

    given = given_task(**task_arguments, to_report=report)  # type: ignore[arg-type]
    settings = Settings.from_environment(results=results)
    if settings.results is None:
        raise UsageError("no place for results is set; give --results or set REELSCAN_RESULTS to s3://BUCKET/PREFIX")
    reporter = open_reporter(settings, given, attempt=attempt, workflow=workflow) if report else None
    planning = _Planning(settings, given.message_id, reporter, artifacts_folder, ProgressFile(progress_file))
    runs: list[dict[str, Any]] = []
    refused: list[BadInputError] = []
    failed: list[OutsideError] = []
    numbered = given.all_received(settings)
    if reporter is not None:
        reporter.begin([received for _, received in numbered])
    for number, received in numbered:
        try:
            runs += planning.plan(received, number)
        except BadInputError as error:
            refused.append(error)
            if reporter is not None:
                reporter.report_error(received, StepError.of(error, "plan"))
        except OutsideError as error:
            failed.append(error)
            if reporter is not None:
                reporter.leave_reason(received.task_id, StepError.of(error, "plan"))
    if failed:
        raise failed[0]
    if refused and not runs:
        raise refused[0]
    if runs_file:
        # Short, since Argo names the nodes of each run after this.
        brief = [{name: run[name] for name in ("record", "run", "plan", "alone")} for run in runs]
        runs_file.write_text(json.dumps(brief))
    if chunks_file:
        chunks_file.write_text(json.dumps({f"r{run['record']}": _tasks_of(run) for run in runs}))
    click.echo(json.dumps(runs))


@dataclass(frozen=True)
class _Planning:
    settings: Settings
    message_id: str
    reporter: Reporter | None
    artifacts_folder: Path | None
    progress: ProgressFile

    def plan(self, received: Received, number: int) -> list[dict[str, Any]]:
        """What there is to compute for a task: one run, or none if it could be answered."""
        from steps.job import find_or_make_plan, find_results, find_summary, lacking_chunks, model_identity
        from steps.plan import run_digest
        from steps.source import open_source
        from steps.store import open_store

        answered = None if self.reporter is None else self.reporter.resume(received)
        if answered is not None:
            if answered.completed.error is not None:
                raise answered.completed.error.refusal()
            return []
        task = received.require()
        source = open_source(task.bucket, task.object, self.settings)
        model = model_identity(task.options, self.settings)
        run = run_digest(source.identity, task.options.digested(), model)
        store = open_store(self.settings.results or "", self.settings).below(run)
        # Without a report nothing is answered from the results, and so nothing is written to them.
        find = find_summary if self.reporter is None else find_results
        summary = find(store, task.options)
        if summary is not None and self.reporter is not None:
            self.reporter.report_summary(received, summary, store)
            copy_artifacts(store, summary, self.artifacts_folder)
            return []
        made = find_or_make_plan(
            source, task.options, model, self.settings, store,
            force_nonce=self.message_id, progress=self._tell,
        )  # fmt: skip
        chunks = lacking_chunks(made, store) if summary is None else []
        # Nothing here is text from outside: a workflow evaluates what its steps hand on.
        return [
            {
                "record": number,
                "run": run,
                "results": store.url,
                "plan": made.plan,
                # One of several that lacks is not: who fails over it must not keep the others from being merged.
                "alone": int(len(chunks) == len(made.chunks) == 1),
                "chunks": [{"index": chunk.index, "name": chunk_name(chunk, len(made.chunks))} for chunk in chunks],
            }
        ]

    def _tell(self, done: int, total: int) -> None:
        # Of bytes read. Argo adds up the numbers of all pods, where so many would hide the frames of the others.
        self.progress.write(100 * done // max(1, total), 100)


def _tasks_of(run: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Which pods a run needs: one for each chunk that lacks; a plan's only one is analysed by the one that merges."""
    chunks = run["chunks"]
    return {"detect": [] if run["alone"] else chunks, "detect_and_aggregate": chunks if run["alone"] else []}


def chunk_name(chunk: Chunk, chunks: int) -> str:
    """For people, in letters that Argo allows for names: `2-of-6.0m20s-to-0m40s`, whole seconds, the end exclusive."""
    # The plan tells when the last frame is.
    end = int(chunk.end_seconds) + 1
    return f"{chunk.index + 1}-of-{chunks}.{_clock(chunk.start_seconds)}-to-{_clock(end)}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}h{minute:02}m{second:02}s" if hours else f"{minute}m{second:02}s"

"""`reelscan reconcile`: account for the runs that could not report their tasks themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from events.reconcile import Finding, Report


@click.command()
@click.option(
    "--namespace", metavar="NAME", help="Namespace of the workflows. Default: the pod's, or the kubeconfig's."
)
@click.option(
    "--own-created-at",
    metavar="TIME",
    help="When the workflow that this runs in was made, ISO 8601: Argo is at work, so what is two minutes older and "
    "has not begun never will. Default: what has not begun is left alone.",
)
@click.option(
    "--figures",
    "figures_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write the figures of this pass to, each to a file of its own, for metrics.",
)
def reconcile(*, namespace: str | None, own_created_at: str | None, figures_folder: Path | None) -> None:
    """Report each task that nothing else has reported, and let go of the workflows that are accounted for.

    Looks at every workflow with the finalizer reelscan.dev/accounted that has ended, is being deleted or never began;
    at messages of which the Sensor could make no workflow; and at those that SQS itself moved to the dead-letter queue.
    Safe to run at any time, and twice at once. Prints a line of JSON for each task that it reported, then the figures.
    """
    from events.kubernetes import Namespace
    from events.reconcile import Reconciler
    from steps.errors import UsageError
    from steps.queues import Queues
    from steps.settings import Settings
    from steps.store import open_store

    settings = Settings.from_environment()
    if settings.results is None:
        raise UsageError("no place for the ledger is set; set REELSCAN_RESULTS to s3://BUCKET/PREFIX")
    created_at = None
    if own_created_at:
        try:
            created_at = datetime.fromisoformat(own_created_at)
        except ValueError as error:
            raise UsageError(
                f"--own-created-at {own_created_at!r} is not a time such as 2026-01-31T12:00:00Z"
            ) from error
        if created_at.tzinfo is None:
            raise UsageError(f"--own-created-at {own_created_at!r}: say the time zone, such as Z")
    with Namespace(namespace) as cluster:
        results = open_store(settings.results, settings)
        # Told at once: a pass may be ended before its end.
        report = Reconciler(cluster, settings, Queues(settings), results, created_at, told=_tell_finding).reconcile()
    _tell(report, figures_folder)


def _tell_finding(finding: Finding) -> None:
    click.echo(json.dumps(asdict(finding)))


def _tell(report: Report, figures_folder: Path | None) -> None:
    figures = {
        "reported": len(report.findings),
        "released": len(report.released),
        "waiting": report.waiting,
        "failures": len(report.failures),
        "dead_letters": report.dead_letters,
        "queued": report.queued,
    }
    click.echo(json.dumps(figures))
    if figures_folder is not None:
        figures_folder.mkdir(parents=True, exist_ok=True)
        for name, value in figures.items():
            (figures_folder / name).write_text(str(value))
    for failure in report.failures[1:]:
        click.echo(f"reelscan: {failure}", err=True)
    if report.failures:
        raise report.failures[0]

"""Progress of a step as a file of one line `DONE/TOTAL`, which a runner or Argo (`ARGO_PROGRESS_FILE`) reads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

SECONDS_BETWEEN = 0.2

progress_file_option = click.option(
    "--progress-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    envvar="ARGO_PROGRESS_FILE",
    help="where to write DONE/TOTAL from time to time",
)


class ProgressFile:
    """Writes progress, at most five times a second. `None` writes nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = float("-inf")

    def write(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done."""
        now = time.monotonic()
        if self._path is None or (done < total and now - self._written < SECONDS_BETWEEN):
            return
        self._written = now
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_text(f"{done}/{total}\n")
            temporary.replace(self._path)
        except OSError as error:
            # What nobody can read is no reason to lose the work.
            click.echo(f"reelscan: progress cannot be written: {error}", err=True)
            self._path = None

"""Copies of a run's result files in a folder, which Argo shows as artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from steps.results.summary import Summary
    from steps.store import Store

MAX_ARTIFACT_BYTES = 32 << 20
"""A larger file is only among the results: nobody looks at it in a browser, and the folder must not fill a disk."""

artifacts_option = click.option(
    "--artifacts",
    "artifacts_folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for copies of summary.json and of result files up to 32 MiB.",
)


def copy_artifacts(store: Store, summary: Summary, folder: Path | None) -> None:
    """Copy the files of a run that has results, in the place of those of another. None copies nothing.

    Raises:
        StorageError: reading or writing failed.
    """
    from steps.errors import StorageError
    from steps.results import MISSING_KEY, OUTPUT_KEYS, SUMMARY_KEY

    if folder is None or summary.status == "failed":
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Records of one message are done one after the other: what is seen together is of one.
        for key in (SUMMARY_KEY, MISSING_KEY, *OUTPUT_KEYS.values()):
            (folder / key).unlink(missing_ok=True)
        for key in (SUMMARY_KEY, *summary.files.values()):
            data = store.get_range(key, 0, MAX_ARTIFACT_BYTES + 1)
            if len(data) <= MAX_ARTIFACT_BYTES:
                (folder / key).write_bytes(data)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}; choose another with --artifacts") from error

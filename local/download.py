"""Copying the results of tasks from the service's place to a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from local.runner import Video
from steps.errors import StorageError, UsageError
from steps.results import MISSING_KEY, SUMMARY_KEY
from steps.results.summary import load_summary
from steps.store import FolderStore, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from steps.completed import Completed
    from steps.settings import Settings
    from steps.store import Store
    from steps.task import Task


def download_all(tasks: Sequence[Task], outcomes: Sequence[Completed], out: Path, settings: Settings) -> Iterator[str]:
    """Copy the results of tasks: of a single one to the folder `out`, of several to folders in it; gives the folders.

    A task without results is left out. Errors: `download_results`.

    Args:
        outcomes: what became of the tasks, in their order.
    """
    names = distinct(Video(task.bucket, task.object).name for task in tasks)
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.results is not None:
            folder = FolderStore(out if len(tasks) == 1 else out / name)
            download_results(outcome, folder, settings)
            yield folder.url


def download_results(completed: Completed, folder: FolderStore, settings: Settings) -> None:
    """Copy the result files of a task, in place of those of an earlier task with the same RUN.

    Raises:
        UsageError: the folder holds the results of another video, or of other options.
        NotFoundError: the results are gone.
        StorageError: they cannot be read or written.
    """
    if not _is_free(folder, completed.run):
        raise UsageError(
            f"{folder.url} holds results of another video or of other options; name another folder with --out. "
            f"Those of this task are at {completed.results}"
        )
    copy_results(open_store(completed.results or "", settings), folder, list(completed.files.values()))


def copy_results(source: Store, target: FolderStore, keys: list[str]) -> None:
    """Copy result files, and those that tell of the run. What they replace is gone before.

    Raises:
        NotFoundError: one is gone.
        StorageError: one cannot be read or written.
    """
    if source.url == target.url:
        return
    missing = [MISSING_KEY] if source.exists(MISSING_KEY) else []
    copied = list(dict.fromkeys([*keys, *missing, SUMMARY_KEY]))
    # The summary says that all is there, so it goes first and comes last.
    for key in (SUMMARY_KEY, MISSING_KEY):
        target.delete(key)
    for key in copied:
        with source.open_reader(key) as reader, target.open_writer(key) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)


def _is_free(folder: FolderStore, run: str | None) -> bool:
    try:
        summary = load_summary(folder)
    except StorageError:
        return False  # whatever it is, it is not this RUN's
    return summary is None or summary.run == run


def distinct(names: Iterable[str]) -> list[str]:
    """The names, each further one of a kind with a number: `clip`, `clip-2`, `clip-3`."""
    given: dict[str, None] = {}
    last: dict[str, int] = {}
    for name in names:
        # Of thousands named alike none counts from the start again.
        number = last.get(name, 1)
        chosen = name if number == 1 else f"{name}-{number}"
        while chosen in given:
            number += 1
            chosen = f"{name}-{number}"
        last[name] = number
        given[chosen] = None
    return list(given)

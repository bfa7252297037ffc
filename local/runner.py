"""`reelscan run`: the whole job for one video, results in a folder."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from local.model_server import check_resolves, choose_server, note_on_labels
from steps.errors import BadInputError, NotFoundError, StorageError, UsageError
from steps.job import Job, JobResult, Observer
from steps.lease import Lease
from steps.plan import PLAN_KEY
from steps.planner import load_plan
from steps.results import MISSING_KEY, OUTPUT_KEYS, SUMMARY_KEY
from steps.store import FolderStore, Store

if TYPE_CHECKING:
    from steps.options import Options
    from steps.settings import Settings

OUT = Path("out")
"""Where results go by default, in a folder named after the video."""
READY_SECONDS = 30.0
"""How long a server named by --serving may take to be there, unless REELSCAN_READY_TIMEOUT_SECONDS is set."""


@dataclass(frozen=True)
class Video:
    """What `reelscan run` was given."""

    bucket: str | None
    key: str
    """The key, or the path of a file."""

    @property
    def name(self) -> str:
        """The file's name without its ending, fit for the name of a folder."""
        name = PurePosixPath(self.key.replace("\\", "/")).name.rpartition(".")
        stem = re.sub(r"[^\w.-]+", "_", name[0] or name[2]).strip("._")
        return stem[:100] or "video"


def parse_video(text: str) -> Video:
    """`s3://BUCKET/KEY`, or the path of a file.

    Raises:
        UsageError: it is a URL of another kind, or one without bucket or key.
        NotFoundError: there is no such file.
    """
    if text.startswith("s3://"):
        bucket, _, key = text.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise UsageError(f"{text!r}: expected s3://BUCKET/KEY")
        return Video(bucket, key)
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise UsageError(f"{text[:200]!r}: only a file or s3://BUCKET/KEY can be read")
    if not Path(text).exists():
        raise NotFoundError(f"{text}: does not exist")
    return Video(None, text)


def run_video(
    video: Video, options: Options, settings: Settings, *, out: Path | None, serving: str | None,
    model: str | None, processes: int, observer: Observer,
) -> JobResult:  # fmt: skip
    """Do the job for one video with results in a folder. Those of another RUN are replaced only if forced.

    Args:
        out: the folder; by default one below `OUT` that is free, or holds this RUN.
        serving: HOST:PORT of a server; by default the embedded one is started.
        model: of the embedded server; None is the sample model.
        processes: chunks analysed at a time; 0 is as many as the cores allow.

    Raises:
        ReelscanError: there are no results.
    """
    opened: list[FolderStore] = []

    def open_run(run: str) -> Store:
        store = FolderStore(OUT / video.name if out is None else out)
        if out is None and _run_in(store) not in (None, run):
            store = FolderStore(OUT / f"{video.name}-{run[:8]}")
        opened.append(store)
        return claim_folder(store, run, settings, observer.note, replace=options.force)

    if options.model is not None:
        settings = settings.model_copy(update={"model_name": options.model})
    if serving is not None and "ready_timeout_seconds" not in settings.model_fields_set:
        # A person waits, and is told of a wrong address sooner than a pod beside a server that still starts.
        settings = settings.model_copy(update={"ready_timeout_seconds": READY_SECONDS})
    server, settings = choose_server(serving, model, settings)
    if serving is not None:
        check_resolves(serving)
    if (note := note_on_labels(settings)) is not None:
        observer.note(note)
    with server as running, _nothing_left(opened):
        return Job(
            bucket=video.bucket,
            key=video.key,
            options=options,
            settings=settings,
            open_run=open_run,
            server=running,
            processes=processes,
            force_nonce=uuid.uuid4().hex,
            observer=observer,
        ).run()


@contextmanager
def _nothing_left(opened: list[FolderStore]) -> Iterator[None]:
    """When bad input ends the block, remove the folder if it holds no results and nothing of the user's."""
    try:
        yield
    except BadInputError:
        folder = opened[-1].folder if opened else OUT
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            if folder.parent == OUT.absolute():
                with suppress(OSError):  # it holds the results of other videos
                    folder.parent.rmdir()
        raise


def claim_folder(
    store: FolderStore, run: str, settings: Settings, note: Callable[[str], None], *, replace: bool
) -> Store:
    """The folder as the store of a RUN. What another RUN left there is removed with `replace`, and nothing else.

    Raises:
        UsageError: it holds another RUN's results, which are not to be replaced.
        OutsideError: another process is at work there and does not finish, or files cannot be removed.
    """
    if _run_in(store) in (None, run):
        return store
    if not replace:
        raise UsageError(
            f"{store.url} holds results of another video or of other options; name another folder with --out, or "
            "replace them with --force"
        )
    with Lease(store, settings.lease_seconds):
        other = _run_in(store)
        if other not in (None, run):
            note(f"{store.url} holds results of another video or of other options; they are replaced")
            store.delete(SUMMARY_KEY)
            for key in (*OUTPUT_KEYS.values(), MISSING_KEY):
                store.delete(key)
            shutil.rmtree(store.folder / "chunks", ignore_errors=True)
            # Last, so that a folder that was half cleared is still known as another's.
            store.delete(PLAN_KEY)
    return store


def _run_in(store: FolderStore) -> str | None:
    """Whose files the folder holds: a RUN, "" if that cannot be told, or None for nobody's."""
    try:
        return load_plan(store).run
    except NotFoundError:
        return None
    except StorageError:
        return ""

"""`reelscan send`: puts tasks on the queue, and waits for what becomes of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local.aws import endpoint_url
from steps.errors import NotFoundError, QueueError, ReelscanError, TimeLimitError, UsageError
from steps.ledger import Ledger
from steps.options import Options
from steps.queues import MAX_BATCH, Queues
from steps.store import open_store
from steps.task import Task, make_task

if TYPE_CHECKING:
    from steps.completed import Completed
    from steps.settings import Settings

UPLOADS = "sent"
"""Prefix of local files in the task-data bucket."""
FIRST_POLL_SECONDS = 0.2
LONGEST_POLL_SECONDS = 5.0
# A ledger is asked for one task at a time, since a listing of it would be of all tasks there ever were. Thousands one
# after another would take minutes a round, and all of them every few seconds would cost more than it tells.
ASKED_AT_ONCE = 8
"""Threads that ask the ledger: an answer takes some 20 ms, nearly all of it waiting."""
ASKED_A_ROUND = 500
"""Tasks asked for between two pauses, in turn: what eight threads do in a second or two."""
_CONNECT_SECONDS = 5.0


def check_embedded(port: int) -> None:
    """See whether the service's embedded S3 and SQS are there.

    Raises:
        QueueError: nothing answers.
    """
    try:
        socket.create_connection(("127.0.0.1", port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise QueueError(
            f"no service answers at {endpoint_url(port)}: start `reelscan up` in another terminal, "
            "or set REELSCAN_TASK_QUEUE to send to another queue"
        ) from error


def make_tasks(
    videos: Sequence[str], options: Mapping[str, Any], token: str | None, settings: Settings, bucket: str | None
) -> list[Task]:
    """The tasks of `s3://BUCKET/KEY` addresses and of local files, which are uploaded.

    Args:
        options: by name, as a message holds them.
        token: the sender's own, for the field `id`.
        bucket: to which local files go.

    Raises:
        UsageError: an address is wrong, or there is no bucket for a file.
        BadInputError: a file does not exist, or the service would refuse the task.
        StorageError: a file could not be uploaded.
    """
    extra = {} if token is None else {"id": token}
    tasks = []
    # All addresses are checked before the first upload.
    for video in videos:
        address = _parse(video, bucket)
        tasks.append(make_task({"bucket": address[0], "object": address[1], **options, **extra}, settings))
    for video, task in zip(videos, tasks, strict=True):
        if not video.startswith("s3://"):
            upload(Path(video), task.bucket, task.object, settings)
    return tasks


def _parse(video: str, bucket: str | None) -> tuple[str, str]:
    if video.startswith("s3://"):
        named, _, key = video.removeprefix("s3://").partition("/")
        if not named or not key:
            raise UsageError(f"{video!r}: expected s3://BUCKET/KEY")
        return named, key
    if not Path(video).is_file():
        raise NotFoundError(f"{video}: is no file; name a file or s3://BUCKET/KEY")
    if not bucket:
        raise UsageError(f"{video}: no bucket is set for local files; set REELSCAN_TASK_DATA_BUCKET, or --bucket")
    return bucket, f"{UPLOADS}/{_digest(Path(video))}/{Path(video).name}"


def upload(path: Path, bucket: str, key: str, settings: Settings) -> None:
    """Copy a file to S3. One that is there under its digest already is left alone, so that its results count on.

    Raises:
        NotFoundError: the bucket does not exist.
        StorageError: S3 or the file failed.
    """
    store = open_store(f"s3://{bucket}", settings)
    if store.exists(key):
        return
    with path.open("rb") as source, store.open_writer(key) as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def send_tasks(tasks: Sequence[Task], settings: Settings, told: Callable[[int], None] = lambda sent: None) -> list[str]:
    """Put tasks on the task queue; gives their ids.

    Args:
        told: is given the number of those sent so far.

    Raises:
        UsageError: the queue does not exist.
        AccessDeniedError: SQS refuses.
        QueueError: it cannot be reached. If tasks were sent before, it is said how many.
    """
    if settings.task_queue is None:
        raise UsageError("no task queue is set; set REELSCAN_TASK_QUEUE to its name or URL")
    queues = Queues(settings)
    bodies = [task.to_message() for task in tasks]
    if len(bodies) == 1:
        return [queues.send(settings.task_queue, bodies[0])]
    task_ids: list[str] = []
    while len(task_ids) < len(bodies):
        try:
            task_ids += queues.send_batch(settings.task_queue, bodies[len(task_ids) : len(task_ids) + MAX_BATCH])
        except ReelscanError as error:
            if not task_ids:
                raise
            raise type(error)(
                f"{error}; {len(task_ids)} of {len(bodies)} tasks were sent before: send all again, "
                "what is done is not computed again"
            ) from error
        told(len(task_ids))
    return task_ids


def wait_for_tasks(
    task_ids: Sequence[str], settings: Settings, *, timeout_seconds: float, told: Callable[[Completed], None]
) -> dict[str, Completed]:
    """Follow the ledger until every task is reported; gives what became of each, by task id.

    The messages are given without their `frame_records`, so that those of thousands of tasks fit into memory.

    Args:
        timeout_seconds: of the whole wait.
        told: is given each as it is reported.

    Raises:
        UsageError: the settings do not say where the ledger is.
        TimeLimitError: some are not reported in time.
        StorageError: the ledger cannot be read.
    """
    if settings.results is None:
        raise UsageError("no place of the results is set; set REELSCAN_RESULTS as the service has it")
    ledger = Ledger(open_store(settings.results, settings).below("ledger"))
    deadline = time.monotonic() + timeout_seconds
    poll_seconds = FIRST_POLL_SECONDS
    reported: dict[str, Completed] = {}
    waiting = deque(dict.fromkeys(task_ids))
    with ThreadPoolExecutor(ASKED_AT_ONCE, "ledger") as pool:
        while True:
            # In the last round all are asked for, so that nothing that is there is missed.
            is_last = time.monotonic() >= deadline
            asked = [waiting.popleft() for _ in range(len(waiting) if is_last else min(ASKED_A_ROUND, len(waiting)))]
            before = len(reported)
            for task_id, entry in zip(asked, pool.map(ledger.entry, asked), strict=True):
                if entry is None:
                    waiting.append(task_id)
                else:
                    completed = entry.completed.model_copy(update={"frame_records": None})
                    reported[task_id] = completed
                    told(completed)
            if not waiting:
                return reported
            if is_last:
                raise TimeLimitError(
                    f"{len(waiting)} of {len(task_ids)} tasks were not reported within {timeout_seconds:g} s, "
                    f"among them {waiting[0]}; the ledger is at {ledger.store.url}"
                )
            # Where one of many is done, others that were not asked for are likely to be done too.
            if len(reported) == before or len(waiting) <= ASKED_A_ROUND:
                time.sleep(max(0.0, min(poll_seconds, deadline - time.monotonic())))
                poll_seconds = min(poll_seconds * 1.2, LONGEST_POLL_SECONDS)


def message_options(texts: Mapping[str, str | None]) -> dict[str, Any]:
    """The options that flags name, as a message holds them; those that are not given are left to the service.

    Raises:
        UsageError: a value is not allowed.
    """
    given = {name: text for name, text in texts.items() if text is not None}
    checked = Options.from_text(given, {})
    dumped: dict[str, Any] = json.loads(checked.model_dump_json(include=set(given)))
    return dumped

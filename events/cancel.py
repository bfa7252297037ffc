"""Ends a run on order."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from events.runs import NAME_START, RunObject
from steps.errors import AccessDeniedError, NotFoundError, TimeLimitError

if TYPE_CHECKING:
    from events.kubernetes import Namespace

POLL_SECONDS = 1.0
STOP_SECONDS = 30.0
"""For a run to end by itself."""
SENSOR = "reelscan"
"""What is deployed with it has a reconciler too, which may stand in another namespace."""
_RECORD = re.compile(r"-[0-9]{1,3}$")


@dataclass(frozen=True)
class Cancelled:
    """A run that was told to end."""

    workflow: str
    phase: str
    """When it was last looked at."""
    had_ended: bool
    """Whether it had ended before, so that there was nothing to tell."""
    is_held: bool = True
    """Whether the reconciler reports what the run itself does not."""


def find_run(namespace: Namespace, task_id: str) -> RunObject:
    """The run of a task.

    Args:
        task_id: as the completed message has it: the message's id, perhaps with `-N` for a record of several, or the
            Workflow's uid of a run by hand.

    Raises:
        NotFoundError: there is none, or not yet.
    """
    for message_id in dict.fromkeys((task_id, _RECORD.sub("", task_id))):
        # A name that Kubernetes would refuse is of no object, and must not become another path.
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}", message_id):
            document = namespace.find("workflows", NAME_START + message_id.lower())
            if document is not None:
                return RunObject(document)
    for metadata in namespace.list_metadata("workflows"):
        if metadata["uid"] == task_id:
            return RunObject(namespace.get("workflows", metadata["name"]))
    raise NotFoundError(
        f"task {task_id[:100]!r} has no workflow in the namespace {namespace.name}: it may still wait in the queue, "
        "be done and cleaned up, or be of another namespace (--namespace)"
    )


def cancel(namespace: Namespace, run: RunObject) -> Cancelled:
    """Tell a run to end. One that waits for its turn ends at once; the exit handler of one that runs reports it.

    A run by hand, for which nothing else accounts, is handed to the reconciler if the namespace has one.
    """
    if run.metadata.has_ended:
        return Cancelled(run.metadata.name, run.phase, had_ended=True)
    strategy = "Stop" if run.phase == "Running" else "Terminate"
    change: dict[str, Any] = {"spec": {"shutdown": strategy}}
    is_held = not run.metadata.is_accounted
    if not is_held and _has_reconciler(namespace):
        change["metadata"] = run.metadata.holding()
        is_held = True
    namespace.patch("workflows", run.metadata.name, change)
    return Cancelled(run.metadata.name, run.phase, had_ended=False, is_held=is_held)


def _has_reconciler(namespace: Namespace) -> bool:
    try:
        return namespace.find("sensors", SENSOR) is not None
    except AccessDeniedError:
        return False


def wait_for_end(
    namespace: Namespace, name: str, *, timeout_seconds: float, force: bool = True,
    told: Callable[[str], None] = lambda phase: None,
) -> str:  # fmt: skip
    """Wait until a run has ended; gives its phase.

    `Stop` lets a run's exit handler report it, but is not noticed by one that was retried and waits for its turn.

    Args:
        force: whether one that has not ended after half a minute is ended by force, without its exit handler.
        told: is given the phase each time it is looked at.

    Raises:
        TimeLimitError: it has not ended in time.
    """
    began = time.monotonic()
    deadline = began + timeout_seconds
    forced = False
    while True:
        document = namespace.find("workflows", name)
        if document is None:
            return "deleted"
        run = RunObject(document)
        told(run.phase)
        if run.metadata.has_ended:
            return run.phase
        if time.monotonic() > deadline:
            raise TimeLimitError(
                f"{name} was told to end and is still {run.phase or 'not begun'} after {timeout_seconds:g} s; "
                "see its pods, and whether Argo's controller runs"
            )
        if force and not forced and time.monotonic() > began + STOP_SECONDS:
            namespace.patch("workflows", name, {"spec": {"shutdown": "Terminate"}})
            forced = True
        time.sleep(POLL_SECONDS)

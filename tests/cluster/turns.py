"""Whether Workflows took their turns: by when each was seen to wait, began and ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.cluster.accounts import Workflow


def most_at_a_time(workflows: Iterable[Workflow]) -> int:
    """How many surely ran at one time: of two in the same second one may have ended before the other began."""
    changes = [(workflow.started_at, 1) for workflow in workflows if workflow.started_at]
    changes += [(workflow.finished_at, -1) for workflow in workflows if workflow.started_at and workflow.finished_at]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def overtaken(workflows: Sequence[Workflow], waiting_since: Mapping[str, float], patience_seconds: float) -> list[str]:
    """Workflows before which one started that surely had a lower priority and came into its own later.

    Args:
        workflows: all.
        waiting_since: when each was first seen to wait.
        patience_seconds: how long Argo may take to know of one that waits.
    """
    found = []
    for urgent in workflows:
        since = waiting_since.get(urgent.name)
        if since is None:
            continue
        before = [
            other.name
            for other in workflows
            if other.priority < urgent.priority and since + patience_seconds < other.started_at < urgent.started_at
        ]
        if before:
            found.append(f"{urgent.name} of priority {urgent.priority} waited while {', '.join(before[:5])} started")
    return found

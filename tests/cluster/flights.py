"""What was in flight when a component was hit, and what became of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.cluster.accounts import Collected


@dataclass(frozen=True)
class Flight:
    """Tasks that had been sent and were not yet answered at a hit."""

    name: str
    """Of what was hit."""
    seconds_until_ready: float
    tasks: int
    answered: int
    """Of these, in the end."""
    longest_seconds: float
    """From the hit to the answer of the last of them that was answered."""

    def line(self) -> str:
        """For people to read."""
        figures = f"{self.seconds_until_ready:>8.1f}{self.tasks:>11}{self.answered:>10}{self.longest_seconds:>9.0f}"
        return f"{self.name:<14}{figures}"


HEAD = f"{'hit':<14}{'ready s':>8}{'in flight':>11}{'answered':>10}{'last s':>9}"


def flights(collected: Collected) -> list[Flight]:
    """One for each hit, in their order."""
    answered_at: dict[str, float] = {}
    for message in sorted(collected.received, key=lambda message: message.at):
        answered_at.setdefault(json.loads(message.data)["task_id"], message.at)
    found = []
    for upset in sorted(collected.upsets, key=lambda upset: upset.at):
        sent = [task_id for sent in collected.sent if sent.at <= upset.at for task_id in sent.expected]
        tasks = [task_id for task_id in sent if answered_at.get(task_id, float("inf")) > upset.at]
        seconds = [answered_at[task_id] - upset.at for task_id in tasks if task_id in answered_at]
        took = upset.until - upset.at
        found.append(Flight(upset.name, took, len(tasks), len(seconds), max(seconds, default=0.0)))
    return found

"""What a stack is doing: progress until it is done, and what failed first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.session import calling
from steps.errors import OutsideError, TimeLimitError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackEventTypeDef
    from rich.console import Console

    from infra.session import Aws

POLL_SECONDS = 5.0
LIMIT_SECONDS = 5400.0
_PLAIN_SECONDS = 30.0
"""Between lines where there is no terminal to redraw."""


@dataclass(frozen=True)
class Failure:
    """What failed first."""

    resource: str
    kind: str
    reason: str


def events(aws: Aws, stack_id: str, since: datetime) -> list[StackEventTypeDef]:
    """Events of a stack after a time, oldest first."""
    found: list[StackEventTypeDef] = []
    with calling(f"events of stack {stack_id}"):
        for page in aws.cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id):
            for event in page["StackEvents"]:
                if event["Timestamp"] < since:
                    return found[::-1]
                found.append(event)
    return found[::-1]


def first_failure(found: list[StackEventTypeDef]) -> Failure | None:
    """The first resource that failed by itself; those that were only stopped because of it come later."""
    for event in found:
        reason = event.get("ResourceStatusReason", "")
        is_stack = event.get("PhysicalResourceId") == event["StackId"]
        cancelled = "cancelled" in reason.lower() or "canceled" in reason.lower()
        if event.get("ResourceStatus", "").endswith("_FAILED") and not is_stack and not cancelled:
            return Failure(
                event.get("LogicalResourceId", "?"), event.get("ResourceType", "?"), reason or "no reason given"
            )
    return None


def follow(aws: Aws, stack_id: str, since: datetime, resources: int, console: Console) -> str:
    """Show progress until the stack is done; gives its status, `DELETE_COMPLETE` once it is gone.

    Args:
        aws: of the stack's region.
        stack_id: of the stack: by its name a deleted one is not found.
        since: when what is followed began.
        resources: about how many there are.
        console: to show it on.

    Raises:
        OutsideError: it failed, with the first resource and why.
        TimeLimitError: it takes too long.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    with _Display(console, resources) as display:
        while True:
            with calling(f"stack {stack_id}"):
                stack = aws.cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]
            found = events(aws, stack_id, since)
            display.show(found)
            status = stack["StackStatus"]
            if not status.endswith("_IN_PROGRESS"):
                break
            if time.monotonic() > deadline:
                raise TimeLimitError(
                    f"stack {stack['StackName']} is {status} after {LIMIT_SECONDS:g} s; it goes on, "
                    "and the same command follows it again"
                )
            time.sleep(POLL_SECONDS)
    if status.endswith("_FAILED") or "ROLLBACK" in status:
        raise OutsideError(f"stack {stack['StackName']} is {status}: {_why(found, stack.get('StackStatusReason', ''))}")
    return status


def _why(found: list[StackEventTypeDef], reason: str) -> str:
    failure = first_failure(found)
    if failure is None:
        return reason or "CloudFormation gives no reason"
    return f"first {failure.resource} ({failure.kind}) failed: {failure.reason}"


class _Display:
    """A bar on a terminal, elsewhere a line now and then."""

    def __init__(self, console: Console, resources: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("waiting for CloudFormation", total=resources)
        self._began = time.monotonic()
        self._printed = -_PLAIN_SECONDS

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, found: list[StackEventTypeDef]) -> None:
        """Show what the events come to."""
        latest = dict(_latest(found))
        done = sum(status.endswith("_COMPLETE") for status in latest.values())
        at_work = [name for name, status in latest.items() if status.endswith("_IN_PROGRESS")]
        words = ", ".join(at_work[:3]) + (f" and {len(at_work) - 3} more" if len(at_work) > 3 else "")
        self._bar.update(self._task, completed=done, description=words or "waiting for CloudFormation")
        elapsed = time.monotonic() - self._began
        if not self._console.is_terminal and words and elapsed - self._printed >= _PLAIN_SECONDS:
            self._printed = elapsed
            self._console.print(f"{elapsed:6.0f} s  {done} done, at work: {words}")


def _latest(found: list[StackEventTypeDef]) -> Iterator[tuple[str, str]]:
    for event in found:
        if event.get("PhysicalResourceId") != event["StackId"]:
            yield event.get("LogicalResourceId", ""), event.get("ResourceStatus", "")

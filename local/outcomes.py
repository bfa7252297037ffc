"""The exit status of what became of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steps.errors import BadInputError, OutsideError, PartialResultError, ReelscanError

if TYPE_CHECKING:
    from steps.completed import Completed

_BY_CODE: dict[str, type[ReelscanError]] = {
    ReelscanError.code: ReelscanError,
    **{error.code: error for error in BadInputError.__subclasses__()},
}


def error_for(code: str, message: str) -> ReelscanError:
    """The error with which a command ends whose task failed with `code`: a defect, bad input, or something outside."""
    return _BY_CODE.get(code, OutsideError)(message)


def raise_for_outcomes(outcomes: Sequence[Completed]) -> None:
    """Raise for tasks that did not succeed: a defect first, then bad input, what failed outside, missing frames.

    Raises:
        ReelscanError, BadInputError, OutsideError: a task failed.
        PartialResultError: frames of a task are missing.
    """
    errors = [error for outcome in outcomes if (error := _error_of(outcome)) is not None]
    if not errors:
        return
    worst = min(errors, key=lambda error: error.exit_status)
    if len(outcomes) == 1:
        raise worst
    raise type(worst)(f"{len(errors)} of {len(outcomes)} tasks did not succeed, one because: {worst}")


def _error_of(outcome: Completed) -> ReelscanError | None:
    if outcome.error is not None:
        return error_for(outcome.error.code, f"task {outcome.task_id}: {outcome.error.message}")
    if outcome.status == "partial" and outcome.frames is not None:
        missing = outcome.frames.planned - outcome.frames.analysed
        return PartialResultError(
            f"task {outcome.task_id}: {missing} of {outcome.frames.planned} planned frames could not be analysed; "
            f"{outcome.results}summary.json lists them"
        )
    return None

"""What the programs behind the targets share: settings in, one line of error out; and other programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from infra.settings import InfraSettings
from steps.errors import OutsideError, ReelscanError, UsageError

CALL_SECONDS = 600.0


def main(target: str, action: Callable[[InfraSettings, Console], None]) -> int:
    """Run the program of a target with the settings of the environment; gives the exit status of `reelscan`."""
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    try:
        action(InfraSettings.from_environment(), console)
    except KeyboardInterrupt:
        sys.stderr.write(f"{target}: stopped; what AWS has begun goes on\n")
        return 130
    except ReelscanError as error:
        sys.stderr.write(f"{target}: {error}\n")
        return error.exit_status
    return 0


def confirm(settings: InfraSettings, console: Console, what: str) -> None:
    """Have the stack's name typed, or given. Raises UsageError.

    Args:
        settings: which stack, and the name that was given.
        console: to ask on.
        what: a sentence that says what is deleted.
    """
    name = settings.cluster_stack_name
    typed = settings.confirm
    if not typed and sys.stdin.isatty():
        console.print(what)
        typed = console.input("The stack's name, to go on: ").strip()
    if typed != name:
        raise UsageError(f"CONFIRM={typed!r}: nothing was deleted; give the stack's name, CONFIRM={name}")


def need(program: str, source: str) -> str:
    """The path of a program. Raises UsageError that says where it comes from."""
    path = shutil.which(program)
    if path is None:
        raise UsageError(f"the program {program} is not on the PATH; install it: {source}")
    return path


def run(
    command: list[str],
    *,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = CALL_SECONDS,
) -> str:
    """Output of another program.

    Raises:
        OutsideError: it failed, with what it said last, or did not end in time.
    """
    words = [word for word in command[1:] if not word.startswith("-")]
    name = " ".join([Path(command[0]).name, *words[:2]])
    try:
        done = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OutsideError(f"{name}: gave no answer for {seconds:g} s") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
        raise OutsideError(f"{name}: {said[-500:]}")
    return done.stdout

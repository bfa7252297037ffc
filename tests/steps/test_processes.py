"""Children that end when they are told to, and when their parent is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from steps.errors import OutsideError, TimeLimitError
from steps.processes import last_line, read_progress, settings_variables, spawn, stop, wait_for_line
from steps.settings import Settings

DEADLINE_SECONDS = 60

IGNORE_SIGTERM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""
WAIT = """
import signal
print("ready", flush=True)
signal.pause()
"""
# The grandchild has this process's stdout too, which is at its end when both are gone.
PARENT = f"""
import signal, sys
from steps.processes import spawn
spawn([sys.executable, "-c", {WAIT!r}], stdout=sys.stdout.fileno())
signal.pause()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_child_that_ignores_sigterm_is_killed_when_the_grace_is_over() -> None:
    child = spawn(python(IGNORE_SIGTERM), stdout=subprocess.PIPE)
    wait_for_line(child, "ready", DEADLINE_SECONDS, "the child")
    stop([child], grace_seconds=0.1)
    assert child.returncode == -9


def test_a_child_that_obeys_sigterm_is_not_killed() -> None:
    child = spawn(python(WAIT), stdout=subprocess.PIPE)
    wait_for_line(child, "ready", DEADLINE_SECONDS, "the child")
    stop([child], grace_seconds=DEADLINE_SECONDS)
    assert child.returncode == -15


if sys.platform == "linux":  # no other system tells a child of its parent's death

    def test_a_child_ends_when_its_parent_is_killed() -> None:
        with subprocess.Popen(python(PARENT), stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            parent.kill()
            assert parent.stdout.read() == b""  # would wait for ever if the grandchild went on


def test_lines_before_the_awaited_one_are_passed_over() -> None:
    child = spawn(python("print('starting'); print('ready at 7')"), stdout=subprocess.PIPE)
    assert wait_for_line(child, "ready", DEADLINE_SECONDS, "the child") == "ready at 7"
    child.wait(DEADLINE_SECONDS)


def test_a_child_that_ends_before_it_is_ready_is_an_error_with_its_status() -> None:
    child = spawn(python("raise SystemExit(7)"), stdout=subprocess.PIPE)
    with pytest.raises(OutsideError, match="the child ended with status 7"):
        wait_for_line(child, "ready", DEADLINE_SECONDS, "the child")


def test_a_child_that_says_nothing_is_waited_for_until_the_time_limit() -> None:
    child = spawn(python(WAIT), stdout=subprocess.PIPE)
    try:
        with pytest.raises(TimeLimitError, match=r"the child was not ready within 0\.1 seconds"):
            wait_for_line(child, "never", 0.1, "the child")
    finally:
        stop([child])


@pytest.mark.parametrize(
    ("text", "line"),
    [("", ""), ("\n\n", ""), ("one\n", "one"), ("one\ntwo\n\n", "two"), ("x" * 10_000 + "\nlast", "last")],
)
def test_the_last_line_of_a_file(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    assert last_line(tmp_path / "log") == line


@pytest.mark.parametrize(("text", "progress"), [("12/34\n", (12, 34)), ("", None), ("12", None), ("a/b", None)])
def test_progress_is_read_once_it_is_whole(text: str, progress: tuple[int, int] | None, tmp_path: Path) -> None:
    assert read_progress(tmp_path / "none") is None
    (tmp_path / "progress").write_text(text)
    assert read_progress(tmp_path / "progress") == progress


def test_settings_go_to_a_child_and_come_back_the_same() -> None:
    settings = Settings(
        results="s3://b/p", allowed_sources=("s3://a/*", "s3://b/c*"), lease_seconds=7.5, model_version=3, max_chunks=9
    )
    assert Settings.from_environment(settings_variables(settings)) == settings

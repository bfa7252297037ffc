"""Waiting for what must come, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_SECONDS = 180.0


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Returns once it happened; fails the test if it does not."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:g} s: {what}"
        time.sleep(0.01)

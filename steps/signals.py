"""Stopping by signal, in spite of libraries that catch every `Exception`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from steps.errors import StoppedError


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Like Ctrl-C it is no `Exception`: botocore would take one for a failure of the network."""


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM raises as Ctrl-C does, so that one `except KeyboardInterrupt` is for both.

    Raises:
        StoppedError: at the end of the block, if it was SIGTERM.
    """
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except Terminated:
        raise StoppedError("stopped by SIGTERM") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Raise Terminated: the handler of SIGTERM."""
    # Once: what cleans up must not be stopped by a second signal.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated

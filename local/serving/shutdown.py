"""Waiting, with a limit, for work that knows no limit of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


def finish_within(work: Callable[[], object], seconds: float) -> bool:
    """Runs `work` in a thread of its own; whether it returned within the time. If not, it goes on."""
    thread = threading.Thread(target=work, name="shutdown", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()

"""Planning in a process of its own, for a process that has to survive it.

Demuxers are C code that reads what strangers send. One that crashes, or loops without reading on, takes a process of
its own along, and not a service.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from steps import errors
from steps.errors import ObjectChangedError, OutsideError, ReelscanError, TimeLimitError
from steps.options import Options
from steps.plan import ModelIdentity, Plan, SourceIdentity
from steps.planner import load_plan
from steps.processes import last_line, read_progress, settings_variables, spawn, stop
from steps.settings import Settings

if TYPE_CHECKING:
    from steps.store import Store

POLL_SECONDS = 0.05
GRACE_SECONDS = 30.0
"""After its time limit, which reading the video enforces by itself, the process is given so long."""


class PlanRequest(BaseModel):
    """What the process has to know besides the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceIdentity
    options: Options
    model: ModelIdentity
    store_url: str
    force_nonce: str
    start_of_worker_seconds: float


def plan_in_process(
    request: PlanRequest, store: Store, settings: Settings, progress: Callable[[int, int], None]
) -> Plan:
    """Make a plan as `make_plan` does, in a process of its own.

    Args:
        store: the one at `request.store_url`.
        progress: is told the bytes read and in all.

    Raises:
        ReelscanError: what `make_plan` raised there.
        OutsideError: the process broke down.
        TimeLimitError: it did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="reelscan-plan-") as name:
        folder = Path(name)
        (folder / "request").write_text(request.model_dump_json())
        command = [sys.executable, "-P", "-m", "steps.planning", name]
        deadline = time.monotonic() + settings.plan_timeout_seconds + GRACE_SECONDS
        with (folder / "messages").open("wb") as messages:
            process = spawn(command, environment={**os.environ, **settings_variables(settings)}, stderr=messages)
        try:
            while (status := process.poll()) is None:
                if time.monotonic() > deadline:
                    raise TimeLimitError(
                        f"{request.source.url}: planning took over {settings.plan_timeout_seconds:g} s "
                        "(REELSCAN_PLAN_TIMEOUT_SECONDS)"
                    )
                if (read := read_progress(folder / "progress")) is not None:
                    progress(*read)
                time.sleep(POLL_SECONDS)
        finally:
            stop([process])
        if status != 0:
            raise _error_left_in(folder, status, request.source.url)
    return load_plan(store)


def _error_left_in(folder: Path, status: int, url: str) -> ReelscanError:
    try:
        left = json.loads((folder / "error").read_text())
        kind: type[ReelscanError] = getattr(errors, left["type"], OutsideError)
        return kind(left["message"])
    except FileNotFoundError:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return OutsideError(f"{url}: planning {how}: {last_line(folder / 'messages') or 'it said nothing'}")


def main() -> None:
    """Make the plan that the folder in the first argument asks for. What fails is left there as `error`."""
    from steps.commands.progress import ProgressFile
    from steps.planner import make_plan
    from steps.source import open_source
    from steps.store import open_store

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    request = PlanRequest.model_validate_json((folder / "request").read_bytes())
    settings = Settings.from_environment()
    try:
        source = open_source(request.source.bucket, request.source.key, settings)
        if source.identity != request.source:
            raise ObjectChangedError(f"{request.source.url}: was replaced before it was planned; send the task again")
        make_plan(
            source,
            request.options,
            request.model,
            settings,
            open_store(request.store_url, settings),
            force_nonce=request.force_nonce,
            replace=bool(request.force_nonce),
            start_of_worker_seconds=request.start_of_worker_seconds,
            progress=ProgressFile(folder / "progress").write,
        )
    except ReelscanError as error:
        (folder / "error").write_text(json.dumps({"type": type(error).__name__, "message": str(error)}))
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()

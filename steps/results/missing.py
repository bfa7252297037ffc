"""Which planned frames could not be analysed: ranges of neighbours with one code.

Broken videos can hold millions of such ranges, so the summary lists the first of them; all are in
`missing.jsonl.gz`, a line per range, which is there only if a frame is missing.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from steps.gzip_lines import GzipLinesWriter
from steps.results import MISSING_KEY
from steps.store import Store

MAX_LISTED_RANGES = 1000


class MissingRange(BaseModel):
    """Planned frames that follow one another in the plan and are missing for one reason. Both ends are included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_frame: int
    end_frame: int
    code: str
    """`not_decodable`, or the error code with which their chunk failed."""


class _Run(NamedTuple):
    start_frame: int
    end_frame: int
    code: str


class MissingFrames:
    """Takes every planned frame in order and merges the missing ones. A context manager: it may open a file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stack = ExitStack()
        self._lines: GzipLinesWriter | None = None
        self._run: _Run | None = None
        self.listed: list[MissingRange] = []
        self.ranges = 0
        self.frames_by_code: dict[str, int] = {}

    def __enter__(self) -> MissingFrames:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def add_analysed(self) -> None:
        """The next planned frame was analysed."""
        self._end_run()

    def add_missing(self, frame: int, code: str) -> None:
        """The next planned frame is missing."""
        self.frames_by_code[code] = self.frames_by_code.get(code, 0) + 1
        if self._run is not None and self._run.code == code:
            self._run = self._run._replace(end_frame=frame)
        else:
            self._end_run()
            self._run = _Run(frame, frame, code)

    def finish(self) -> None:
        """All planned frames were told. The file appears when the block ends."""
        self._end_run()
        if self._lines is not None:
            self._lines.close()

    @property
    def frames(self) -> int:
        """How many frames are missing."""
        return sum(self.frames_by_code.values())

    def _end_run(self) -> None:
        if self._run is None:
            return
        found = MissingRange(**self._run._asdict())
        self._run = None
        self.ranges += 1
        if len(self.listed) < MAX_LISTED_RANGES:
            self.listed.append(found)
        if self._lines is None:
            self._lines = GzipLinesWriter(self._stack.enter_context(self._store.open_writer(MISSING_KEY)))
        self._lines.write(found.model_dump_json())

"""The result files of a run: their names, and how each is written frame by frame in constant memory.

A writer's file appears when its block ends; COCO's block reads `frames.jsonl.gz` again, which must be there by then.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from steps.plan import Plan
from steps.store import Store

FRAMES_KEY = "frames.jsonl.gz"
SUMMARY_KEY = "summary.json"
MISSING_KEY = "missing.jsonl.gz"

OUTPUT_KEYS: dict[str, str] = {
    "frames": FRAMES_KEY,
    "parquet": "detections.parquet",
    "coco": "coco.json",
    "rekognition": "rekognition.json",
}
"""Which file each output of the options is."""


class ResultWriter(Protocol):
    """Takes the analysed frames in order."""

    def add(self, text: str, record: dict[str, Any]) -> None:
        """Take a line of `frames.jsonl`, as text and parsed."""
        ...


def open_output(output: str, store: Store, plan: Plan) -> AbstractContextManager[ResultWriter]:
    """The writer of an output of `OUTPUT_KEYS`. Imports what that output needs, and no more."""
    key = OUTPUT_KEYS[output]
    if output == "frames":
        from steps.results.frames import open_frames

        return open_frames(store, key)
    if output == "parquet":
        from steps.results.parquet import open_parquet

        return open_parquet(store, key)
    if output == "coco":
        from steps.results.coco import open_coco

        return open_coco(store, key, plan)
    from steps.results.rekognition import open_rekognition

    return open_rekognition(store, key, plan)

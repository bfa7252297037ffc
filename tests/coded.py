"""The embedded server with the model that reads frame numbers; conftests import the fixture by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.serving.backends.coded import CodedBackend
from local.serving.server import ModelServer

CODED_PROFILE = Path(__file__).parents[1] / "local/serving/profiles/coded.json"


@pytest.fixture(scope="session")
def coded_server() -> Iterator[ModelServer]:
    with ModelServer(CodedBackend(), model_name="coded") as server:
        yield server


def number_read(line: dict[str, Any]) -> int | None:
    """The number that the coded model found in the picture of a line of frames.jsonl; None if it could not read it."""
    labels = {detection["label"] for detection in line["detections"]}
    if "read" not in labels:
        return None
    return sum(1 << bit for bit in range(16) if f"bit{bit}" in labels)

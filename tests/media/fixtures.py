"""Fixtures for tests that need clips; a conftest imports them by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .bad_inputs import BadInputLibrary
from .clips import clip_library
from .library import ClipLibrary


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "media"


@pytest.fixture(scope="session")
def clips(media_folder: Path) -> ClipLibrary:
    """The catalogue of clips: `clips["h264_open_gop.mp4"].path`."""
    return clip_library(media_folder)


@pytest.fixture(scope="session")
def bad_inputs(media_folder: Path, clips: ClipLibrary) -> BadInputLibrary:
    """What has to be refused: `bad_inputs["empty.mp4"].path`."""
    return BadInputLibrary(media_folder, clips)

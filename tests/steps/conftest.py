from collections.abc import Iterator
from pathlib import Path

import pytest

from local.serving.server import ModelServer
from steps.settings import Settings
from tests.coded import coded_server
from tests.media.fixtures import bad_inputs, media_folder
from tests.media.library import ClipLibrary
from tests.steps.analysis import Analyst
from tests.steps.reading_model import PROFILE, ReadingBackend
from tests.steps.special_clips import all_clips

__all__ = ["bad_inputs", "coded_server", "media_folder"]


@pytest.fixture(scope="session")
def clips(media_folder: Path) -> ClipLibrary:
    """The catalogue, and the clips that only these tests have."""
    return all_clips(media_folder)


@pytest.fixture(scope="session")
def reading_server() -> Iterator[ModelServer]:
    """Serves the model that tells which picture it was sent."""
    with ModelServer(ReadingBackend(), model_name="reading") as server:
        yield server


@pytest.fixture
def analyst(reading_server: ModelServer, tmp_path: Path) -> Analyst:
    settings = Settings(
        serving=reading_server.address, model_name="reading", decode_threads=2, requests_in_flight=2, batch_size=16
    )
    return Analyst(settings, PROFILE, tmp_path / "run")

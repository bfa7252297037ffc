from collections.abc import Iterator
from pathlib import Path

import pytest
from local.serving.backends.coded import CodedBackend
from local.serving.server import ModelServer
from steps.profile import load_profile
from steps.settings import Settings

from tests.media.fixtures import bad_inputs, clips, media_folder
from tests.steps.analysis import Analyst

__all__ = ["bad_inputs", "clips", "media_folder"]

CODED_PROFILE = Path(__file__).parents[2] / "local/serving/profiles/coded.json"


@pytest.fixture(scope="session")
def coded_server() -> Iterator[ModelServer]:
    with ModelServer(CodedBackend(), model_name="coded") as server:
        yield server


@pytest.fixture
def analyst(coded_server: ModelServer, tmp_path: Path) -> Analyst:
    settings = Settings(serving=coded_server.address, model_name="coded", decode_threads=2, requests_in_flight=2)
    return Analyst(settings, load_profile(str(CODED_PROFILE)), tmp_path / "run")

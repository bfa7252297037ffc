"""Images, built once for all tests that run them (marker `images`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.build import ROOT, STEPS_DOCKERFILE, build_serving, build_steps
from images.tool import Tool, find_tool
from tests.images.containers import Containers
from tests.images.saved_models import write_saved_model

STEPS_BASE = "docker.io/library/python:3.11-slim-bookworm"


@pytest.fixture(scope="session")
def tool() -> Tool:
    return find_tool(os.environ.get("CONTAINER_BUILD", ""), os.environ.get("CONTAINER_BUILD_ARGS", ""))


@pytest.fixture(scope="session")
def containers(tool: Tool) -> Iterator[Containers]:
    containers = Containers(tool)
    yield containers
    containers.close()


@pytest.fixture(scope="session")
def steps_image(tool: Tool) -> str:
    build_steps(tool, "reelscan-tests/steps:1", "1")
    return "reelscan-tests/steps:1"


@pytest.fixture(scope="session")
def embedded_image(tool: Tool) -> str:
    tool.build("reelscan-tests/embedded:1", STEPS_DOCKERFILE, ROOT, target="embedded")
    return "reelscan-tests/embedded:1"


@pytest.fixture(scope="session")
def serving_image(tool: Tool, steps_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """images/serving on a base that has a stand-in for TensorFlow Serving."""
    context = tmp_path_factory.mktemp("stand-in")
    shutil.copy(Path(__file__).with_name("stand_in_server.sh"), context)
    (context / "Dockerfile").write_text(
        f"FROM {STEPS_BASE}\nCOPY stand_in_server.sh /usr/bin/tensorflow_model_server\nENV STAND_IN=/tmp\n"
    )
    tool.build("reelscan-tests/stand-in:1", context / "Dockerfile", context)
    model = write_saved_model(tmp_path_factory.mktemp("model") / "7")
    shutil.copy(ROOT / "samples" / "reelscan.json", model.parent)
    model.chmod(0o555)  # as a shared folder may be
    arguments = {"BASE": "reelscan-tests/stand-in:1", "STEPS": steps_image, "MODEL_NAME": "people"}
    build_serving(tool, "reelscan-tests/serving:1", model.parent, arguments)
    return "reelscan-tests/serving:1"

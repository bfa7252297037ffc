from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, open_cluster
from tests.media.fixtures import clips, media_folder

__all__ = ["clips", "media_folder"]

SAMPLE = Path(__file__).parents[2] / "samples/one-by-one-person.mp4"


@pytest.fixture(autouse=True)
def clean_environment() -> None:
    """The S3 and SQS of these tests are those that the environment names, which the cluster sees too."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with open_cluster(f"reelscan-test-{uuid.uuid4().hex[:6]}") as opened:
        opened.upload(SAMPLE, "sample.mp4")
        yield opened

"""Runs that nothing disturbs: what they give, and what the UI shows of them."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


def test_a_run_of_several_chunks_succeeds(cluster: Cluster) -> None:
    run = cluster.submit(bucket=cluster.videos, object="sample.mp4", chunk_seconds=8)

    assert run.wait() == "Succeeded"
    completed = run.completed()
    assert completed.status == "succeeded"
    assert completed.frames is not None
    assert completed.frames.analysed == 100
    assert len(run.nodes("detect")) == 3

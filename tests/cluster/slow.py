"""A deployment whose model server takes its time, so that there is something to see while it works."""

from __future__ import annotations

from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.faults import faulty_serving
from tests.coded import CODED_PROFILE


def deploy_slow(cluster: Cluster, name: str, **changes: Any) -> None:
    """A WorkflowTemplate of the coded model whose server answers three frames in half a second."""
    cluster.deploy(
        name,
        serving=faulty_serving(DELAY_SECONDS=0.5),
        model_profile=str(CODED_PROFILE),
        model_name="coded",
        limits={"batch_size": 3, "requests_in_flight": 1},
        **changes,
    )

"""Taking everything down again, as `make undeploy` does."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from events.runs import FROM_MESSAGE, ORIGIN_LABEL
from tests.cluster.accounts import balance
from tests.cluster.cluster import embedded_serving, wait_for
from tests.cluster.coded_runs import CODED, LIMITS
from tests.cluster.collecting import collect
from tests.cluster.events import open_events
from tests.cluster.traffic import CLIP_KEY, Message, succeeded, write_clip
from workflows import WorkflowSettings


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_what_is_undeployed_while_a_run_is_under_way_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**CODED, "serving": embedded_serving("coded", "coded"), "limits": LIMITS}
    with open_events(f"reelscan-undeploy-{uuid.uuid4().hex[:6]}", apart=True, **settings) as cluster:
        assert cluster.parallelism() == str(WorkflowSettings().max_runs)
        cluster.upload(write_clip(tmp_path / "coded.mp4"), CLIP_KEY)
        task = {"bucket": cluster.videos, "object": CLIP_KEY, "max_frames": 1}
        good = Message("good", json.dumps(task), (succeeded(range(1)),))
        sent = [good.sent(cluster.send(good.body))]
        wait_for("the message to become a run", lambda: cluster.list("workflows", f"{ORIGIN_LABEL}={FROM_MESSAGE}"))
        cluster.undeploy()

        assert cluster.deployed() == []
        assert cluster.parallelism() == ""
        later = cluster.send(good.body)
        collected = collect(cluster, sent)
        assert balance(collected).problems == []
        assert [workflow.finalizers for workflow in collected.workflows] == [()]
        received = cluster.sqs.receive_message(QueueUrl=cluster.task_queue, WaitTimeSeconds=1)["Messages"]
        assert [message["MessageId"] for message in received] == [later]

"""Messages from somebody who means harm: each is answered, runs nothing, and holds up no other."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import datetime

import pytest
import yaml

from tests.cluster.asked import (
    Asked,
    assert_all_are_accounted_for,
    make_workflow,
    open_slow_events,
    parameter,
)
from tests.cluster.cluster import Run
from tests.cluster.events import EventsCluster
from tests.cluster.faults import log

pytestmark = pytest.mark.cluster

DELAY_SECONDS = 5.0
"""The most by which one message may hold up the next."""
HOSTILE = {
    "tags": '{"bucket": "{{workflow.uid}}", "object": "{{=1+}}", "id": "{{"}',
    "open-brace": "{{",
    "expression": "{{=1+}}",
    "shell": '{"bucket": "$(touch /tmp/x)", "object": "; rm -rf / #`id`"}',
    "yaml": "&a [*a, *a]\n- !!python/object/apply:os.system ['id']",
    "deep": "[" * 20_000 + "]" * 20_000,
    "list": "[1, 2, 3]",
    "number": "1e999",
    "types": '{"bucket": 7, "object": ["a"], "priority": {"a": 1}}',
    "priority": '{"bucket": "some-bucket", "object": "x", "priority": 1e300}',
    "records": '{"Records": [{"s3": 7}, [], null, "{{workflow.name}}"]}',
    "no-records": '{"Records": {}}',
    "escapes": '{"bucket": "\\u001b[31m\\u202e", "object": "\\u0000"}',
    "large": json.dumps({"bucket": "some-bucket", "object": "x", "id": "y" * 65_000}),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsCluster]:
    with open_slow_events(tmp_path_factory.mktemp("clip")) as opened:
        yield opened


@pytest.fixture(scope="module")
def asked(cluster: EventsCluster) -> Asked:
    return Asked(cluster)


@pytest.fixture(scope="module")
def hostile(cluster: EventsCluster, asked: Asked) -> Asked:
    """Hostile messages, each followed by a good one."""
    for name, body in HOSTILE.items():
        asked.send(f"hostile-{name}", body)
        asked.send(f"after-{name}", max_frames=1)
    return asked


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_answered_runs_nothing_and_holds_up_no_other(hostile: Asked, name: str) -> None:
    for task_id in task_ids(hostile, f"hostile-{name}"):
        completed = hostile.cluster.completed(task_id)
        assert completed.status == "failed"
        assert completed.error is not None
        assert completed.error.code in ("invalid_task", "access_denied")
        assert re.fullmatch(r"[^\x00-\x1f\x7f]+", completed.error.message)
    after = hostile.completed(f"after-{name}")
    assert after.status == "succeeded"
    made = [created(hostile.run(f"{which}-{name}")) for which in ("hostile", "after")]
    log(hostile=name, seconds_to_the_next=made[1] - made[0])
    assert abs(made[1] - made[0]) <= DELAY_SECONDS


def task_ids(asked: Asked, name: str) -> list[str]:
    """Of the tasks of a message."""
    message_id = asked.ids[name]
    try:
        records = json.loads(HOSTILE[name.removeprefix("hostile-")])["Records"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return [message_id]
    return [f"{message_id}-{number}" for number in range(len(records))] or [message_id]


def created(run: Run) -> float:
    """When its Workflow was made, in Unix seconds."""
    return datetime.fromisoformat(run.workflow()["metadata"]["creationTimestamp"]).timestamp()


def test_nothing_of_a_message_stands_in_a_spec_but_its_encoded_body(hostile: Asked) -> None:
    body = json.dumps(
        {"bucket": hostile.cluster.videos, "object": "{{workflow.uid}} {{=1+}}.mp4", "id": "spec", "priority": 99}
    )
    run = hostile.send("spec", body)
    hostile.completed("spec")
    document = run.workflow()
    spec = yaml.safe_dump(document["spec"])
    assert "workflow.uid" not in spec
    assert document["spec"]["priority"] == 9
    assert base64.b64decode(parameter(document, "body")).decode() == body
    assert document["metadata"]["annotations"]["workflows.argoproj.io/title"] == (
        f"{hostile.cluster.videos}/((workflow.uid)) ((=1+)).mp4"
    )


def test_a_body_that_is_no_text_is_reported(cluster: EventsCluster, asked: Asked) -> None:
    body = base64.b64encode(b'{"bucket": "\xff\xfe", "object": "x"}').decode()
    make_workflow(cluster, asked, "no-text", parameters={"body": body})
    completed = asked.completed("no-text")
    assert completed.error is not None
    assert completed.error.code == "invalid_task"
    assert "not UTF-8" in completed.error.message


def test_no_workflow_is_left_unaccounted(cluster: EventsCluster, asked: Asked) -> None:
    assert_all_are_accounted_for(cluster)

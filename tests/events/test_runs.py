"""What a Workflow object tells of a run that could not report itself."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from events.runs import FINALIZER, Metadata, RunObject
from steps.settings import Settings

CREATED = "2026-01-31T12:00:00Z"
TASK = b'{"bucket": "videos", "object": "clip.mp4"}'


def workflow(
    *, phase: str = "", completed: bool = False, message: str = "", shutdown: str = "", deleted: bool = False,
    parameters: dict[str, Any] | None = None,
) -> RunObject:  # fmt: skip
    metadata: dict[str, Any] = {"name": "task-x", "uid": "uid-1", "creationTimestamp": CREATED, "labels": {}}
    if phase:
        metadata["labels"]["workflows.argoproj.io/phase"] = phase
    if completed:
        metadata["labels"]["workflows.argoproj.io/completed"] = "true"
    if deleted:
        metadata["deletionTimestamp"] = CREATED
    given = parameters if parameters is not None else {"body": base64.b64encode(TASK).decode(), "message_id": "id-1"}
    spec: dict[str, Any] = {"arguments": {"parameters": [{"name": n, "value": v} for n, v in given.items()]}}
    if shutdown:
        spec["shutdown"] = shutdown
    status = {"phase": phase, "message": message} if phase else {}
    return RunObject({"metadata": metadata, "spec": spec, "status": status})


@pytest.mark.parametrize(
    ("run", "code"),
    [
        (workflow(phase="Failed", completed=True, shutdown="Stop"), "stopped"),
        (workflow(phase="Failed", completed=True, shutdown="Terminate", deleted=True), "stopped"),
        # Argo calls one that was terminated while it waited for its turn a success.
        (workflow(phase="Succeeded", completed=True, shutdown="Terminate"), "stopped"),
        (workflow(phase="Pending", shutdown="Terminate"), "stopped"),
        (workflow(phase="Failed", completed=True, message="Step exceeded its deadline"), "timeout"),
        (workflow(phase="Error", completed=True, message="pod deleted"), "internal"),
        (workflow(phase="Succeeded", completed=True), "internal"),
        (workflow(phase="Running", deleted=True), "deleted"),
        (workflow(deleted=True), "deleted"),
        (workflow(), "internal"),
    ],
)
def test_the_code_says_how_the_run_ended(run: RunObject, code: str) -> None:
    error = run.error()
    assert error.code == code
    assert error.step == "workflow"
    assert "\n" not in error.message


def test_the_message_is_read_as_the_steps_read_it() -> None:
    given = workflow().given()
    assert (given.body, given.message_id) == (TASK, "id-1")
    assert given.received_at.isoformat() == "2026-01-31T12:00:00+00:00"


def test_a_run_by_hand_has_its_uid_for_an_id_and_a_message_made_of_its_parameters() -> None:
    given = workflow(
        parameters={"body": "", "bucket": "videos", "object": "clip.mp4", "fps": "2", "labels": ""}
    ).given()
    (received,) = given.all_received(Settings())
    assert received.received.task_id == "uid-1"
    assert received.received.require().options.fps == 2


@pytest.mark.parametrize(
    "parameters",
    [
        {"body": "{{=1+}}"},
        {"body": "not base64!"},
        {"body": base64.b64encode(TASK).decode(), "fps": "7"},
        {},
        {"bucket": "videos"},
        {"fps": "banana", "bucket": "b", "object": "o"},
        {"body": 7},
    ],
)
def test_whatever_the_parameters_hold_there_is_something_to_report(parameters: dict[str, Any]) -> None:
    given = workflow(parameters=parameters).given()
    assert len(given.all_received(Settings())) == 1


def test_metadata_tells_who_ever_set_the_shutdown() -> None:
    fields = {"name": "x", "creationTimestamp": CREATED, "finalizers": [FINALIZER]}
    assert not Metadata(fields).may_be_shut_down
    managed = [{"manager": "argo", "fieldsV1": {"f:spec": {"f:shutdown": {}}}}]
    assert Metadata({**fields, "managedFields": managed}).may_be_shut_down
    assert not Metadata(fields).is_accounted
    assert Metadata({**fields, "finalizers": ["other"]}).is_accounted

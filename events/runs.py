"""What a Workflow object tells of a run: its tasks, whether it has ended, and why it could not report them itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from steps.commands.flags import GivenTask, given_task
from steps.completed import StepError
from steps.errors import UsageError
from steps.options import Options

FINALIZER = "reelscan.dev/accounted"
"""Keeps a Workflow that was made from a message until the ledger has an entry for each of its tasks."""
ORIGIN_LABEL = "reelscan.dev/origin"
"""`message`, of a Workflow that was made from one."""
FROM_MESSAGE = "message"
NAME_START = "task-"
"""Of the Workflow of a message; its id follows."""
UNDELIVERED_SELECTOR = "reelscan.dev/undelivered=true"
"""Of the ConfigMaps by which the Sensor hands on messages of which it could not make a Workflow."""
NEVER_BEGAN = "Argo could not begin the workflow; see its controller's log, and send the task again"
STEP = "workflow"
"""Named as the step in what is reported of a run that could not do so itself."""

COMPLETED_LABEL = "workflows.argoproj.io/completed"
PHASE_LABEL = "workflows.argoproj.io/phase"
_OVERDUE = re.compile(
    "exceeded its deadline|exceeded workflow deadline|deadline exceeded|longer than the specified deadline|timed out",
    re.I,
)


@dataclass(frozen=True)
class Metadata:
    """What a list tells of a Workflow."""

    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the object."""
        return str(self.fields["name"])

    @property
    def created_at(self) -> datetime:
        """When the object was made."""
        return _time(self.fields["creationTimestamp"])

    @property
    def finalizers(self) -> list[str]:
        """What keeps it from vanishing."""
        return list(self.fields.get("finalizers", []))

    @property
    def is_accounted(self) -> bool:
        """Whether the finalizer has been removed, or was never there."""
        return FINALIZER not in self.finalizers

    @property
    def is_from_message(self) -> bool:
        """Whether the Sensor made it."""
        return self._labels.get(ORIGIN_LABEL) == FROM_MESSAGE

    @property
    def phase(self) -> str:
        """As Argo labels it; empty while it has not looked at it."""
        return str(self._labels.get(PHASE_LABEL, ""))

    @property
    def has_ended(self) -> bool:
        """Whether Argo is done with it."""
        return self._labels.get(COMPLETED_LABEL) == "true"

    @property
    def is_being_deleted(self) -> bool:
        """Whether it vanishes as soon as it has no finalizer."""
        return "deletionTimestamp" in self.fields

    @property
    def may_be_shut_down(self) -> bool:
        """Whether anybody has ever set `spec.shutdown`."""
        return '"f:shutdown"' in json.dumps(self.fields.get("managedFields", []))

    def holding(self) -> dict[str, Any]:
        """The change of the metadata by which the finalizer is added, to this object and to no other of its name."""
        return {"uid": self.fields["uid"], "finalizers": [*self.finalizers, FINALIZER]}

    def without_history(self) -> Metadata:
        """Without who changed what, which is the most of it."""
        return Metadata({name: value for name, value in self.fields.items() if name != "managedFields"})

    @property
    def _labels(self) -> dict[str, str]:
        return self.fields.get("labels") or {}


@dataclass(frozen=True)
class RunObject:
    """A whole Workflow object."""

    document: dict[str, Any]

    @property
    def metadata(self) -> Metadata:
        """Its metadata."""
        return Metadata(self.document["metadata"])

    @property
    def uid(self) -> str:
        """Of the object; the task's id of a run by hand."""
        return str(self.document["metadata"]["uid"])

    @property
    def started_at(self) -> datetime | None:
        """When Argo started it, or last started it again by `argo retry`."""
        text = self._status.get("startedAt")
        return _time(text) if text else None

    @property
    def phase(self) -> str:
        """As Argo says."""
        return str(self._status.get("phase", ""))

    @property
    def shutdown(self) -> str:
        """`Stop` or `Terminate` if it was told to end, else empty."""
        return str(self._spec.get("shutdown") or "")

    def given(self) -> GivenTask:
        """The message, as the steps of the run understand the same parameters."""
        texts = {str(p.get("name")): str(p["value"]) for p in self._parameters if p.get("value") is not None}
        message_id = texts.get("message_id") or self.uid
        received_at = str(self.document["metadata"]["creationTimestamp"])
        body = texts.get("body")
        # The steps refuse flags that contradict one another; here something is to be reported in any case.
        options = {name: texts.get(name) for name in Options.model_fields} if not body else {}
        by_hand = {name: texts.get(name) if not body else None for name in ("bucket", "object", "id")}
        try:
            return given_task(
                body=body, message_id=message_id, record=None, bucket=by_hand["bucket"], object_=by_hand["object"],
                sender_id=by_hand["id"], received_at=received_at, to_report=True, **options,
            )  # fmt: skip
        except UsageError:
            return GivenTask((body or "").encode(), message_id, None, self.metadata.created_at)

    def error(self) -> StepError:
        """Why the run, which has ended, is being deleted or never began, has not reported its tasks."""
        message = str(self._status.get("message", ""))
        # One that never began has been told to end too.
        if message == NEVER_BEGAN or not (self.phase or self.metadata.is_being_deleted):
            return StepError.make("internal", NEVER_BEGAN, STEP)
        if self.shutdown:
            return StepError.make("stopped", f"the run was told to end ({self.shutdown})", STEP)
        if _OVERDUE.search(message):
            return StepError.make("timeout", f"the run took longer than it may: {message}", STEP)
        if self.metadata.has_ended:
            told = f": {message}" if message else ""
            return StepError.make("internal", f"the run ended as {self.phase} and could not report{told}", STEP)
        return StepError.make("deleted", "the workflow was deleted before it had ended", STEP)

    @property
    def _parameters(self) -> list[dict[str, Any]]:
        """Of the arguments, as far as they are any: what is wrong with a Workflow may be wrong with these."""
        arguments = self._spec.get("arguments")
        parameters = arguments.get("parameters") if isinstance(arguments, dict) else None
        return [p for p in parameters if isinstance(p, dict)] if isinstance(parameters, list) else []

    @property
    def _spec(self) -> dict[str, Any]:
        spec = self.document.get("spec")
        return spec if isinstance(spec, dict) else {}

    @property
    def _status(self) -> dict[str, Any]:
        return self.document.get("status") or {}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)

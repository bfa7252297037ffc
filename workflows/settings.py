"""What a deployment of the workflow may set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from steps.errors import ReelscanError, UsageError
from steps.options import Options
from steps.profile import load_profile
from steps.settings import Settings

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""Kubernetes' way to write amounts: 500m, 2, 512Mi."""
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$")]
Image = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]{0,254}$")]

PORT = 8500
"""Of the model server's gRPC API, as TensorFlow Serving has it."""

# Set by fields of their own, or by the workflow itself.
_NOT_LIMITS = {
    "results", "task_queue", "completed_queue", "dead_letter_queue", "allowed_sources", "serving", "model_name",
    "model_version", "model_profile",
}  # fmt: skip


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(_Model):
    """Requests of a container, and its limits. Memory requested is memory granted."""

    cpu: Quantity = Field(default="1", description="CPUs requested; more may be used if the node has them")
    memory: Quantity = Field(default="1Gi", description="memory requested and allowed")
    memory_after_failure: Quantity | None = Field(
        default=None, description="memory of a retry, which an out-of-memory kill gets once; default: twice as much"
    )
    ephemeral_storage: Quantity = Field(default="1Gi", description="disk requested and allowed")

    @property
    def retry_memory(self) -> str:
        """Memory of a retry."""
        if self.memory_after_failure is not None:
            return self.memory_after_failure
        digits = self.memory.rstrip("mkKMGTi")
        return f"{float(digits) * 2:g}{self.memory[len(digits) :]}"


class Placement(_Model):
    """Which nodes take a pod."""

    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, str]] = []


class Serving(_Model):
    """The container beside detect: TensorFlow Serving with the model, or the embedded server."""

    image: Image = Field(default="reelscan/serving:0.1.0", description="image of images/serving")
    command: list[str] = Field(default=["/usr/local/bin/serve"], description="its entry point")
    args: list[str] = Field(default=[], description="flags of the server")
    environment: dict[str, str] = Field(default={}, description="its environment variables")
    resources: Resources = Resources(cpu="1", memory="2Gi")
    start_seconds: int = Field(default=600, ge=10, description="how long it may take to load the model")


class WorkflowSettings(_Model):
    """Settings of the WorkflowTemplate and of what it needs beside it."""

    # Names
    name: DnsName = Field(default="reelscan", description="of the WorkflowTemplate, and the start of other names")
    namespace: DnsName | None = Field(default=None, description="of all objects; none: the one they are applied to")
    service_account: DnsName = Field(
        default="reelscan-steps", description="that pods run as; has the rights on S3 and SQS"
    )
    executor_account: DnsName = Field(
        default="reelscan-executor", description="whose token Argo's own container has, and no other"
    )

    # What runs
    steps_image: Image = Field(default="reelscan/steps:0.1.0", description="image of images/steps")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secret: DnsName | None = None
    serving: Serving = Serving()
    accelerator: Literal["cpu", "gpu"] = Field(
        default="cpu", description="gpu: one nvidia.com/gpu for each model server"
    )
    model_name: str = Field(default="ssd", description="model name at the server")
    model_version: int = Field(default=1, ge=1, description="model version at the server")
    model_profile: str = Field(
        default="tensorflow_object_detection_api",
        description="a built-in model profile, or the path of a reelscan.json",
    )

    # Places
    results: str = Field(default="s3://results-bucket/reelscan", description="s3://BUCKET/PREFIX of the results")
    artifacts: str | None = Field(
        default="s3://results-bucket/artifacts",
        pattern=r"^s3://[A-Za-z0-9.-]+/[A-Za-z0-9._/-]+$",
        description="s3://BUCKET/PREFIX of the copies of result files that the UI shows; none: it shows none",
    )
    completed_queue: str = Field(default="task-completed-queue", description="name or URL of the completed queue")
    dead_letter_queue: str = Field(default="task-dead-letter-queue", description="name or URL of the dead-letter queue")
    allowed_sources: list[str] = Field(default=["s3://*"], description="s3://BUCKET/PREFIX* that tasks may name")
    aws_region: str | None = None
    aws_endpoint_url: str | None = Field(default=None, description="of another S3 and SQS than AWS")
    aws_secret: DnsName | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, where there is no Pod Identity",
    )

    # Resources and nodes
    plan_resources: Resources = Resources(cpu="1", memory="1Gi")
    detect_resources: Resources = Resources(cpu="1", memory="1Gi")
    aggregate_resources: Resources = Resources(cpu="500m", memory="1Gi")
    standard_nodes: Placement = Placement(node_selector={"inference": "false"})
    inference_nodes: Placement = Placement(
        node_selector={"inference": "true"},
        tolerations=[{"key": "inference", "operator": "Equal", "value": "true", "effect": "NoSchedule"}],
    )
    priority_class: DnsName | None = None

    # Limits
    parallelism: int = Field(default=20, ge=1, description="chunks of a run analysed at a time")
    retries: int = Field(default=3, ge=0, le=10, description="retries of a pod after what may pass by")
    retry_seconds: int = Field(
        default=5, ge=1, description="before the first retry; each further one waits twice as long"
    )
    job_seconds: int = Field(default=21600, ge=60, description="work that a whole run may take, once it is running")
    plan_seconds: int = Field(default=3600, ge=60, description="work that planning may take")
    chunk_seconds: int = Field(default=7200, ge=60, description="work that a chunk may take")
    aggregate_seconds: int = Field(default=3600, ge=60, description="work that merging may take")
    pending_seconds: int = Field(
        default=43200, ge=60, description="how much longer a pod may exist, which it spends waiting for a node"
    )
    limits: dict[str, str | int | float] = Field(
        default={}, description="more settings and options of the steps, by name, such as max_duration_seconds or fps"
    )
    keep_succeeded_seconds: int = Field(default=86400, ge=0, description="before a Workflow that succeeded is deleted")
    keep_failed_seconds: int = Field(default=604800, ge=0, description="before one that failed is deleted")

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: dict[str, Any]) -> dict[str, Any]:
        known = (set(Settings.model_fields) - _NOT_LIMITS) | set(Options.model_fields)
        for name in limits:
            if name not in known:
                raise ValueError(f"limits: {name!r} is not known; known are {', '.join(sorted(known))}")
        return limits

    @model_validator(mode="after")
    def _check_steps(self) -> WorkflowSettings:
        # What a pod would refuse is refused here, where the person is who can mend it.
        try:
            Settings.from_environment(self.environment(profile_path=self.model_profile))
            Options.defaults(self.environment(profile_path=self.model_profile))
            load_profile(self.model_profile)
        except ReelscanError as error:
            raise ValueError(str(error)) from error
        return self

    def environment(self, *, profile_path: str) -> dict[str, str]:
        """The `REELSCAN_*` variables of the steps.

        Args:
            profile_path: where the model profile is, if it is not built in.
        """
        fixed = {
            "results": self.results,
            "completed_queue": self.completed_queue,
            "dead_letter_queue": self.dead_letter_queue,
            "allowed_sources": ",".join(self.allowed_sources),
            "serving": f"127.0.0.1:{PORT}",
            "model_name": self.model_name,
            "model_version": self.model_version,
            "model_profile": profile_path,
            # The steps end a little before their pods would be ended, and say why.
            "plan_timeout_seconds": self.plan_seconds - 30,
            "chunk_timeout_seconds": self.chunk_seconds - 30,
            "job_timeout_seconds": self.job_seconds - 30,
        }
        return {f"REELSCAN_{name.upper()}": str(value) for name, value in {**fixed, **self.limits}.items()}

    def profile_text(self) -> str | None:
        """The text of the model profile; None if it is built in."""
        path = Path(self.model_profile)
        return path.read_text() if path.suffix == ".json" else None


def load_settings(path: Path | None, changes: list[str]) -> WorkflowSettings:
    """Settings of a YAML file and of `NAME=VALUE` texts; a name may have dots, a value is YAML.

    Raises:
        UsageError: the file cannot be read, or a value is not allowed.
    """
    fields: dict[str, Any] = {}
    if path is not None:
        try:
            fields = yaml.safe_load(path.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path}: is no YAML that can be read: {error}") from error
        if not isinstance(fields, dict):
            raise UsageError(f"{path}: holds a {type(fields).__name__}, expected settings by name")
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change!r}: expected NAME=VALUE")
        try:
            _set(fields, name.split("."), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UsageError(f"--set {change!r}: the value is no YAML") from error
    try:
        return WorkflowSettings.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        known = f"; known are {', '.join(WorkflowSettings.model_fields)}" if first["type"] == "extra_forbidden" else ""
        given = f"{where}={json.dumps(first['input'], default=str)[:80]}: " if where else ""
        raise UsageError(f"{given}{message}{known}") from error


def _set(fields: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        inner = fields.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{'.'.join(names)}: {name} holds no settings of its own")
        fields = inner
    fields[names[-1]] = value

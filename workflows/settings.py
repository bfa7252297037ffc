"""What a deployment of the workflow may set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from steps.errors import ReelscanError
from steps.options import Options
from steps.profile import built_in_profiles, load_profile
from steps.settings import MODEL_NAME_ALLOWED, MODEL_NAME_PATTERN, Settings, variable_of

PORT = 8500
"""Of the model server's gRPC API, as TensorFlow Serving has it."""

_MULTIPLES = {
    "": Decimal(1), "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
}  # fmt: skip
_QUANTITY = rf"([0-9]{{1,18}}(?:\.[0-9]{{1,9}})?)({'|'.join(sorted(_MULTIPLES, reverse=True))})"


def _matching(pattern: str, words: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"allowed is {words}")
        return text

    return AfterValidator(check)


def _as_text(value: Any) -> Any:
    """YAML reads `true` and `2` as what they look like, where Kubernetes wants text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


def _as_amount(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Quantity = Annotated[str, BeforeValidator(_as_amount), _matching(_QUANTITY, "an amount such as 500m, 2 or 512Mi")]
"""Kubernetes' way to write amounts."""
DnsName = Annotated[
    str,
    _matching(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", "1 to 52 small letters, digits and hyphens, no hyphen at an end"),
]
"""A name from which longer ones are made."""
ObjectName = Annotated[
    str,
    _matching(
        r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?",
        "1 to 253 small letters, digits, dots and hyphens, no hyphen or dot at an end",
    ),
]
Image = Annotated[
    str, _matching(r"[a-z0-9][A-Za-z0-9._:/@-]{0,254}", "an image's name such as registry.example.com/reelscan/steps:1")
]
ModelName = Annotated[str, _matching(MODEL_NAME_PATTERN, str(MODEL_NAME_ALLOWED["allowed"]))]
Place = Annotated[str, _matching(r"s3://[a-z0-9.-]+(/[A-Za-z0-9._/=-]*)?", "s3://BUCKET/PREFIX")]

# Settings of the steps that have fields of their own here, by the name of the field; None: the workflow sets them.
_OWN_FIELDS: dict[str, str | None] = {
    **dict.fromkeys(
        (
            "results",
            "task_queue",
            "completed_queue",
            "dead_letter_queue",
            "allowed_sources",
            "model_name",
            "model_version",
        )
    ),
    "model_profile": None,
    "serving": None,
    "plan_timeout_seconds": "plan_limit_seconds",
    "chunk_timeout_seconds": "chunk_limit_seconds",
    "job_timeout_seconds": "job_limit_seconds",
    "ready_timeout_seconds": "serving.start_seconds",
    "lease_wait_seconds": None,
}
END_EARLIER_SECONDS = 30
"""How much sooner a step ends itself than its pod would be ended, so that it can say why."""


def known_limits() -> list[str]:
    """Settings and options of the steps that `limits` may set."""
    return [name for name in (*Settings.model_fields, *Options.model_fields) if name not in _OWN_FIELDS]


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like one that is not known."""
    (found,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return found


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def amount(quantity: str) -> Decimal:
    """A quantity as a number of bytes, or of CPUs."""
    found = re.fullmatch(_QUANTITY, quantity)
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity")
    return Decimal(found[1]) * _MULTIPLES[found[2]]


class Resources(_Model):
    """Requests of a container, and its limits. Memory requested is memory granted."""

    cpu: Quantity = Field(default="1", description="CPUs requested; more may be used if the node has them")
    memory: Quantity = Field(default="1Gi", description="memory requested and allowed")
    memory_after_failure: Quantity | None = Field(
        default=None,
        description="memory of a retry, which an out-of-memory kill gets once; none: twice as much, the model server: "
        "no more",
    )
    ephemeral_storage: Quantity = Field(default="1Gi", description="disk requested and allowed")

    @field_validator("memory_after_failure")
    @classmethod
    def _check_more(cls, more: str | None, info: Any) -> str | None:
        first = info.data.get("memory")
        if more is not None and first is not None and amount(more) < amount(first):
            raise ValueError(f"allowed is at least memory, {first}")
        return more

    @property
    def retry_memory(self) -> str:
        """Memory of a retry."""
        if self.memory_after_failure is not None:
            return self.memory_after_failure
        digits = self.memory.rstrip("".join(_MULTIPLES))
        return f"{Decimal(digits) * 2:f}{self.memory[len(digits) :]}"


class Toleration(_Model):
    """A taint of a node that does not keep a pod away."""

    key: str | None = Field(default=None, description="of the taint; none, with operator Exists: any")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="whether the value counts")
    value: Text | None = Field(default=None, description="of the taint, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="of the taint; none: any"
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, description="how long a pod stays on a node that gets the taint, with effect NoExecute"
    )

    @model_validator(mode="after")
    def _check_together(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value")
        if self.operator == "Equal" and not self.key:
            raise ValueError("operator Equal needs a key")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds needs effect NoExecute")
        return self


class Placement(_Model):
    """Which nodes take a pod."""

    node_selector: dict[str, Text] = Field(default={}, description="labels that a node must have")
    tolerations: list[Toleration] = Field(default=[], description="taints that a node may have")


class Serving(_Model):
    """The container beside detect: TensorFlow Serving with the model, or the embedded server."""

    image: Image = Field(default="reelscan/serving:0.1.0", description="image of images/serving")
    command: list[str] = Field(default=["/usr/local/bin/serve"], min_length=1, description="its entry point")
    args: list[str] = Field(default=[], description="flags of the server")
    environment: dict[str, Text] = Field(default={}, description="its environment variables")
    resources: Resources = Field(default=Resources(cpu="1", memory="2Gi"), description="its resources")
    start_seconds: int = Field(default=600, ge=10, le=86400, description="how long it may take to load the model")


class WorkflowSettings(_Model):
    """Settings of the WorkflowTemplate and of what it needs beside it."""

    # Names
    name: DnsName = Field(default="reelscan", description="of the WorkflowTemplate, and the start of other names")
    namespace: ObjectName | None = Field(default=None, description="of all objects; none: the one they are applied to")
    reconciler_namespace: ObjectName | None = Field(
        default=None,
        description="of the reconciler; none: that of the runs. In one of its own it does not wait with them, and "
        "`make deploy` has Argo itself hold back those above max_runs: any number may wait",
    )
    service_account: DnsName = Field(
        default="reelscan-steps", description="that pods run as; has the rights on S3 and SQS"
    )
    executor_account: DnsName = Field(
        default="reelscan-executor", description="whose token Argo's own container has, and no other"
    )

    # What runs
    steps_image: Image = Field(default="reelscan/steps:0.1.0", description="image of images/steps")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="when a node pulls the images"
    )
    image_pull_secret: ObjectName | None = Field(default=None, description="Secret with the images' registry's login")
    serving: Serving = Field(default=Serving(), description="the model server beside detect")
    accelerator: Literal["cpu", "gpu"] = Field(
        default="cpu", description="gpu: one nvidia.com/gpu for each model server"
    )
    model_name: ModelName = Field(default="ssd", description="model name at the server")
    model_version: int = Field(default=1, ge=1, description="model version at the server")
    model_profile: str = Field(
        default="tensorflow_object_detection_api",
        description="a built-in model profile, or the path of a reelscan.json",
    )

    # Places
    results: Place = Field(default="s3://results-bucket/reelscan", description="s3://BUCKET/PREFIX of the results")
    artifacts: Place | None = Field(
        default="s3://results-bucket/artifacts",
        description="s3://BUCKET/PREFIX of the copies of result files that the UI shows; none: it shows none",
    )
    task_queue: str = Field(default="task-queue", description="name of the task queue, of which messages start runs")
    completed_queue: str = Field(default="task-completed-queue", description="name or URL of the completed queue")
    dead_letter_queue: str = Field(default="task-dead-letter-queue", description="name or URL of the dead-letter queue")
    allowed_sources: list[Annotated[str, _matching("s3://[^,\\s]+", "s3://BUCKET/PREFIX*, without a comma")]] = Field(
        default=["s3://*"], min_length=1, description="s3://BUCKET/PREFIX* that tasks may name"
    )
    aws_region: str | None = Field(default=None, description="region; none: what the pods' environment says")
    aws_endpoint_url: Annotated[str, _matching(r"https?://[^/\s]+/?", "http://HOST:PORT or https://HOST")] | None = (
        Field(default=None, description="of another S3 and SQS than AWS")
    )
    aws_secret: ObjectName | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, where there is no Pod Identity",
    )

    # Resources and nodes
    plan_resources: Resources = Field(default=Resources(cpu="1", memory="1Gi"), description="of plan")
    detect_resources: Resources = Field(
        default=Resources(cpu="1", memory="1Gi"), description="of detect, and of the one pod of `single`"
    )
    aggregate_resources: Resources = Field(
        default=Resources(cpu="500m", memory="1Gi"), description="of aggregate and finish"
    )
    standard_nodes: Placement = Field(
        default=Placement(node_selector={"inference": "false"}), description="nodes of pods without a model server"
    )
    inference_nodes: Placement = Field(
        default=Placement(
            node_selector={"inference": "true"},
            tolerations=[Toleration(key="inference", value="true", effect="NoSchedule")],
        ),
        description="nodes of pods with a model server",
    )
    priority_class: ObjectName | None = Field(default=None, description="PriorityClass of the pods")

    # Limits
    entrypoint: Literal["main", "single"] = Field(
        default="main", description="of runs that name none: a pod for each chunk, or one for the whole video"
    )
    max_runs: int = Field(
        default=20, ge=1, le=10000, description="runs at a time; those that wait have no pods, and start by priority"
    )
    parallelism: int = Field(default=20, ge=1, le=1000, description="chunks of a run analysed at a time")
    retries: int = Field(default=3, ge=0, le=10, description="retries of a pod after what may pass by")
    retry_seconds: int = Field(
        default=15, ge=1, le=300, description="before the first retry; each further one waits twice as long"
    )
    job_limit_seconds: int = Field(
        default=21600, ge=60, description="work that a whole run may take, once it is running"
    )
    plan_limit_seconds: int = Field(default=3600, ge=60, description="work that planning may take")
    chunk_limit_seconds: int = Field(default=7200, ge=60, description="work that a chunk may take")
    aggregate_limit_seconds: int = Field(default=3600, ge=60, description="work that merging may take")
    pending_seconds: int = Field(
        default=43200, ge=60, description="how much longer a run may exist, which it spends waiting for nodes"
    )
    limits: dict[str, str | int | float | bool | list[str]] = Field(
        default={}, description="more settings and options of the steps, by name, such as max_duration_seconds or fps"
    )
    keep_succeeded_seconds: int = Field(default=86400, ge=0, description="before a Workflow that succeeded is deleted")
    keep_failed_seconds: int = Field(default=604800, ge=0, description="before one that failed is deleted")

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: dict[str, Any]) -> dict[str, Any]:
        known = known_limits()
        for name in limits:
            if name in _OWN_FIELDS:
                field = _OWN_FIELDS[name] or name
                known_field = field.partition(".")[0] in cls.model_fields
                instead = f"set {field} instead" if known_field else "the workflow sets it"
                raise ValueError(f"{name} does not belong here; {instead}")
            if name not in known:
                raise ValueError(f"{name[:80]!r} is not known; the most similar is {nearest(name, known)}")
        return limits

    @model_validator(mode="after")
    def _check_steps(self) -> WorkflowSettings:
        # What a pod would refuse is refused here, where the person is who can mend it.
        environment = self.environment(profile_path=self.model_profile)
        try:
            Settings.from_environment(environment)
            Options.defaults(environment)
            load_profile(self.model_profile)
        except ReelscanError as error:
            message = str(error)
            for name in self.limits:
                message = message.replace(variable_of(name), f"limits.{name}")
            raise ValueError(message) from error
        return self

    def environment(self, *, profile_path: str) -> dict[str, str]:
        """The `REELSCAN_*` variables of the steps.

        Args:
            profile_path: where the model profile is, or the name of one that is built in.
        """
        fixed = {
            "results": self.results,
            "completed_queue": self.completed_queue,
            "dead_letter_queue": self.dead_letter_queue,
            "allowed_sources": self.allowed_sources,
            "serving": f"127.0.0.1:{PORT}",
            "model_name": self.model_name,
            "model_version": self.model_version,
            "model_profile": profile_path,
            "plan_timeout_seconds": self.plan_limit_seconds - END_EARLIER_SECONDS,
            "chunk_timeout_seconds": self.chunk_limit_seconds - END_EARLIER_SECONDS,
            "job_timeout_seconds": self.job_limit_seconds - END_EARLIER_SECONDS,
            "ready_timeout_seconds": self.serving.start_seconds,
            # A pod that waits for another run's is to end itself in time, and to be tried again.
            "lease_wait_seconds": min(self.chunk_limit_seconds, self.aggregate_limit_seconds) // 2,
        }
        return {variable_of(name): _variable_text(value) for name, value in {**fixed, **self.limits}.items()}

    def profile_text(self) -> str | None:
        """The text of the model profile; None if it is built in."""
        return None if self.model_profile in built_in_profiles() else Path(self.model_profile).read_text()


def _variable_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)

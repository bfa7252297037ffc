"""What the Makefile's variables of the cluster may be. `infra/aws.mk` hands them over as `INFRA_*`."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.nodes import shares
from steps.errors import UsageError

PREFIX = "INFRA_"
OWN_TAG = "reelscan-stack"
"""Of each stack, and so of all that is in it; its value is the stack's name. infra/cluster.yaml gives it to volumes."""
ELASTIC_INFERENCE_ENDED = (
    "ACCELERATOR=eia: Amazon Elastic Inference ended in April 2024, and nothing can be created with it; "
    "use ACCELERATOR=gpu (g5 or g6 nodes) or ACCELERATOR=cpu. infra/eia.yaml keeps its node group to be read"
)
BUS_NODES = 3
"""Standard nodes that a deployment takes: each replica of its bus is on one of its own (events/base/bus.yaml)."""
FIXED_VISIBILITY_SECONDS = 120
MAX_VISIBILITY_SECONDS = 43200
_GPU_FAMILIES = ("g4dn", "g5", "g6", "g6e")
_DEFAULT_INFERENCE_TYPES = {"cpu": "c5.large", "gpu": "g6.xlarge"}
# The 2019 sample's settings that mean nothing today: why, and what is set instead.
WITHOUT_MEANING: dict[str, str] = {
    "LAMBDA_CR_BUCKET_PREFIX": (
        "no Lambda function is deployed any more: go1.x cannot be created since 2024, and access entries do what it "
        "did. Nothing takes its place"
    ),
    "INFERENCE_SCALE_PERIODS": (
        "nodes follow pending pods, not the queue's depth: Argo Events drains the queue at once. "
        "Set INFERENCE_NODE_ASG_MIN and INFERENCE_NODE_ASG_MAX, and max_runs and parallelism of the workflow"
    ),
    "INFERENCE_BOOTSTRAP": (
        "bootstrap.sh left with Amazon Linux 2: nodes start by nodeadm, with the labels inference=true and "
        "nodegroup=elastic-inference. Change infra/cluster.yaml for other labels"
    ),
    "BOOTSTRAP": (
        "bootstrap.sh left with Amazon Linux 2: nodes start by nodeadm, with the labels inference=false and "
        "nodegroup=standard. Change infra/cluster.yaml for other labels"
    ),
}
WITHOUT_MEANING["INFERENCE_SCALE_OUT_THRESHOLD"] = WITHOUT_MEANING["INFERENCE_SCALE_PERIODS"]
WITHOUT_MEANING["INFERENCE_SCALE_IN_THRESHOLD"] = WITHOUT_MEANING["INFERENCE_SCALE_PERIODS"]


# Private, shared, of this machine, of this link, and for many.
_NOT_PUBLIC = [
    ipaddress.IPv4Network(block)
    for block in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
_USER = "user_arn"
_NAME = r"[a-z][a-z0-9-]{0,38}[a-z0-9]"
_GROUP = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_TYPE = r"[a-z][a-z0-9-]*\.[a-z0-9-]+"
_EMAIL = r"^([^@\s]+@[^@\s]+)?$"
_TAG = r"^v\d+\.\d+\.\d+(-[a-z0-9.]+)?$"
_Switch = Literal["true", "false"]


def _parameter(default: Any, description: str, **limits: Any) -> Any:
    """A setting that becomes a parameter of infra/cluster.yaml, whose name is the same in other letters."""
    return Field(default=default, description=description, json_schema_extra={"parameter": True}, **limits)


def _own(default: Any, description: str, **limits: Any) -> Any:
    """A setting of the programs alone."""
    return Field(default=default, description=description, **limits)


class InfraSettings(BaseModel):
    """Variables of the Makefile that are about the cluster, in small letters."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # Names
    cluster_stack_name: str = _own("reelscan", "of the stack, and the end of other names", pattern=f"^{_NAME}$")
    cluster_name: str = _parameter(
        "", "of the EKS cluster; unset: the stack's name", pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$"
    )
    eks_admin_role: str = _own(
        "",
        "ARN of the role by which CloudFormation works; unset: that of `make create-role`, or without it the caller's",
    )
    user_arn: str = _parameter("", "user or role that may do all in the cluster; unset: the caller")
    namespace: str = _parameter(
        "video",
        "of the deployment, whose accounts get rights by Pod Identity, 52 characters at most: the reconciler's is "
        "NAMESPACE-reconciler",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$",
    )  # fmt: skip

    # Place
    region: str = _own("us-east-1", "of everything", pattern=r"^[a-z]{2,4}(-[a-z]+)+-\d$")
    az_0: str = _parameter("", "first zone; unset: REGION with an a")
    az_1: str = _parameter("", "second zone; unset: REGION with a b")
    az_2: str = _parameter("", "third zone; unset: two are enough")
    network_egress: Literal["nat", "endpoints"] = _parameter(
        "nat", "how nodes reach others: by a NAT gateway, or AWS alone by endpoints"
    )

    # Control plane
    kubernetes_version: str = _parameter("1.35", "of the control plane", pattern=r"^1\.(3[5-9]|[4-9]\d)$")
    endpoint_access: Literal["both", "public", "private"] = _parameter(
        "both", "from where the Kubernetes API answers; with both, nodes use the private one"
    )
    public_access_cidrs: str = _parameter("0.0.0.0/0", "addresses from which a public one answers, with commas between")
    log_retention_days: int = _parameter(30, "days for which logs of the control plane are kept", ge=1)

    # Nodes
    accelerator: Literal["cpu", "gpu"] = _parameter("cpu", "what model servers compute on")
    ssh_key_name: str = _parameter(
        "", "EC2 key pair of the nodes; unset: none. No port is opened for it", max_length=255
    )
    node_instance_type: str = _parameter("m5.large", "of standard nodes; or several, with commas between")
    inference_node_instance_type: str = _parameter(
        "", "of nodes with model servers, or several; unset: c5.large, or g6.xlarge with ACCELERATOR=gpu"
    )
    node_asg_min: int = _parameter(1, "standard nodes of all zones, at least", ge=1, le=450)
    node_asg_desired: int = _parameter(2, "standard nodes of all zones, at first", ge=1, le=450)
    node_asg_max: int = _parameter(5, "standard nodes of all zones, at most", ge=1, le=450)
    inference_node_asg_min: int = _parameter(2, "inference nodes, at least; 0: none while nothing waits", ge=0, le=450)
    inference_node_asg_desired: int = _parameter(2, "inference nodes, at first", ge=0, le=450)
    inference_node_asg_max: int = _parameter(6, "inference nodes, at most", ge=1, le=450)
    node_volume_size: int = _parameter(100, "GiB of disk of a standard node", ge=20, le=16384)
    inference_node_volume_size: int = _parameter(100, "GiB of disk of an inference node", ge=20, le=16384)
    node_group_name: str = _parameter("standard", "what standard nodes are called", pattern=f"^{_GROUP}$")
    inference_node_group_name: str = _parameter("inference", "what inference nodes are called", pattern=f"^{_GROUP}$")
    spot: _Switch = _parameter("false", "inference nodes that AWS may take back, for less")

    # Queues and buckets
    default_sqs_task_visibility: int = _own(FIXED_VISIBILITY_SECONDS, "seconds; Argo Events fixes them at 120")
    default_sqs_task_completed_visibility: int = _parameter(
        500, "seconds for which a received message of the completed queue is hidden", ge=0, le=MAX_VISIBILITY_SECONDS
    )
    s3_notification: _Switch = _parameter("false", "each upload to the bucket of videos is a task")
    notification_prefix: str = _parameter("", "only of uploads whose keys start so", max_length=1024)
    more_source_arns: str = _parameter(
        "", "other objects that tasks may name, arn:aws:s3:::BUCKET/PREFIX*, with commas between"
    )
    artifact_retention_days: int = _parameter(30, "days for which the copies that Argo's UI shows are kept", ge=1)

    # Watching over it
    alarm_email: str = _parameter("", "who is told of alarms; unset: nobody", pattern=_EMAIL)
    queue_age_seconds: int = _parameter(900, "alarm when a message has waited so long", ge=60)
    failed_runs_per_hour: int = _parameter(1, "alarm when so many tasks failed", ge=1)
    budget_usd_per_month: int = _parameter(0, "dollars of the account near which BUDGET_EMAIL is told; 0: none", ge=0)
    budget_email: str = _parameter("", "who is told of the budget", pattern=_EMAIL)

    # Argo
    argo_workflows_version: str = _own("v4.0.2", "tag of Argo Workflows", pattern=_TAG)
    argo_events_version: str = _own("v1.9.9", "tag of Argo Events", pattern=_TAG)
    argo_workflows_manifests: str = _own("", "folder of its cluster-install; unset: that of the tag, from GitHub")
    argo_events_manifests: str = _own("", "folder of its cluster-install; unset: that of the tag, from GitHub")
    argo_archive_host: str = _own(
        "", "host of a PostgreSQL in which Workflows are kept (infra/argo/archive); unset: none is",
        pattern=r"^[A-Za-z0-9.-]*$",
    )  # fmt: skip
    image_mirror: str = _own(
        "", "registry and path that public images are pulled from instead, as IMAGE_MIRROR/quay.io/...",
        pattern=r"^([a-z0-9][a-z0-9./:_-]*[a-z0-9])?$",
    )  # fmt: skip
    kube_context: str = _own(
        "", "context of kubectl for `make install-argo` into a cluster without a stack; unset: the stack's cluster"
    )

    # Images
    image_repository: str = _own("reelscan", "what `make images` built: IMAGE_REPOSITORY/steps and /serving")
    image_tag: str = _own("", "their tag", pattern=r"^[A-Za-z0-9_.-]{0,128}$")
    container_build: str = _own("", "docker, podman or buildah, with arguments")

    # Cost
    cost_analysed_fps: float = _own(5.0, "analysed frames a second of video", gt=0)
    cost_node_fps: float = _own(0.0, "frames a second that a node analyses; 0: that of infra/prices.yaml", ge=0)

    # Taking it down
    confirm: str = _own("", "the stack's name again, for `make delete-cluster` and `delete-role` without a terminal")
    delete_unreachable: _Switch = _own(
        "false", "delete the stack of a cluster that does not answer, whatever stays of volumes and load balancers"
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> InfraSettings:
        """Read the settings; what is unset or empty has its default.

        Raises:
            UsageError: a variable has a value that is not allowed, or means nothing today.
        """
        environment = os.environ if environment is None else environment
        given = {
            name.removeprefix(PREFIX): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and value.strip()
        }
        for name, value in given.items():
            if name in WITHOUT_MEANING:
                raise UsageError(f"{name}={value!r} means nothing today: {WITHOUT_MEANING[name]}; take {name} out")
        accelerator = given.get("ACCELERATOR", "cpu")
        if accelerator == "eia":
            raise UsageError(ELASTIC_INFERENCE_ENDED)
        if "EI_TYPE" in given:
            raise UsageError(
                f"EI_TYPE={given['EI_TYPE']!r} is about Elastic Inference, and ACCELERATOR is {accelerator}: take "
                "EI_TYPE out, and set INFERENCE_NODE_INSTANCE_TYPE. Elastic Inference ended in April 2024"
            )
        known = {name: given[name.upper()] for name in cls.model_fields if name.upper() in given}
        unknown = sorted(set(given) - {name.upper() for name in cls.model_fields})
        if unknown:
            raise UsageError(f"{PREFIX}{unknown[0]} is no setting of infra/settings.py")
        try:
            return cls(**known)  # type: ignore[arg-type]  # pydantic reads text
        except ValidationError as error:
            raise UsageError(_explain(error)) from error

    @field_validator("*", mode="before")
    @classmethod
    def _check_quotes(cls, value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(r"'[^']*'|\"[^\"]*\"", value):
            raise ValueError("it has quotes about it, which make hands on as they are: write it without")
        return value

    @field_validator("default_sqs_task_visibility")
    @classmethod
    def _check_visibility(cls, seconds: int) -> int:
        if seconds != FIXED_VISIBILITY_SECONDS:
            raise ValueError(
                "Argo Events hides each message for 120 s, whatever the queue says, and deletes it once its bus has "
                "it: leave it out. How long a run may take is job_limit_seconds of the workflow"
            )
        return seconds

    @field_validator("public_access_cidrs")
    @classmethod
    def _check_cidrs(cls, text: str) -> str:
        for part in text.split(","):
            try:
                block = ipaddress.IPv4Network(part)
            except ValueError as error:
                raise ValueError(f"{part!r}: allowed are blocks such as 203.0.113.0/24, with commas between") from error
            if any(block.subnet_of(other) for other in _NOT_PUBLIC):
                raise ValueError(
                    f"{part!r}: nobody comes from there to a public endpoint, and EKS refuses it: give the addresses "
                    "by which you go out to the internet, or set ENDPOINT_ACCESS=private"
                )
        return text

    @field_validator("node_instance_type", "inference_node_instance_type")
    @classmethod
    def _check_types(cls, text: str) -> str:
        for part in text.split(",") if text else []:
            if not re.fullmatch(_TYPE, part):
                raise ValueError(
                    f"{part!r}: allowed is an instance type such as c5.large, or several with commas between and no "
                    "spaces, such as c5.large,c5a.large"
                )
        return text

    @field_validator("more_source_arns")
    @classmethod
    def _check_sources(cls, text: str) -> str:
        for part in text.split(",") if text else []:
            if not re.fullmatch(r"arn:aws[a-z-]*:s3:::[a-z0-9.-]{3,63}/[^,\s]+", part):
                raise ValueError(
                    f"{part!r}: allowed are ARNs of objects such as arn:aws:s3:::videos/*, with commas between"
                )
        return text

    @field_validator("eks_admin_role")
    @classmethod
    def _check_role(cls, arn: str) -> str:
        if arn and not re.fullmatch(r"arn:[a-z-]+:iam::\d{12}:role/[\w+=,.@/-]+", arn):
            raise ValueError("allowed is the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME")
        return arn

    @field_validator("user_arn")
    @classmethod
    def _check_user(cls, arn: str) -> str:
        if arn and not re.fullmatch(r"arn:[a-z-]+:(iam|sts)::\d{12}:(user|role|assumed-role)/[\w+=,.@/-]+", arn):
            raise ValueError("allowed is the ARN of a user or a role, such as arn:aws:iam::ACCOUNT:user/NAME")
        return arn

    @model_validator(mode="after")
    def _check_together(self) -> InfraSettings:
        for least, first, most in (
            ("node_asg_min", "node_asg_desired", "node_asg_max"),
            ("inference_node_asg_min", "inference_node_asg_desired", "inference_node_asg_max"),
        ):
            numbers = [getattr(self, name) for name in (least, first, most)]
            if numbers != sorted(numbers):
                given = ", ".join(f"{name.upper()}={getattr(self, name)}" for name in (least, first, most))
                raise ValueError(f"{given}: must not fall from left to right")
        for name in self.inference_types:
            has_gpu = name.partition(".")[0] in _GPU_FAMILIES
            if self.accelerator == "gpu" and not has_gpu:
                raise ValueError(
                    f"INFERENCE_NODE_INSTANCE_TYPE={name!r} has no NVIDIA GPU, and ACCELERATOR is gpu: take one of "
                    f"{', '.join(_GPU_FAMILIES)}, such as g6.xlarge"
                )
            if self.accelerator == "cpu" and has_gpu:
                raise ValueError(
                    f"INFERENCE_NODE_INSTANCE_TYPE={name!r} has a GPU, which ACCELERATOR=cpu would leave idle: set "
                    "ACCELERATOR=gpu, or take one such as c5.large"
                )
        if len(set(self.zones)) < len(self.zones):
            raise ValueError(f"AZ_0, AZ_1, AZ_2 are {', '.join(self.zones)}: must be different zones")
        if self.node_asg_max < len(self.zones):
            raise ValueError(
                f"NODE_ASG_MAX={self.node_asg_max}: each of the {len(self.zones)} zones has standard nodes of its own, "
                f"and at most none is not allowed: set it to {len(self.zones)} or more"
            )
        if self.network_egress == "endpoints" and self.endpoint_access == "public":
            raise ValueError(
                "NETWORK_EGRESS=endpoints leaves nodes no way to the API of ENDPOINT_ACCESS=public: set "
                "ENDPOINT_ACCESS=both"
            )
        if self.budget_usd_per_month and not self.budget_email:
            raise ValueError(
                f"BUDGET_USD_PER_MONTH={self.budget_usd_per_month}: set BUDGET_EMAIL, or nobody hears of it"
            )
        return self

    @property
    def cluster(self) -> str:
        """The name of the EKS cluster."""
        return self.cluster_name or self.cluster_stack_name

    @property
    def inference_type(self) -> str:
        """The instance type of inference nodes, or several, with commas between."""
        return self.inference_node_instance_type or _DEFAULT_INFERENCE_TYPES[self.accelerator]

    @property
    def inference_types(self) -> list[str]:
        """One or more."""
        return self.inference_type.split(",")

    @property
    def node_types(self) -> list[str]:
        """Of standard nodes, one or more."""
        return self.node_instance_type.split(",")

    @property
    def zones(self) -> list[str]:
        """Two or three."""
        return [self.az_0 or f"{self.region}a", self.az_1 or f"{self.region}b", *([self.az_2] if self.az_2 else [])]

    def parameters(self, *, user: str) -> dict[str, str]:
        """Parameters of infra/cluster.yaml.

        Args:
            user: ARN of the user or role that becomes the cluster's administrator.
        """
        made = {
            "cluster_name": self.cluster,
            "inference_node_instance_type": self.inference_type,
            "az_0": self.zones[0],
            "az_1": self.zones[1],
            "node_asg_min": shares(self.node_asg_min, len(self.zones)),
            "node_asg_desired": shares(self.node_asg_desired, len(self.zones)),
            "node_asg_max": shares(self.node_asg_max, len(self.zones), elsewhere=1),
            _USER: user,
        }
        return {parameter: made.get(name, str(getattr(self, name))) for name, parameter in parameter_names().items()}


def parameter_names() -> dict[str, str]:
    """Parameters of infra/cluster.yaml by the settings that they come from."""
    return {
        name: "AdminPrincipalArn" if name == _USER else "".join(word.capitalize() for word in name.split("_"))
        for name, field in InfraSettings.model_fields.items()
        if field.json_schema_extra
    }


def _explain(error: ValidationError) -> str:
    return "; ".join(_explain_one(one) for one in error.errors())


def _explain_one(one: Any) -> str:
    said = str(one["msg"]).removeprefix("Value error, ")
    if not one["loc"]:
        return said
    name = str(one["loc"][0])
    field = InfraSettings.model_fields[name]
    if one["type"] != "value_error":
        said = f"allowed is {_allowed(one, said)} ({field.description}); the default is {field.default!r}"
    return f"{name.upper()}={one['input']!r}: {said}"


def _allowed(first: Any, said: str) -> str:
    context = first.get("ctx", {})
    if first["type"] == "string_pattern_mismatch":
        return f"what matches {context['pattern']}"
    if first["type"] == "literal_error":
        return str(context["expected"])
    return said.removeprefix("Input should be ")

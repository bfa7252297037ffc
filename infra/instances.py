"""Types of EC2 instances, what their nodes leave to pods, and the resources with which pods fit them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from infra.session import Aws, calling, error_code
from steps.errors import UsageError
from workflows.settings import Resources, WorkflowSettings, amount

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeInfoTypeDef

MIB = 2**20
# What the hypervisor and the kernel take of the memory that a type is sold with: Karpenter reckons with this share too.
_UNSEEN_SHARE = 0.075
_EVICTION_MIB = 100
# In thousandths of a CPU, of the first, second, third and fourth CPU, and of each further one.
_KUBELET_CPU, _KUBELET_CPU_FURTHER = (60, 10, 5, 5), 2.5


@dataclass(frozen=True)
class Amount:
    """What is there, or asked for: thousandths of a CPU, MiB, and pods."""

    cpu: int
    memory: int
    pods: int = 1

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.memory + other.memory, self.pods + other.pods)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.cpu - other.cpu, self.memory - other.memory, self.pods - other.pods)

    def holds(self, other: Amount) -> bool:
        """Whether it is at least as much."""
        return self.cpu >= other.cpu and self.memory >= other.memory and self.pods >= other.pods

    def __str__(self) -> str:
        return f"{self.cpu}m CPU, {self.memory}Mi and {self.pods} pod{'s' if self.pods != 1 else ''}"


# What aws-node, kube-proxy, the volumes' driver and Pod Identity's agent request, each a pod of every node.
_DAEMONS = Amount(180, 120, 4)
# NVIDIA's device plugin: infra/gpu/plugin.yaml.
_GPU_DAEMON = Amount(10, 32)
# Argo's own container in each pod: infra/argo/workflows/config.yaml.
ARGO = Amount(10, 64, 0)
# A replica of the bus: events/base/bus.yaml.
BUS_REPLICA = Amount(120, 320)


@dataclass(frozen=True)
class InstanceType:
    """A type of instances.

    Attributes:
        name: such as `c5.large`.
        cpus: virtual ones.
        memory_mib: as it is sold.
        addresses: that pods may have, with those of the node.
        architectures: such as `x86_64`.
        gpus: of NVIDIA, each.
        accelerators: all that compute besides CPUs, in words.
    """

    name: str
    cpus: int
    memory_mib: int
    addresses: int
    architectures: tuple[str, ...]
    gpus: int
    accelerators: tuple[str, ...]

    @property
    def room(self) -> Amount:
        """What a node leaves to pods that are not on every node, as nodeadm sets the kubelet up."""
        kept_cpu = sum(_KUBELET_CPU[: self.cpus]) + _KUBELET_CPU_FURTHER * max(0, self.cpus - len(_KUBELET_CPU))
        kept_mib = 255 + 11 * self.addresses + _EVICTION_MIB
        memory = math.floor(self.memory_mib * (1 - _UNSEEN_SHARE)) - kept_mib
        free = Amount(math.floor(self.cpus * 1000 - kept_cpu), memory, self.addresses) - _DAEMONS
        return free - _GPU_DAEMON if self.gpus else free


def find_type(aws: Aws, name: str) -> InstanceType | None:
    """What AWS says of a type; None if the region has none of that name."""
    with calling(f"instance type {name}"):
        try:
            (info,) = aws.ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"]  # type: ignore[list-item]
        except ClientError as error:
            if error_code(error) == "InvalidInstanceType":
                return None
            raise
    return _read(name, info)


def _read(name: str, info: InstanceTypeInfoTypeDef) -> InstanceType:
    network = info.get("NetworkInfo", {})
    cards, per_card = network.get("MaximumNetworkInterfaces", 1), network.get("Ipv4AddressesPerInterface", 1)
    gpus = info.get("GpuInfo", {}).get("Gpus", [])
    others = [
        *info.get("InferenceAcceleratorInfo", {}).get("Accelerators", []),
        *info.get("NeuronInfo", {}).get("NeuronDevices", []),
    ]
    return InstanceType(
        name=name,
        cpus=info["VCpuInfo"]["DefaultVCpus"],
        memory_mib=info["MemoryInfo"]["SizeInMiB"],
        # Each card keeps one for itself, and the pods of the node's own network need none.
        addresses=cards * (per_card - 1) + 2,
        architectures=tuple(info.get("ProcessorInfo", {}).get("SupportedArchitectures", [])),
        gpus=sum(gpu.get("Count", 0) for gpu in gpus if gpu.get("Manufacturer") == "NVIDIA"),
        accelerators=tuple(
            dict.fromkeys(f"{one.get('Manufacturer', 'AWS')} {one['Name']}" for one in [*gpus, *others])
        ),
    )


# Of a pod with a model server: detect, and the server. From the largest to the smallest.
_USUAL = WorkflowSettings()
_CHOICES: dict[str, tuple[tuple[Resources, Resources], ...]] = {
    "gpu": ((_USUAL.detect_resources, Resources(cpu="2", memory="6Gi")),),
    "cpu": (
        (_USUAL.detect_resources, _USUAL.serving.resources),
        # Nodes of two virtual CPUs, with memory enough.
        (Resources(cpu="700m", memory="1Gi"), Resources(cpu="900m", memory="2Gi")),
        # Nodes of 4 GiB too: a chunk of 1080p took detect 220 MB (docs/bench.md).
        (
            Resources(cpu="700m", memory="1Gi", memory_after_failure="1280Mi"),
            Resources(cpu="900m", memory="1536Mi"),
        ),
        (
            Resources(cpu="700m", memory="1Gi", memory_after_failure="1152Mi"),
            Resources(cpu="900m", memory="1536Mi"),
        ),
    ),
}


def asked(detect: Resources, *others: Resources) -> Amount:
    """What a pod asks for at most, which is on a retry: detect gets more memory then, and no other, unless told."""
    cpu = sum(amount(one.cpu) for one in (detect, *others))
    memory = amount(detect.retry_memory) + sum(amount(one.memory) for one in others)
    return Amount(math.ceil(cpu * 1000), math.ceil(memory / MIB)) + ARGO


def pod_resources(accelerator: str, kind: InstanceType) -> tuple[Resources, Resources] | None:
    """Resources of detect and of the model server beside it with which they fit a node; None if none do."""
    for detect, serving in _CHOICES[accelerator]:
        if kind.room.holds(asked(detect, serving)):
            return detect, serving
    return None


def least(accelerator: str) -> Amount:
    """What a node of inference must leave to pods."""
    return asked(*_CHOICES[accelerator][-1])


def least_standard() -> Amount:
    """What a standard node must leave to pods: a replica of the bus, and the largest step without a model server."""
    steps = [asked(one) for one in (_USUAL.plan_resources, _USUAL.aggregate_resources)]
    return BUS_REPLICA + Amount(max(step.cpu for step in steps), max(step.memory for step in steps))


def pod_resources_of(aws: Aws, accelerator: str, names: list[str]) -> tuple[Resources, Resources]:
    """Resources with which a pod fits the smallest of several types.

    Raises:
        UsageError: there is no such type, or none of it holds a pod.
    """
    found = []
    for name in names:
        kind = find_type(aws, name)
        chosen = pod_resources(accelerator, kind) if kind is not None else None
        if chosen is None:
            raise UsageError(
                f"INFERENCE_NODE_INSTANCE_TYPE={name!r} is no type of {aws.region} whose nodes hold a pod with a model "
                "server: `make preflight` says more"
            )
        found.append(chosen)
    return min(found, key=lambda pair: (asked(*pair).cpu, asked(*pair).memory))

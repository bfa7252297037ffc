"""What `make preflight` finds of the nodes: their types, and the quota of what they compute with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from infra.finding import Finding
from infra.instances import Amount, InstanceType, find_type, least, least_standard
from infra.session import FAILURES, Aws, calling, failure_words
from infra.settings import InfraSettings

_ON_DEMAND, _SPOT = "on-demand", "spot"
# Quotas are of vCPUs that run at once, by the first letters of the instance type.
QUOTAS: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("standard", _ON_DEMAND): (("a", "c", "d", "h", "i", "m", "r", "t", "z"), "L-1216C47A"),
    ("standard", _SPOT): (("a", "c", "d", "h", "i", "m", "r", "t", "z"), "L-34B43A08"),
    ("G and VT", _ON_DEMAND): (("g", "vt"), "L-DB2E81BA"),
    ("G and VT", _SPOT): (("g", "vt"), "L-3819A6DF"),
    ("P", _ON_DEMAND): (("p",), "L-417A185B"),
    ("P", _SPOT): (("p",), "L-7212CCBC"),
}


@dataclass(frozen=True)
class _Group:
    setting: str
    types: list[str]
    desired: int
    most: int
    market: str
    accelerator: str
    needs: Amount
    holds: str


def _groups(settings: InfraSettings) -> list[_Group]:
    market = _SPOT if settings.spot == "true" else _ON_DEMAND
    return [
        _Group("NODE", settings.node_types, settings.node_asg_desired, settings.node_asg_max, _ON_DEMAND,
               "cpu", least_standard(), "a replica of the bus and a step"),
        _Group("INFERENCE_NODE", settings.inference_types, settings.inference_node_asg_desired,
               settings.inference_node_asg_max, market, settings.accelerator, least(settings.accelerator),
               "a pod with a model server"),
    ]  # fmt: skip


def instance_types(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Instance types that a zone has not, or that cannot run the images or hold the pods."""
    for group in _groups(settings):
        found = []
        for name in group.types:
            setting = f"{group.setting}_INSTANCE_TYPE={name!r}"
            kind = find_type(aws, name)
            if kind is None:
                yield Finding(f"{setting} is no instance type of {settings.region}")
                continue
            found.append(kind)
            yield from _unfit(setting, kind, group)
            yield from _not_offered(setting, kind, settings, aws)
        sizes = {(kind.cpus, kind.memory_mib) for kind in found}
        if len(sizes) > 1:
            words = ", ".join(f"{kind.name} {kind.cpus} CPUs and {kind.memory_mib} MiB" for kind in found)
            yield Finding(
                f"{group.setting}_INSTANCE_TYPE={','.join(group.types)!r}: {words}: the autoscaler takes all nodes of "
                "a group for alike, and pods are made for the smallest; name types of one size",
                stops=False,
            )


def _unfit(setting: str, kind: InstanceType, group: _Group) -> Iterator[Finding]:
    if "x86_64" not in kind.architectures:
        yield Finding(
            f"{setting} is {', '.join(kind.architectures)}, and the images are x86_64; take one such as m5.large"
        )
    if group.accelerator == "gpu" and not kind.gpus:
        yield Finding(f"{setting} has no NVIDIA GPU, and ACCELERATOR is gpu; take one such as g6.xlarge")
    if group.accelerator == "cpu" and kind.accelerators:
        yield Finding(
            f"{setting} has {' and '.join(kind.accelerators)}, which nothing would use; take one without, such as "
            "m5.large"
        )
    if not kind.room.holds(group.needs):
        yield Finding(
            f"{setting} has {kind.cpus} CPUs and {kind.memory_mib} MiB, with room for {kind.room}; "
            f"{group.holds} {'takes' if group.needs.pods == 1 else 'take'} {group.needs}; take a larger one such as "
            f"{'g6.xlarge' if group.accelerator == 'gpu' else 'm5.large'}"
        )


def _not_offered(setting: str, kind: InstanceType, settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    with calling(f"where {kind.name} is offered"):
        offers = aws.ec2.describe_instance_type_offerings(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [kind.name]}]
        )["InstanceTypeOfferings"]
    offered = {offer["Location"] for offer in offers}
    lacking = [zone for zone in settings.zones if zone not in offered]
    if lacking:
        where = ", ".join(sorted(offered)) or "no zone"
        yield Finding(
            f"{setting} is not offered in {', '.join(lacking)}; it is in {where}: set AZ_0 and AZ_1, or another"
        )


def vcpus(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Quotas on vCPUs that are too small for the nodes."""
    needs: dict[tuple[str, str], tuple[int, int, list[str]]] = {}
    for group in _groups(settings):
        # Of several types all nodes may become the one with the most CPUs.
        cpus: dict[tuple[str, str], int] = {}
        for name in group.types:
            kind, key = find_type(aws, name), quota_of(name, group.market)
            if kind is not None and key is not None:
                cpus[key] = max(cpus.get(key, 0), kind.cpus)
        for key, each in cpus.items():
            first, most, types = needs.get(key, (0, 0, []))
            needs[key] = (first + group.desired * each, most + group.most * each, [*types, *group.types])
    for (family, market), (first, most, types) in needs.items():
        code = QUOTAS[family, market][1]
        what = f"the quota of vCPUs of running {market} {family} instances ({code})"
        try:
            value = aws.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
        except FAILURES as error:
            yield Finding(
                f"{what} could not be read ({failure_words(error)}): see that it is at least {most}", stops=False
            )
            continue
        names_of_types = " and ".join(dict.fromkeys(types))
        if value < first:
            yield Finding(
                f"{what} is {value:g}, the nodes at first need {first} ({names_of_types}); ask for more at "
                f"https://console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}?region={settings.region}"
            )
        elif value < most:
            yield Finding(
                f"{what} is {value:g}, all nodes that may be together need {most} ({names_of_types}): "
                "scaling out will end before INFERENCE_NODE_ASG_MAX",
                stops=False,
            )


def quota_of(instance_type: str, market: str) -> tuple[str, str] | None:
    """The key of the quota in `QUOTAS` that an instance type counts against; None if it is not known."""
    letters = instance_type.partition(".")[0]
    family = letters[: next((place for place, letter in enumerate(letters) if letter.isdigit()), len(letters))]
    for key, (prefixes, _) in QUOTAS.items():
        if key[1] == market and family in prefixes:
            return key
    return None

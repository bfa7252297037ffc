"""`make preflight`: names everything that is missing, before anything is created."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from images.tool import KINDS
from infra import regions
from infra.command import main
from infra.session import Aws, calling, error_code, error_message
from infra.settings import BUS_NODES, InfraSettings
from infra.template import CLUSTER, Template
from steps.errors import ReelscanError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import InstanceTypeInfoTypeDef
    from rich.console import Console

TOOLS = {
    "aws": "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "git": "https://git-scm.com/downloads",
}
MAX_BUCKET_NAME = 63
MAX_QUEUE_NAME = 80
MAX_CLUSTER_NAME = 100
ZONES_WITHOUT_EKS = ("use1-az3", "usw1-az2", "cac1-az3")
"""Ids of zones in which EKS puts no control plane."""
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
class Finding:
    """What was found.

    Attributes:
        words: what is wrong and what to change.
        stops: whether the cluster cannot be made so; else it is only said.
    """

    words: str
    stops: bool = True


@dataclass(frozen=True)
class _Group:
    setting: str
    instance_type: str
    desired: int
    most: int
    market: str


def tools(settings: InfraSettings) -> Iterator[Finding]:
    """Programs that the targets call."""
    has_manifests = bool(settings.argo_workflows_manifests and settings.argo_events_manifests)
    for program, source in TOOLS.items():
        is_needed = program != "git" or not has_manifests
        if is_needed and shutil.which(program) is None:
            yield Finding(f"the program {program} is not on the PATH; install it: {source}")
    if not any(shutil.which(kind) for kind in KINDS):
        yield Finding(f"no container tool is on the PATH, which `make images` needs; install {' or '.join(KINDS)}")


def names(settings: InfraSettings, account: str, template: Template) -> Iterator[Finding]:
    """Names that AWS would refuse."""
    if len(settings.cluster) > MAX_CLUSTER_NAME:
        yield Finding(
            f"CLUSTER_NAME={settings.cluster!r}: {len(settings.cluster)} characters, EKS takes {MAX_CLUSTER_NAME}"
        )
    values = {
        **settings.parameters(user=""),
        "AWS::AccountId": account,
        "AWS::Region": settings.region,
        "AWS::StackName": settings.cluster_stack_name,
        "AWS::Partition": "aws",
    }
    for field, most in (("BucketName", MAX_BUCKET_NAME), ("QueueName", MAX_QUEUE_NAME)):
        longest = max(template.names(field, values).values(), key=len, default="")
        if len(longest) > most:
            over = len(longest) - most
            yield Finding(
                f"CLUSTER_STACK_NAME={settings.cluster_stack_name!r}: {longest} would have {len(longest)} characters, "
                f"allowed are {most}; take a stack name shorter by {over}"
            )


def region(settings: InfraSettings, _: Aws) -> Iterator[Finding]:
    """A region that is not known, though something answers for it."""
    words = regions.unknown(settings.region)
    if words is not None:
        yield Finding(words, stops=False)


def administrator(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Somebody whom EKS takes for nobody."""
    arn = aws.principal(settings.user_arn)
    if re.search(r":root$|:federated-user/", arn):
        yield Finding(f"{arn} cannot be the cluster's administrator: set USER_ARN to the ARN of a user or a role")


def zones(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Zones that are not there, or that EKS leaves out."""
    with calling(f"zones of {settings.region}"):
        found = aws.ec2.describe_availability_zones()["AvailabilityZones"]
    known = {zone["ZoneName"]: zone.get("ZoneId", "") for zone in found}
    usable = [name for name, zone_id in sorted(known.items()) if zone_id not in ZONES_WITHOUT_EKS]
    for number, zone in enumerate(settings.zones):
        if zone not in known:
            yield Finding(f"AZ_{number}={zone!r} is no zone of {settings.region}; there are {', '.join(usable)}")
        elif known[zone] in ZONES_WITHOUT_EKS:
            yield Finding(f"AZ_{number}={zone!r} is {known[zone]}, where EKS is not; take one of {', '.join(usable)}")


def room(settings: InfraSettings, _: Aws) -> Iterator[Finding]:
    """Too few nodes for what is to run on them."""
    if settings.node_asg_max < BUS_NODES:
        yield Finding(
            f"NODE_ASG_MAX={settings.node_asg_max}: `make deploy` would wait in vain, as its bus has {BUS_NODES} "
            f"replicas, each on a standard node of its own; set it to {BUS_NODES} or more",
            stops=False,
        )


def _said(error: ClientError | BotoCoreError) -> str:
    words = error_message(error) if isinstance(error, ClientError) else str(error)
    return " ".join(words.split())[:120]


def _groups(settings: InfraSettings) -> list[_Group]:
    market = _SPOT if settings.spot == "true" else _ON_DEMAND
    return [
        _Group("NODE", settings.node_instance_type, settings.node_asg_desired, settings.node_asg_max, _ON_DEMAND),
        _Group("INFERENCE_NODE", settings.inference_type, settings.inference_node_asg_desired,
               settings.inference_node_asg_max, market),
    ]  # fmt: skip


def instance_types(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Instance types that a zone has not, or that cannot run the images."""
    for group in _groups(settings):
        setting = f"{group.setting}_INSTANCE_TYPE={group.instance_type!r}"
        info = _instance_type(aws, group.instance_type)
        if info is None:
            yield Finding(f"{setting} is no instance type of {settings.region}")
            continue
        architectures = info.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
        if "x86_64" not in architectures:
            yield Finding(
                f"{setting} is {', '.join(architectures)}, and the images are x86_64; take one such as m5.large"
            )
        with calling(f"where {group.instance_type} is offered"):
            offers = aws.ec2.describe_instance_type_offerings(
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": [group.instance_type]}],
            )["InstanceTypeOfferings"]
        offered = {offer["Location"] for offer in offers}
        lacking = [zone for zone in settings.zones if zone not in offered]
        if lacking:
            where = ", ".join(sorted(offered)) or "no zone"
            yield Finding(
                f"{setting} is not offered in {', '.join(lacking)}; it is in {where}: set AZ_0 and AZ_1, or another"
            )


def _instance_type(aws: Aws, name: str) -> InstanceTypeInfoTypeDef | None:
    try:
        return aws.ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"][0]  # type: ignore[list-item]
    except ClientError as error:
        if error_code(error) == "InvalidInstanceType":
            return None
        with calling(f"instance type {name}"):
            raise


def quota(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Quotas on vCPUs that are too small for the nodes."""
    needs: dict[tuple[str, str], tuple[int, int, list[str]]] = {}
    for group in _groups(settings):
        info = _instance_type(aws, group.instance_type)
        found = quota_of(group.instance_type, group.market)
        if info is None or found is None:
            continue
        cpus = info["VCpuInfo"]["DefaultVCpus"]
        first, most, types = needs.get(found, (0, 0, []))
        needs[found] = (first + group.desired * cpus, most + group.most * cpus, [*types, group.instance_type])
    for (family, market), (first, most, types) in needs.items():
        code = QUOTAS[family, market][1]
        what = f"the quota of vCPUs of running {market} {family} instances ({code})"
        try:
            value = aws.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
        except (ClientError, BotoCoreError) as error:
            yield Finding(f"{what} could not be read ({_said(error)}): see that it is at least {most}", stops=False)
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
    family = "".join(letter for letter in letters[: _first_digit(letters)])
    for key, (prefixes, _) in QUOTAS.items():
        if key[1] == market and family in prefixes:
            return key
    return None


def _first_digit(text: str) -> int:
    return next((position for position, letter in enumerate(text) if letter.isdigit()), len(text))


def version(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """A version of Kubernetes that EKS does not support, or only for more money."""
    try:
        versions: list[Any] = list(aws.eks.describe_cluster_versions()["clusterVersions"])
    except (ClientError, BotoCoreError) as error:
        yield Finding(
            f"EKS does not tell its versions ({_said(error)}): see that it has {settings.kubernetes_version}",
            stops=False,
        )
        return
    status = {
        item["clusterVersion"]: str(item.get("versionStatus", item.get("status", ""))).upper() for item in versions
    }
    usable = sorted(name for name, said in status.items() if said == "STANDARD_SUPPORT")
    if settings.kubernetes_version not in usable:
        said = status.get(settings.kubernetes_version, "not known to EKS").lower().replace("_", " ")
        yield Finding(
            f"KUBERNETES_VERSION={settings.kubernetes_version!r} is {said}; in standard support are {', '.join(usable)}"
        )


def examine(settings: InfraSettings, aws: Aws) -> list[Finding]:
    """All that is found, in order. Without credentials or the region only what needs none."""
    found = list(tools(settings))
    try:
        caller = aws.caller
    except ReelscanError as error:
        # An account's number always has twelve digits, so the lengths are known.
        return [*found, Finding(str(error)), *names(settings, "0" * 12, Template(CLUSTER))]
    found += names(settings, caller.account, Template(CLUSTER))
    checks: tuple[Callable[[InfraSettings, Aws], Iterator[Finding]], ...] = (
        region,
        administrator,
        zones,
        room,
        instance_types,
        quota,
        version,
    )
    for check in checks:
        try:
            found += check(settings, aws)
        except ReelscanError as error:
            found.append(Finding(str(error)))
    return found


def require(settings: InfraSettings, aws: Aws, console: Console) -> None:
    """Print what is found. Raises UsageError if the cluster cannot be made so."""
    found = examine(settings, aws)
    for finding in found:
        console.print(f"{'missing' if finding.stops else 'note   '}  {finding.words}")
    stopping = sum(finding.stops for finding in found)
    if stopping:
        raise UsageError(f"{stopping} thing{'s' if stopping > 1 else ''} missing, nothing was created")


def preflight(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    require(settings, aws, console)
    console.print(
        f"ready to create {settings.cluster_stack_name} in account {aws.caller.account}, {settings.region}, "
        f"as {aws.principal(settings.user_arn)}"
    )


if __name__ == "__main__":
    sys.exit(main("preflight", preflight))

"""`make preflight`: names everything that is missing, before anything is created."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from images.tool import KINDS
from infra import regions
from infra.command import main
from infra.finding import Finding
from infra.preflight_account import addresses, has_stack, key_pair, known_values, taken_names, vpcs
from infra.preflight_nodes import instance_types, vcpus
from infra.rules import refusals
from infra.session import FAILURES, Aws, calling, failure_words
from infra.settings import BUS_NODES, InfraSettings, parameter_names
from infra.template import CLUSTER, Template
from steps.errors import ReelscanError, UsageError

if TYPE_CHECKING:
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
    values = known_values(settings, account)
    for field, most in (("BucketName", MAX_BUCKET_NAME), ("QueueName", MAX_QUEUE_NAME)):
        longest = max(template.names(field, values).values(), key=len, default="")
        if len(longest) > most:
            over = len(longest) - most
            yield Finding(
                f"CLUSTER_STACK_NAME={settings.cluster_stack_name!r}: {longest} would have {len(longest)} characters, "
                f"allowed are {most}; take a stack name shorter by {over}"
            )


def limits(settings: InfraSettings, template: Template) -> Iterator[Finding]:
    """Values that the template itself refuses."""
    variables = {parameter: name.upper() for name, parameter in parameter_names().items()}
    # USER_ARN is looked at by `administrator`: not before AWS is asked does it say whose it is.
    given = {name: value for name, value in settings.parameters(user="").items() if variables[name] != "USER_ARN"}
    for words in refusals(template, given, variables):
        yield Finding(words)


def region(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """A region that is not known, which is only said if it has zones: it may be newer than botocore."""
    words = regions.unknown(settings.region)
    if words is not None:
        try:
            _zone_ids(aws)
        except ReelscanError:
            yield Finding(words)
        else:
            yield Finding(words, stops=False)


def administrator(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Somebody whom EKS takes for nobody."""
    arn = aws.principal(settings.user_arn)
    if re.search(r":root$|:federated-user/", arn):
        yield Finding(f"{arn} cannot be the cluster's administrator: set USER_ARN to the ARN of a user or a role")


def zones(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Zones that are not there, or that EKS leaves out."""
    known = _zone_ids(aws)
    usable = [name for name, zone_id in sorted(known.items()) if zone_id not in ZONES_WITHOUT_EKS]
    for number, zone in enumerate(settings.zones):
        if zone not in known:
            yield Finding(f"AZ_{number}={zone!r} is no zone of {settings.region}; there are {', '.join(usable)}")
        elif known[zone] in ZONES_WITHOUT_EKS:
            yield Finding(f"AZ_{number}={zone!r} is {known[zone]}, where EKS is not; take one of {', '.join(usable)}")


def _zone_ids(aws: Aws) -> dict[str, str]:
    with calling(f"zones of {aws.region}"):
        found = aws.ec2.describe_availability_zones()["AvailabilityZones"]
    return {zone["ZoneName"]: zone.get("ZoneId", "") for zone in found}


def room(settings: InfraSettings, _: Aws) -> Iterator[Finding]:
    """Too few nodes for what is to run on them."""
    if settings.node_asg_max < BUS_NODES:
        yield Finding(
            f"NODE_ASG_MAX={settings.node_asg_max}: `make deploy` would wait in vain, as its bus has {BUS_NODES} "
            f"replicas, each on a standard node of its own; set it to {BUS_NODES} or more",
            stops=False,
        )


def version(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """A version of Kubernetes that EKS does not support, or only for more money."""
    try:
        versions: list[Any] = list(aws.eks.describe_cluster_versions()["clusterVersions"])
    except FAILURES as error:
        yield Finding(
            f"EKS does not tell its versions ({failure_words(error)}): see that it has {settings.kubernetes_version}",
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
    template = Template(CLUSTER)
    found = [*tools(settings), *limits(settings, template)]
    try:
        caller = aws.caller
    except ReelscanError as error:
        # An account's number always has twelve digits, so the lengths are known.
        return [*found, Finding(str(error)), *names(settings, "0" * 12, template)]
    found += names(settings, caller.account, template)
    there = _told(region, settings, aws)
    found += there
    if any(finding.stops for finding in there):
        # All the rest would fail of that alone.
        return found
    for check in (administrator, zones, room, instance_types, vcpus, version, key_pair):
        found += _told(check, settings, aws)
    return [*found, *_told(_of_a_new_stack, settings, aws)]


def _of_a_new_stack(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """What a stack that is there has already."""
    if not has_stack(settings, aws):
        for check in (taken_names, vpcs, addresses):
            yield from _told(check, settings, aws)


def _told(check: Callable[[InfraSettings, Aws], Iterator[Finding]], settings: InfraSettings, aws: Aws) -> list[Finding]:
    """What a check finds, and that it could not go on."""
    found: list[Finding] = []
    try:
        found.extend(check(settings, aws))
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

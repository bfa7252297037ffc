"""What `make preflight` finds in the account: key pairs that lack, names that are taken, quotas that are used up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus

from botocore.exceptions import ClientError

from infra.finding import Finding
from infra.session import FAILURES, Aws, calling, error_code, error_message, failure_words
from infra.settings import InfraSettings
from infra.template import CLUSTER, Template

VPCS = ("vpc", "L-F678F1CE")
ADDRESSES = ("ec2", "L-0263D0A3")
"""Service and code of a quota."""


def key_pair(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """A key pair of the nodes that is not there."""
    if not settings.ssh_key_name:
        return
    with calling(f"key pairs of {settings.region}"):
        there = sorted(pair["KeyName"] for pair in aws.ec2.describe_key_pairs()["KeyPairs"])
    if settings.ssh_key_name not in there:
        yield Finding(
            f"SSH_KEY_NAME={settings.ssh_key_name!r} is no key pair of {settings.region}, which has "
            f"{', '.join(there) or 'none'}; make one with `aws ec2 create-key-pair`, or leave it out"
        )


def has_stack(settings: InfraSettings, aws: Aws) -> bool:
    """Whether the stack is there, so that what it takes is its own already."""
    with calling(f"stack {settings.cluster_stack_name}"):
        try:
            aws.cloudformation.describe_stacks(StackName=settings.cluster_stack_name)
        except ClientError as error:
            if "does not exist" in error_message(error):
                return False
            raise
    return True


def known_values(settings: InfraSettings, account: str) -> dict[str, str]:
    """Parameters and pseudo-parameters by which the template makes names, before there is a stack."""
    return {
        **settings.parameters(user=""),
        "AWS::AccountId": account,
        "AWS::Region": settings.region,
        "AWS::StackName": settings.cluster_stack_name,
    }


def taken_names(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """Names of a new stack that something else has."""
    known, template = known_values(settings, aws.caller.account), Template(CLUSTER)
    for name in template.names("LogGroupName", known).values():
        with calling(f"log group {name}"):
            pages = aws.logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=name)
            is_there = any(group["logGroupName"] == name for page in pages for group in page["logGroups"])
        if is_there:
            # A cluster that is deleted goes on writing for a while, and so makes its log group anew.
            yield Finding(
                f"the log group {name} is there already, such as of an earlier cluster: `aws logs delete-log-group "
                f"--region {settings.region} --log-group-name {name}`, or set another CLUSTER_NAME"
            )
    for name in template.names("BucketName", known).values():
        if _has_bucket(aws, name):
            yield Finding(
                f"the bucket {name} is there already: delete it, once nobody needs what it holds, or set another "
                "CLUSTER_STACK_NAME"
            )


def _has_bucket(aws: Aws, name: str) -> bool:
    with calling(f"bucket {name}"):
        try:
            aws.s3.head_bucket(Bucket=name)
        except ClientError as error:
            # A name that is none, since it is too long, is told elsewhere.
            if error_code(error) in (str(HTTPStatus.NOT_FOUND.value), str(HTTPStatus.BAD_REQUEST.value)):
                return False
            # Of another account.
            if error_code(error) in (str(HTTPStatus.FORBIDDEN.value), str(HTTPStatus.MOVED_PERMANENTLY.value)):
                return True
            raise
    return True


def vpcs(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """No room for one more VPC."""

    def count() -> int:
        return sum(len(page["Vpcs"]) for page in aws.ec2.get_paginator("describe_vpcs").paginate())

    yield from _one_more("VPCs", VPCS, count, settings, aws, "delete one")


def addresses(settings: InfraSettings, aws: Aws) -> Iterator[Finding]:
    """No room for the address of a NAT gateway."""
    if settings.network_egress == "nat":
        yield from _one_more(
            "Elastic IP addresses", ADDRESSES, lambda: len(aws.ec2.describe_addresses()["Addresses"]), settings, aws,
            "release one, or set NETWORK_EGRESS=endpoints, which takes none",
        )  # fmt: skip


def _one_more(
    what: str, quota: tuple[str, str], count: Callable[[], int], settings: InfraSettings, aws: Aws, instead: str
) -> Iterator[Finding]:
    service, code = quota
    with calling(f"{what} of {settings.region}"):
        used = count()
    try:
        most = aws.quotas.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"]
    except FAILURES as error:
        yield Finding(
            f"the quota of {what} ({code}) could not be read ({failure_words(error)}): see that it is more than {used}",
            stops=False,
        )
        return
    if used + 1 > most:
        yield Finding(
            f"the quota of {what} ({code}) is {most:g}, {used} are there, and the stack takes one: {instead}, or ask "
            f"for more at https://console.aws.amazon.com/servicequotas/home/services/{service}/quotas/{code}"
            f"?region={settings.region}"
        )

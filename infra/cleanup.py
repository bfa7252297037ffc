"""`make delete-cluster`: takes everything down, and looks for what is left."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from infra import kubeconfig, logs
from infra.command import confirm, main
from infra.draining import Cluster
from infra.policies import policy_arn, role_arn, role_name
from infra.session import Aws, calling, error_code
from infra.settings import OWN_TAG, InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template
from steps.errors import OutsideError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef
    from rich.console import Console

_BATCH = 1000
"""S3's own limit on deletes of one request."""


def _versions(aws: Aws, bucket: str) -> Iterator[ObjectIdentifierTypeDef]:
    for page in aws.s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            yield {"Key": item["Key"], "VersionId": item["VersionId"]}


def _batches(items: Iterable[ObjectIdentifierTypeDef]) -> Iterator[list[ObjectIdentifierTypeDef]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def empty_bucket(aws: Aws, bucket: str, console: Console) -> int:
    """Delete every version of every object, and uploads that never ended; gives how many versions.

    Raises:
        OutsideError: S3 kept some.
    """
    deleted = 0
    with calling(f"bucket {bucket}"), console.status(f"emptying {bucket}") as status:
        try:
            for batch in _batches(_versions(aws, bucket)):
                answer = aws.s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
                if errors := answer.get("Errors"):
                    first = errors[0]
                    raise OutsideError(
                        f"bucket {bucket}: {first.get('Key')}: {first.get('Code')}: {first.get('Message')}"
                    )
                deleted += len(batch)
                status.update(f"emptying {bucket}: {deleted}")
            for page in aws.s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
                for upload in page.get("Uploads", []):
                    aws.s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except ClientError as error:
            if error_code(error) != "NoSuchBucket":
                raise
    return deleted


@dataclass(frozen=True)
class Leftover:
    """Something that carries a tag of the stack or its cluster."""

    arn: str
    note: str


def leftovers(settings: InfraSettings, aws: Aws) -> list[Leftover]:
    """What is found by tag, in the region, but for what `make create-role` made, which IAM shows in us-east-1."""
    filters: list[Any] = [
        {"Key": OWN_TAG, "Values": [settings.cluster_stack_name]},
        {"Key": f"kubernetes.io/cluster/{settings.cluster}"},
        {"Key": "aws:eks:cluster-name", "Values": [settings.cluster]},
        {"Key": "KubernetesCluster", "Values": [settings.cluster]},
    ]
    arns: set[str] = set()
    with calling("resources by tag"):
        for one in filters:
            for page in aws.tagging.get_paginator("get_resources").paginate(TagFilters=[one]):
                arns.update(found["ResourceARN"] for found in page["ResourceTagMappingList"])
    of_operator = (role_arn(settings, aws.caller), policy_arn(f"{role_name(settings)}-", aws.caller))
    return [Leftover(arn, _note(arn)) for arn in sorted(arns) if not arn.startswith(of_operator)]


def _note(arn: str) -> str:
    service = arn.split(":")[2]
    if service == "kms":
        return "a key that is to be deleted stays for its waiting period, and costs nothing then"
    if service == "cloudformation":
        return "the record of the stack"
    return "tags of what was just deleted are found for up to an hour; if it is still there then, delete it by hand"


def _drain(settings: InfraSettings, aws: Aws, console: Console) -> None:
    cluster = kubeconfig.find_cluster(settings, aws)
    if cluster is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kubeconfig"
        try:
            kubeconfig.write(settings, file)
            Cluster(file).drain(console)
        except OutsideError as error:
            if settings.delete_unreachable != "true":
                raise OutsideError(
                    f"{error}; volumes and load balancers would stay without their cluster: mend that, or set "
                    "DELETE_UNREACHABLE=true and delete what is left by hand"
                ) from error
            console.print(f"note: {error}")


def _delete_logs(settings: InfraSettings, aws: Aws, console: Console) -> None:
    logs.delete_group(settings, aws)
    console.print(f"deleted     log group {logs.group_name(settings)}")


def delete_cluster(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    stack = Stack(settings, aws, Template(CLUSTER))
    existing = stack.find()
    if existing is None:
        console.print(f"there is no stack {stack.name} in {settings.region}")
        # The next one could not be made with it.
        if logs.is_left(settings, aws):
            confirm(
                settings, console, f"This deletes the log group {logs.group_name(settings)}, whose cluster is gone."
            )
            _delete_logs(settings, aws, console)
    else:
        stack.check_own(existing)
        confirm(
            settings,
            console,
            f"This deletes the cluster {settings.cluster}, its queues, and its buckets with all videos and results in "
            f"account {aws.caller.account}, {settings.region}.",
        )
        _drain(settings, aws, console)
        buckets = stack.buckets()
        for bucket in buckets:
            console.print(f"emptied     {bucket}: {empty_bucket(aws, bucket, console)} versions of objects")
        stack.delete(console, lambda: [empty_bucket(aws, bucket, console) for bucket in buckets])
        console.print(f"deleted     stack {stack.name}")
        # EKS makes it anew, without a tag, for what comes after the stack has deleted it.
        if logs.is_left(settings, aws):
            _delete_logs(settings, aws, console)
    found = leftovers(settings, aws)
    for left in found:
        console.print(f"left        {left.arn}\n            {left.note}")
    if not found:
        console.print("nothing is left that carries a tag of the stack or its cluster")


if __name__ == "__main__":
    sys.exit(main("delete-cluster", delete_cluster))

"""The log group of the control plane: EKS makes it anew for logs that come late, when the stack has deleted it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.kubeconfig import find_cluster
from infra.session import Aws, calling

if TYPE_CHECKING:
    from infra.settings import InfraSettings


def group_name(settings: InfraSettings) -> str:
    """What EKS calls it."""
    return f"/aws/eks/{settings.cluster}/cluster"


def is_left(settings: InfraSettings, aws: Aws) -> bool:
    """Whether it is there and its cluster is not."""
    name = group_name(settings)
    with calling(f"log group {name}"):
        found = aws.logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    return any(group["logGroupName"] == name for group in found) and find_cluster(settings, aws) is None


def delete_group(settings: InfraSettings, aws: Aws) -> None:
    """Delete it with its logs."""
    with calling(f"log group {group_name(settings)}"):
        aws.logs.delete_log_group(logGroupName=group_name(settings))

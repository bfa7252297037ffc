"""What a template cannot say of node groups: EKS makes their Auto Scaling groups itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.session import calling

if TYPE_CHECKING:
    from infra.session import Aws

REBALANCING = "AZRebalance"
"""By which an Auto Scaling group ends an instance in one zone, whatever runs on it, to start one in another."""


def stop_rebalancing(aws: Aws, cluster: str, node_group: str) -> list[str]:
    """Have the nodes of a group left where they are; gives the names of its Auto Scaling groups.

    It holds for as long as they are there: a node group that is replaced comes with new ones.

    Raises:
        UsageError: the caller has not the right.
        OutsideError: AWS failed.
    """
    with calling(f"node group {node_group} of {cluster}"):
        found = aws.eks.describe_nodegroup(clusterName=cluster, nodegroupName=node_group)["nodegroup"]
        names = [group["name"] for group in found.get("resources", {}).get("autoScalingGroups", [])]
        for name in names:
            # Without the name of a process it would suspend all of them.
            aws.autoscaling.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=[REBALANCING])
    return names

"""What a template cannot say of node groups: it does not reckon, and EKS makes their Auto Scaling groups itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.session import calling

if TYPE_CHECKING:
    from infra.session import Aws

REBALANCING = "AZRebalance"
"""By which an Auto Scaling group ends an instance in one zone, whatever runs on it, to start one in another."""

MOST_ZONES = 3
"""Of a stack."""


def shares(nodes: int, zones: int, *, elsewhere: int = 0) -> str:
    """How many of all standard nodes are of each zone, as infra/cluster.yaml takes it; the first have what is over.

    Args:
        nodes: how many in all.
        zones: of how many zones.
        elsewhere: what is said for a zone that there is not, of which the template makes nothing.
    """
    each, more = divmod(nodes, zones)
    counts = [each + (zone < more) for zone in range(zones)] + [elsewhere] * (MOST_ZONES - zones)
    return ",".join(map(str, counts))


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

"""`make update-kubeconfig`: makes the cluster kubectl's.

By AWS' own program, once the cluster is known to be there: it merges files with the care that they want, and kubectl
calls the same program for each token.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from infra.command import main, need, run
from infra.preflight import TOOLS
from infra.session import Aws, calling, error_code
from infra.settings import InfraSettings
from steps.errors import UsageError

if TYPE_CHECKING:
    from mypy_boto3_eks.type_defs import ClusterTypeDef
    from rich.console import Console


def find_cluster(settings: InfraSettings, aws: Aws) -> ClusterTypeDef | None:
    """What EKS says of the cluster; None if there is none."""
    with calling(f"EKS cluster {settings.cluster}"):
        try:
            return aws.eks.describe_cluster(name=settings.cluster)["cluster"]
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return None
            raise


def require_cluster(settings: InfraSettings, aws: Aws) -> None:
    """See that the cluster can be used. Raises UsageError if it is not there, or not yet."""
    cluster = find_cluster(settings, aws)
    if cluster is None:
        with calling("EKS clusters"):
            others = aws.eks.list_clusters()["clusters"]
        raise UsageError(
            f"CLUSTER_NAME={settings.cluster!r}: {settings.region} has no such EKS cluster; there "
            f"{'are ' + ', '.join(sorted(others)) if others else 'is none'}: `make create-cluster`, or set REGION"
        )
    if cluster.get("status") not in ("ACTIVE", "UPDATING"):
        raise UsageError(f"CLUSTER_NAME={settings.cluster!r} is {cluster.get('status')}: wait until it is ACTIVE")


def write(settings: InfraSettings, file: Path | None = None) -> str:
    """Have AWS' program write a kubeconfig; gives what it says.

    Args:
        settings: which cluster.
        file: where to; none: to that of kubectl, where the cluster becomes the current context.
    """
    command = [need("aws", TOOLS["aws"]), "eks", "update-kubeconfig", "--region", settings.region]
    command += ["--name", settings.cluster, "--alias", settings.cluster]
    command += ["--kubeconfig", str(file)] if file else []
    # Without it answers may be paged.
    return run(command, environment={**os.environ, "AWS_PAGER": ""}, seconds=120).strip()


def update_kubeconfig(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    require_cluster(settings, aws)
    console.print(write(settings))
    if settings.endpoint_access == "private":
        console.print("the Kubernetes API answers inside the VPC alone: call kubectl from there, or by a VPN")
    console.print("see it with: kubectl get nodes -L inference,nodegroup")


if __name__ == "__main__":
    sys.exit(main("update-kubeconfig", update_kubeconfig))

"""`make status`: how the stack, its nodes, queues and alarms are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from infra.command import main
from infra.kubeconfig import find_cluster
from infra.outputs import outputs, write_settings
from infra.session import Aws, calling
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackTypeDef
    from rich.console import Console

SHOWN = ("TaskDataBucketName", "ResultsBucketName", "TaskQueueUrl", "TaskCompletedQueueUrl", "DashboardUrl")
"""Outputs of the stack that people need."""
_WAITING: Literal["ApproximateNumberOfMessages"] = "ApproximateNumberOfMessages"
_RECEIVED: Literal["ApproximateNumberOfMessagesNotVisible"] = "ApproximateNumberOfMessagesNotVisible"

Rows = Iterator[tuple[str, str]]


def cluster_rows(settings: InfraSettings, aws: Aws) -> Rows:
    """The cluster and its node groups."""
    cluster = find_cluster(settings, aws)
    if cluster is None:
        yield "cluster", "there is none"
        return
    access = cluster.get("resourcesVpcConfig", {})
    reached = [words for words in ("public", "private") if access.get(f"endpoint{words.capitalize()}Access")]
    endpoint = f"{' and '.join(reached)} endpoint"
    yield "cluster", f"{cluster.get('status')}, Kubernetes {cluster.get('version')}, {endpoint}"
    with calling(f"node groups of {settings.cluster}"):
        for name in aws.eks.list_nodegroups(clusterName=settings.cluster)["nodegroups"]:
            group = aws.eks.describe_nodegroup(clusterName=settings.cluster, nodegroupName=name)["nodegroup"]
            size = group.get("scalingConfig", {})
            words = f"{size.get('desiredSize')} wanted, {size.get('minSize')} to {size.get('maxSize')}"
            issues = [issue.get("message", "") for issue in group.get("health", {}).get("issues", [])]
            yield f"node group {name}", "; ".join([group.get("status", "?"), words, *issues])


def _queues(settings: InfraSettings, aws: Aws) -> Rows:
    """Those whose name ends with the stack's."""
    with calling("queues"):
        urls = [url for page in aws.sqs.get_paginator("list_queues").paginate() for url in page.get("QueueUrls", [])]
        for url in sorted(url for url in urls if url.endswith(f"-{settings.cluster_stack_name}")):
            found = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[_WAITING, _RECEIVED])["Attributes"]
            yield f"queue {url.rpartition('/')[2]}", f"{found[_WAITING]} waiting, {found[_RECEIVED]} received"


def _alarms(settings: InfraSettings, aws: Aws) -> Rows:
    """Those whose name starts with the stack's."""
    prefix = f"{settings.cluster_stack_name}-"
    with calling("alarms"):
        for page in aws.cloudwatch.get_paginator("describe_alarms").paginate(AlarmNamePrefix=prefix):
            for alarm in page["MetricAlarms"]:
                yield f"alarm {alarm['AlarmName']}", alarm["StateValue"]


def rows(settings: InfraSettings, aws: Aws, stack: StackTypeDef) -> Rows:
    """What is shown: what, and how it is."""
    yield "stack", f"{stack['StackStatus']} {stack.get('StackStatusReason', '')}".strip()
    yield from cluster_rows(settings, aws)
    yield from _queues(settings, aws)
    yield from _alarms(settings, aws)
    told = outputs(stack)
    yield from ((name, told[name]) for name in SHOWN if name in told)


def status(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    stack = Stack(settings, aws, Template(CLUSTER))
    existing = stack.find()
    if existing is None:
        raise stack.missing()
    shown = list(rows(settings, aws, existing))
    width = max(len(name) for name, _ in shown)
    for name, words in shown:
        console.print(f"{name:<{width}}  {words}")
    if outputs(existing):
        console.print(f"settings of the deployment: {write_settings(settings, aws, existing)}")
    console.print(f"see it at {stack.console_link(existing['StackId'])}")


if __name__ == "__main__":
    sys.exit(main("status", status))

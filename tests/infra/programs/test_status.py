"""`make status`: how all of it is, on lines that are not cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from infra import status
from infra.session import Aws
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template
from steps.errors import UsageError


@pytest.mark.usefixtures("inference_group")
def test_stack_cluster_nodes_queues_and_alarms_are_shown(
    cloud: Aws,
    small: Template,
    settings: InfraSettings,
    console: Console,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Stack(settings, cloud, small).apply(console)
    url = cloud.sqs.get_queue_url(QueueName="task-queue-reelscan")["QueueUrl"]
    cloud.sqs.send_message(QueueUrl=url, MessageBody="{}")
    cloud.cloudwatch.put_metric_alarm(
        AlarmName="reelscan-QueueAgeAlarm-1", Namespace="AWS/SQS", MetricName="ApproximateAgeOfOldestMessage",
        ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=1, Period=60, Statistic="Maximum", Threshold=1,
    )  # fmt: skip
    monkeypatch.setattr(status, "CLUSTER", small.path)
    status.status(settings, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    rows = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in printed.splitlines()}
    assert rows["stack"] == "CREATE_COMPLETE"
    assert rows["cluster"].startswith("ACTIVE, Kubernetes 1.35")
    assert rows["node group inference"] == "ACTIVE; 2 wanted, 0 to 6"
    assert rows["queue task-queue-reelscan"] == "1 waiting, 0 received"
    assert rows["alarm reelscan-QueueAgeAlarm-1"] == "OK"
    assert rows["TaskDataBucketName"] == "task-data-bucket-123456789012-us-east-1-reelscan"
    assert (tmp_path / "out/aws/reelscan/settings.yaml").is_file()


@pytest.mark.parametrize(
    ("public", "private", "said"),
    [(True, True, "public and private"), (True, False, "public"), (False, True, "private")],
)
def test_where_the_kubernetes_api_answers_is_told(
    public: bool, private: bool, said: str, cloud: Aws, settings: InfraSettings
) -> None:
    access = {"subnetIds": ["subnet-1"], "endpointPublicAccess": public, "endpointPrivateAccess": private}
    role = cloud.iam.create_role(RoleName="eks", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    cloud.eks.create_cluster(name="reelscan", version="1.35", roleArn=role, resourcesVpcConfig=access)
    (cluster,) = status.cluster_rows(settings, cloud)
    assert cluster == ("cluster", f"ACTIVE, Kubernetes 1.35, {said} endpoint")


def test_without_a_stack_it_says_so(cloud: Aws, settings: InfraSettings, console: Console) -> None:
    assert cloud.cloudformation.describe_stacks()["Stacks"] == []
    with pytest.raises(UsageError, match="us-east-1 has no such stack"):
        status.status(settings, console)


def test_what_is_shown_is_told_by_the_template() -> None:
    assert set(status.SHOWN) <= set(Template(CLUSTER).content["Outputs"])

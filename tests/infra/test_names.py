"""Names by which the cluster and what runs on it know one another."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from events.deployment import OVERLAYS
from infra.outputs import reconciler_namespace
from infra.settings import BUS_NODES, InfraSettings
from steps.settings import Settings
from tests.infra.stacks import Deploy
from tests.infra.template import INFRA, Stack
from workflows import WorkflowSettings
from workflows.reconciler import ACCOUNT as RECONCILER_ACCOUNT
from workflows.settings import Placement

EFFECTS = {"NO_SCHEDULE": "NoSchedule", "PREFER_NO_SCHEDULE": "PreferNoSchedule", "NO_EXECUTE": "NoExecute"}
MOST_OF_A_BUCKET, MOST_OF_A_QUEUE = 63, 80
BASE = OVERLAYS.parent / "base"


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from (document for document in yaml.safe_load_all(path.read_text()) if document)


def takes(group: Mapping[str, Any], placement: Placement) -> bool:
    """Whether nodes of a group take pods of a placement."""
    labels = group["Labels"].items()
    return placement.node_selector.items() <= labels and all(
        any(
            tolerated.key in (None, taint["Key"])
            and (tolerated.operator == "Exists" or tolerated.value == taint["Value"])
            and tolerated.effect in (None, EFFECTS[taint["Effect"]])
            for tolerated in placement.tolerations
        )
        for taint in group.get("Taints", [])
    )


@pytest.fixture
def stack(deploy: Deploy) -> Stack:
    return deploy()


def test_labels_are_those_of_the_sample(stack: Stack) -> None:
    assert stack.properties("StandardNodeGroup0")["Labels"] == {"inference": "false", "nodegroup": "standard"}
    assert stack.properties("InferenceNodeGroup")["Labels"] == {"inference": "true", "nodegroup": "elastic-inference"}


def test_pods_with_a_model_server_go_to_inference_nodes_and_all_others_to_standard_nodes(stack: Stack) -> None:
    settings = WorkflowSettings()
    standard, inference = stack.properties("StandardNodeGroup0"), stack.properties("InferenceNodeGroup")
    assert takes(inference, settings.inference_nodes)
    assert takes(standard, settings.standard_nodes)
    assert not takes(standard, settings.inference_nodes)
    assert not takes(inference, settings.standard_nodes)


def test_pods_that_name_no_nodes_stay_away_from_inference_nodes(stack: Stack) -> None:
    """Such as those of add-ons and of Argo."""
    assert takes(stack.properties("StandardNodeGroup0"), Placement())
    assert not takes(stack.properties("InferenceNodeGroup"), Placement())


def test_event_components_go_to_standard_nodes(stack: Stack) -> None:
    overlay = yaml.safe_load((OVERLAYS / "aws/kustomization.yaml").read_text())
    selectors = []
    for patch in overlay["patches"]:
        document = yaml.safe_load(patch["patch"])
        spec = document["spec"]
        selectors.append((spec.get("jetstream") or spec["template"])["nodeSelector"])
    assert len(selectors) == 3
    assert all(takes(stack.properties("StandardNodeGroup0"), Placement(node_selector=s)) for s in selectors)


def test_each_replica_of_the_bus_finds_a_standard_node_of_its_own() -> None:
    """The autoscaler brings those that are not there at first."""
    (bus,) = [document for document in documents(BASE / "bus.yaml") if document["kind"] == "EventBus"]
    jetstream = bus["spec"]["jetstream"]
    (apart,) = jetstream["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert jetstream["replicas"] == BUS_NODES <= InfraSettings().node_asg_max


def test_every_account_that_speaks_to_aws_has_a_role_and_no_other_has(deploy: Deploy) -> None:
    stack = deploy(Namespace="films")
    (source,) = documents(BASE / "source.yaml")
    speaking = {source["spec"]["template"]["serviceAccountName"], WorkflowSettings().service_account}
    associations = stack.of_type("AWS::EKS::PodIdentityAssociation").values()
    assert {a["ServiceAccount"] for a in associations if a["Namespace"] == "films"} == speaking
    assert {(a["Namespace"], a["ServiceAccount"]) for a in associations if a["Namespace"] != "films"} == {
        ("argo", "argo-server"), ("kube-system", "cluster-autoscaler"),
        (reconciler_namespace("films"), RECONCILER_ACCOUNT),
    }  # fmt: skip
    made = {
        document["metadata"]["name"]
        for document in documents(BASE / "accounts.yaml")
        if document["kind"] == "ServiceAccount"
    } | {WorkflowSettings().service_account, WorkflowSettings().executor_account}
    assert made - speaking == {"reelscan-bus", "reelscan-sensor", "reelscan-executor"}


def test_the_autoscaler_runs_as_the_account_that_has_its_role() -> None:
    folder = INFRA / "autoscaler"
    assert yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"] == "kube-system"
    accounts = [d["metadata"]["name"] for d in documents(folder / "accounts.yaml") if d["kind"] == "ServiceAccount"]
    assert accounts == ["cluster-autoscaler"]


def test_queues_and_buckets_are_named_as_in_the_sample(deploy: Deploy) -> None:
    outputs = deploy(name="eks-ei-blog").outputs()
    defaults = WorkflowSettings()
    assert outputs["TaskQueueName"] == f"{defaults.task_queue}-eks-ei-blog" == "task-queue-eks-ei-blog"
    assert outputs["TaskCompletedQueueName"] == f"{defaults.completed_queue}-eks-ei-blog"
    assert outputs["TaskCompletedQueueName"] == "task-completed-queue-eks-ei-blog"
    assert outputs["DeadLetterQueueName"] == f"{defaults.dead_letter_queue}-eks-ei-blog"
    assert outputs["TaskDataBucketName"] == "task-data-bucket-123456789012-us-east-1-eks-ei-blog"


@pytest.mark.parametrize(("region", "most"), [("us-east-1", 23), ("ap-southeast-1", 18)])
def test_names_are_as_long_as_aws_allows_at_most(cluster_template: Mapping[str, Any], region: str, most: int) -> None:
    """What `make preflight` allows of a stack's name."""
    given = {"Az0": f"{region}a", "Az1": f"{region}b", "AdminPrincipalArn": "arn:aws:iam::123456789012:role/admin"}
    for length, fits in ((most, True), (most + 1, False)):
        stack = Stack(cluster_template, given, name="s" * length, region=region)
        buckets = [bucket["BucketName"] for bucket in stack.of_type("AWS::S3::Bucket").values()]
        queues = [queue["QueueName"] for queue in stack.of_type("AWS::SQS::Queue").values()]
        assert (max(map(len, buckets)) <= MOST_OF_A_BUCKET and max(map(len, queues)) <= MOST_OF_A_QUEUE) == fits


def test_the_stack_tells_all_settings_of_the_workflow_that_lead_to_aws(stack: Stack) -> None:
    outputs = stack.outputs()
    settings = WorkflowSettings(
        namespace=outputs["Namespace"],
        accelerator=outputs["Accelerator"],
        results=outputs["Results"],
        artifacts=outputs["Artifacts"],
        task_queue=outputs["TaskQueueName"],
        completed_queue=outputs["TaskCompletedQueueName"],
        dead_letter_queue=outputs["DeadLetterQueueName"],
        allowed_sources=[outputs["TaskData"]],
        aws_region=outputs["Region"],
    )
    assert {settings.results.split("/")[2], (settings.artifacts or "").split("/")[2]} == {
        outputs["ResultsBucketName"], outputs["ArtifactsBucketName"],
    }  # fmt: skip


def test_accelerators_are_those_of_the_workflow_and_the_one_that_is_refused(
    cluster_template: Mapping[str, Any],
) -> None:
    known = typing.get_args(WorkflowSettings.model_fields["accelerator"].annotation)
    assert cluster_template["Parameters"]["Accelerator"]["AllowedValues"] == [*known, "eia"]


def test_the_task_queue_takes_messages_as_large_as_the_steps_do(stack: Stack) -> None:
    assert stack.properties("TaskQueue")["MaximumMessageSize"] == Settings().max_message_bytes

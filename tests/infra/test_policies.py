"""Each role allows what its service account's programs do, and nothing else.

What our own code does is recorded at the embedded S3 and SQS, against buckets and queues named as the stack names them.
What others' programs do is known from their source.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events.kubernetes import Namespace
from events.reconcile import Reconciler
from infra.policies import operator_policies
from infra.session import Caller
from infra.settings import InfraSettings
from local.sender import wait_for_tasks
from local.serving.server import ModelServer
from steps.cli import cli
from steps.errors import BadInputError
from steps.queues import Queues
from steps.settings import Settings
from steps.store import open_store
from tests.coded import CODED_PROFILE
from tests.conftest import Aws
from tests.infra.calls import Call, Grant, Recorder, generalised, grants, recording
from tests.infra.stacks import Deploy
from tests.infra.template import ACCOUNT, REGION, Stack
from workflows import WorkflowSettings

VIDEO = Path(__file__).parents[2] / "samples/one-by-one-person.mp4"
PART_BYTES = 9 << 20
"""More than one part of an upload."""


def granted(stack: Stack, role: str) -> list[Grant]:
    (policy,) = stack.properties(role)["Policies"]
    return grants(policy["PolicyDocument"])


def check(allowed: list[Grant], calls: set[Call]) -> None:
    """Neither is there a call that is not allowed, nor something allowed that no call needs."""
    refused = {call for call in calls if not any(grant.allows(call) for grant in allowed)}
    assert not generalised(refused)
    unused = [grant for grant in allowed if not any(grant.allows(call) for call in calls)]
    assert not unused


def actions(allowed: list[Grant]) -> set[tuple[str, str]]:
    return {(grant.action, grant.resource) for grant in allowed}


class Place:
    """The stack's buckets and queues at the embedded S3 and SQS, and the steps with the settings of its outputs."""

    def __init__(
        self, stack: Stack, aws: Aws, recorder: Recorder, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stack, self.aws, self.recorder, self.folder = stack, aws, recorder, folder
        self.outputs = stack.outputs()
        self.bucket = self.outputs["TaskDataBucketName"]
        self._capsys = capsys

    def message(self, key: str, task: str, **fields: Any) -> list[str]:
        body = json.dumps({"bucket": self.bucket, "object": key, **fields})
        return ["--body", base64.b64encode(body.encode()).decode(), "--message-id", task]

    def reelscan(self, *arguments: str) -> None:
        cli.main([*arguments], standalone_mode=False)
        self._capsys.readouterr()

    def plan(self, *given: str) -> tuple[list[str], list[int]]:
        runs, chunks = self.folder / "runs.json", self.folder / "chunks.json"
        self.reelscan("plan", *given, "--report", "--runs-file", str(runs), "--chunks-file", str(chunks))
        (run,) = json.loads(runs.read_text())
        left = json.loads(chunks.read_text())["r0"]
        of_run = [
            "--run",
            f"{self.outputs['Results']}/{run['run']}",
            "--plan",
            run["plan"],
            "--lease-owner",
            "workflow",
        ]
        return of_run, [chunk["index"] for chunk in left["detect"] + left["detect_and_aggregate"]]


@pytest.fixture
def place(
    deploy: Deploy, aws: Aws, coded_server: ModelServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Iterator[Place]:  # fmt: skip
    # Names of a test's own: moto is one for all tests of a process.
    stack = deploy(name=f"r{aws.bucket[-12:]}")
    outputs = stack.outputs()
    for bucket in stack.of_type("AWS::S3::Bucket").values():
        aws.s3.create_bucket(Bucket=bucket["BucketName"])
    for queue in stack.of_type("AWS::SQS::Queue").values():
        aws.sqs.create_queue(QueueName=queue["QueueName"])
    aws.s3.upload_file(str(VIDEO), outputs["TaskDataBucketName"], "in/clip.mp4")
    settings = WorkflowSettings(
        results=outputs["Results"],
        artifacts=outputs["Artifacts"],
        task_queue=outputs["TaskQueueName"],
        completed_queue=outputs["TaskCompletedQueueName"],
        dead_letter_queue=outputs["DeadLetterQueueName"],
        allowed_sources=[outputs["TaskData"]],
        model_name="coded",
        model_profile=str(CODED_PROFILE),
        limits={"fps": 2},
    )
    environment = {
        **settings.environment(profile_path=str(CODED_PROFILE)),
        "REELSCAN_SERVING": coded_server.address,
        "REELSCAN_TASK_QUEUE": settings.task_queue,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with recording(aws.port) as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.url)
        yield Place(stack, aws, recorder, tmp_path, capsys)


def do_all_that_steps_do(place: Place) -> None:
    """Each command of a pod, and each way that it may take."""
    # Several chunks, a pod for each.
    several = place.message("in/clip.mp4", "m-1", chunk_seconds=5)
    of_run, chunks = place.plan(*several)
    assert len(chunks) > 1
    for chunk in chunks:
        place.reelscan("detect", *of_run, "--chunk", str(chunk))
    place.reelscan("aggregate", *several, *of_run)
    # A single chunk, one pod.
    single = place.message("in/clip.mp4", "m-2", fps=1, chunk_seconds=100)
    of_run, (chunk,) = place.plan(*single)
    place.reelscan("aggregate", *single, *of_run, "--chunk", str(chunk))
    # All in one pod.
    place.reelscan("job", *place.message("in/clip.mp4", "m-3", fps=3), "--processes", "1")
    # No video, whose lease is removed, and none at all.
    place.aws.s3.put_object(Bucket=place.bucket, Key="in/text.mp4", Body=b"no video" * 999)
    for command, key, task in (("job", "in/text.mp4", "m-4"), ("plan", "in/missing.mp4", "m-5")):
        with pytest.raises(BadInputError):
            place.reelscan(command, *place.message(key, task), *(["--report"] if command == "plan" else []))
    # A key that object_store does not know.
    place.aws.s3.put_object(Bucket=place.bucket, Key="in//text.mp4", Body=b"no video" * 999)
    with pytest.raises(BadInputError):
        place.reelscan("plan", *place.message("in//text.mp4", "m-6"), "--report")
    # The exit handler.
    place.reelscan("finish", *place.message("in/clip.mp4", "m-7"), "--code", "timeout")
    # A result in several parts, and one that is given up half-way.
    store = open_store(place.outputs["Results"], Settings.from_environment())
    with store.open_writer("large") as file:
        file.write(bytes(PART_BYTES))
    with contextlib.suppress(KeyboardInterrupt), store.open_writer("large") as file:
        file.write(bytes(PART_BYTES))
        raise KeyboardInterrupt


def as_argo_stores_artifacts(stack: Stack) -> set[Call]:
    """By Argo's container in the pods of runs: workflow/artifacts/s3/s3.go of 4.0.2, PutFile.

    It is minio's FPutObject, which removes the parts of a large file that it could not send. There is no call for the
    region, which our artifact repository names.
    """
    folder = stack.outputs()["Artifacts"].replace("s3://", "arn:aws:s3:::")
    return {
        Call(action, f"{folder}/task-m-1/task-m-1-aggregate-1/summary.json")
        for action in ("s3:PutObject", "s3:AbortMultipartUpload")
    }


def test_the_steps_may_do_what_they_do_and_nothing_else(place: Place) -> None:
    with place.recorder.only() as calls:
        do_all_that_steps_do(place)
    check(granted(place.stack, "StepsRole"), calls | as_argo_stores_artifacts(place.stack))


def test_the_steps_may_read_more_sources_only_if_there_are_any(deploy: Deploy) -> None:
    more = deploy(MoreSourceArns="arn:aws:s3:::videos/*,arn:aws:s3:::films/new/*")
    extra = set(granted(more, "StepsRole")) - set(granted(deploy(), "StepsRole"))
    assert {(grant.action, grant.resource) for grant in extra} == {
        ("s3:GetObject", "arn:aws:s3:::videos/*"),
        ("s3:GetObject", "arn:aws:s3:::films/new/*"),
    }


class Workflows(Namespace):
    """Argo's objects in a namespace, without a cluster."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self._documents = {document["metadata"]["name"]: document for document in documents}
        self.released: list[str] = []

    def list_metadata(self, kind: str, selector: str = "") -> Iterator[dict[str, Any]]:
        return iter([document["metadata"] for document in self._documents.values()] if kind == "workflows" else [])

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        return self._documents.get(name) if kind == "workflows" else None

    def patch(self, kind: str, name: str, change: Any, *, form: str = "merge") -> dict[str, Any]:
        self.released.append(name)
        return {}


def deleted_workflow(message_id: str, body: str) -> dict[str, Any]:
    parameters = {"body": base64.b64encode(body.encode()).decode(), "message_id": message_id}
    return {
        "metadata": {
            "name": f"task-{message_id}",
            "uid": "1",
            "creationTimestamp": "2026-11-25T12:00:00Z",
            "deletionTimestamp": "2026-11-25T12:01:00Z",
            "finalizers": ["reelscan.dev/accounted"],
        },
        "spec": {"arguments": {"parameters": [{"name": n, "value": v} for n, v in parameters.items()]}},
    }


def test_the_reconciler_may_do_what_it_does_and_nothing_else(place: Place) -> None:
    body = json.dumps({"bucket": place.bucket, "object": "in/clip.mp4"})
    url = place.aws.sqs.get_queue_url(QueueName=place.outputs["DeadLetterQueueName"])["QueueUrl"]
    # What SQS moved there itself, and what a run has reported.
    place.aws.sqs.send_message(QueueUrl=url, MessageBody=body)
    reported = {"task_id": {"DataType": "String", "StringValue": "m-9"}}
    place.aws.sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=reported)
    settings = Settings.from_environment()
    workflows = Workflows(deleted_workflow("m-1", body))

    with place.recorder.only() as calls:
        for _ in range(2):
            results = open_store(place.outputs["Results"], settings)
            report = Reconciler(workflows, settings, Queues(settings), results).reconcile()
            assert not report.failures
    assert workflows.released == ["task-m-1"] * 2
    check(granted(place.stack, "ReconcilerRole"), calls)


def test_of_what_the_reconciler_may_the_ledger_alone_is_written(deploy: Deploy) -> None:
    stack = deploy()
    written = {grant.resource for grant in granted(stack, "ReconcilerRole") if grant.action == "s3:PutObject"}
    assert written == {f"arn:aws:s3:::{stack.outputs()['ResultsBucketName']}/reelscan/ledger/*"}


def test_the_operator_may_upload_videos_send_tasks_and_read_what_came_of_them(place: Place) -> None:
    """`aws s3 cp` of one that takes several parts, `reelscan send --wait` and `reelscan redrive`."""
    settings = Settings.from_environment()
    operator = InfraSettings(cluster_stack_name=place.stack.name)
    caller = Caller(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/me")
    allowed = [grant for document in operator_policies(operator, caller).values() for grant in grants(document)]
    place.reelscan("job", *place.message("in/clip.mp4", "m-8", fps=1), "--processes", "1")
    url = place.aws.sqs.get_queue_url(QueueName=place.outputs["DeadLetterQueueName"])["QueueUrl"]
    body = json.dumps({"bucket": place.bucket, "object": "in/clip.mp4"})
    attributes = {"task_id": {"DataType": "String", "StringValue": "m-9"}}
    place.aws.sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)

    with place.recorder.only() as calls:
        place.reelscan("send", str(VIDEO), "--bucket", place.bucket)
        wait_for_tasks(["m-8"], settings, timeout_seconds=10, told=lambda _: None)
        place.reelscan("redrive")
        with open_store(f"s3://{place.bucket}", settings).open_writer("large") as file:
            file.write(bytes(PART_BYTES))
    assert {call.action for call in calls} >= {"s3:PutObject", "s3:GetObject", "sqs:SendMessage", "sqs:DeleteMessage"}
    refused = {call for call in calls if not any(grant.allows(call) for grant in allowed)}
    assert not generalised(refused)


# Programs of others


def test_the_event_source_may_take_tasks_and_nothing_else(deploy: Deploy) -> None:
    """pkg/eventsources/sources/awssqs/start.go of Argo Events 1.9.9."""
    stack = deploy()
    task_queue = stack.outputs()["TaskQueueArn"]
    assert actions(granted(stack, "SourceRole")) == {
        ("sqs:GetQueueUrl", task_queue),
        ("sqs:ReceiveMessage", task_queue),
        ("sqs:DeleteMessage", task_queue),
    }


def test_argos_server_may_read_artifacts_and_nothing_else(deploy: Deploy) -> None:
    """server/artifacts/artifact_server.go and workflow/artifacts/s3/s3.go of Argo Workflows 4.0.2.

    Of each artifact IsDirectory lists, and OpenStream gets.
    """
    stack = deploy()
    bucket = f"arn:aws:s3:::{stack.outputs()['ArtifactsBucketName']}"
    assert actions(granted(stack, "ArtifactReaderRole")) == {
        ("s3:GetObject", f"{bucket}/artifacts/*"),
        ("s3:ListBucket", bucket),
    }


def test_the_autoscaler_changes_the_groups_of_its_own_cluster_alone(deploy: Deploy) -> None:
    """cluster-autoscaler/cloudprovider/aws/README.md of kubernetes/autoscaler, its policy for all features."""
    allowed = granted(deploy(ClusterName="one"), "AutoscalerRole")
    everywhere = {grant.action for grant in allowed if grant.resource == "*"}
    assert everywhere == {
        "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances",
        "autoscaling:DescribeLaunchConfigurations", "autoscaling:DescribeScalingActivities", "autoscaling:DescribeTags",
        "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
        "ec2:GetInstanceTypesFromInstanceRequirements",
    }  # fmt: skip
    changing = [grant for grant in allowed if not grant.action.partition(":")[2].startswith(("Describe", "Get"))]
    assert {grant.action.partition(":")[2] for grant in changing} == {
        "SetDesiredCapacity", "TerminateInstanceInAutoScalingGroup",
    }  # fmt: skip
    for grant in changing:
        assert json.loads(grant.condition)["StringEquals"] == {
            "aws:ResourceTag/k8s.io/cluster-autoscaler/enabled": "true",
            "aws:ResourceTag/eks:cluster-name": "one",
        }
    (look,) = (grant.resource for grant in allowed if grant.action == "eks:DescribeNodegroup")
    assert look == f"arn:aws:eks:{REGION}:{ACCOUNT}:nodegroup/one/*/*"


# Who may have a role


def test_a_role_is_one_service_accounts_of_one_cluster(deploy: Deploy) -> None:
    stack = deploy(ClusterName="one", Namespace="films")
    associations = {
        association["RoleArn"]: (association["Namespace"], association["ServiceAccount"])
        for association in stack.of_type("AWS::EKS::PodIdentityAssociation").values()
    }
    for addon in stack.of_type("AWS::EKS::Addon").values():
        for association in addon.get("PodIdentityAssociations", []):
            associations[association["RoleArn"]] = ("kube-system", association["ServiceAccount"])
    assert len(associations) == 7
    trusted = {}
    for name, role in stack.of_type("AWS::IAM::Role").items():
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        if statement["Principal"] == {"Service": "pods.eks.amazonaws.com"}:
            assert statement["Action"] == ["sts:AssumeRole", "sts:TagSession"]
            tags = statement["Condition"]["StringEquals"]
            assert tags["aws:RequestTag/eks-cluster-name"] == "one"
            trusted[f"<{name}.Arn>"] = (
                tags["aws:RequestTag/kubernetes-namespace"], tags["aws:RequestTag/kubernetes-service-account"],
            )  # fmt: skip
    assert trusted == associations


def test_no_role_of_ours_has_a_wildcard_of_actions_or_a_policy_of_aws(deploy: Deploy) -> None:
    stack = deploy()
    ours = {name: role for name, role in stack.of_type("AWS::IAM::Role").items() if "Policies" in role}
    assert len(ours) == 5
    for name, role in ours.items():
        assert "ManagedPolicyArns" not in role
        assert not [grant.action for grant in granted(stack, name) if "*" in grant.action]


def test_policies_of_aws_are_those_of_the_cluster_its_nodes_and_two_add_ons(deploy: Deploy) -> None:
    stack = deploy()
    managed = {
        name: role["ManagedPolicyArns"]
        for name, role in stack.of_type("AWS::IAM::Role").items()
        if "Policies" not in role
    }
    assert {name: [arn.rpartition("/")[2] for arn in arns] for name, arns in managed.items()} == {
        "ClusterRole": ["AmazonEKSClusterPolicy"],
        "CniRole": ["AmazonEKS_CNI_Policy"],
        "EbsCsiRole": ["AmazonEBSCSIDriverPolicy"],
        "NodeRole": ["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly"],
    }

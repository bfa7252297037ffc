"""`make create-cluster`: once is enough, progress is shown, and a failure says what failed first."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.stub import ANY, Stubber
from rich.console import Console

from infra import preflight, progress
from infra import stack as stacks
from infra.nodes import stop_rebalancing
from infra.outputs import outputs, workflow_settings, write_settings
from infra.role import apply_role
from infra.session import Aws, Caller
from infra.settings import InfraSettings
from infra.stack import OWN_TAG, Stack, values
from infra.template import CLUSTER, MAX_BODY_BYTES, Template, _Loader
from steps.errors import OutsideError, UsageError
from workflows import Resources, WorkflowSettings, load_settings
from workflows.settings import amount

RESOURCES = (Resources(), Resources())
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
STACK_ID = "arn:aws:cloudformation:us-east-1:123456789012:stack/reelscan/1"


@pytest.fixture
def stack(settings: InfraSettings, cloud: Aws, small: Template) -> Stack:
    return Stack(settings, cloud, small)


def text(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def event(name: str, status: str, reason: str = "", *, kind: str = "AWS::EKS::Cluster", after: int = 1) -> Any:
    return {
        "StackId": STACK_ID, "EventId": f"{name}-{status}-{after}", "StackName": "reelscan",
        "LogicalResourceId": name, "PhysicalResourceId": STACK_ID if name == "reelscan" else name,
        "ResourceType": kind, "ResourceStatus": status, "ResourceStatusReason": reason,
        "Timestamp": BEGAN + timedelta(seconds=after),
    }  # fmt: skip


def described(status: str, reason: str = "") -> Any:
    return {
        "Stacks": [
            {"StackId": STACK_ID, "StackName": "reelscan", "CreationTime": BEGAN, "StackStatus": status,
             "StackStatusReason": reason}
        ]
    }  # fmt: skip


def test_a_stack_that_is_not_there_is_created_with_all_parameters(
    stack: Stack, settings: InfraSettings, cloud: Aws, console: Console
) -> None:
    assert stack.apply(console)
    made = stack.find()
    assert made is not None
    assert made["StackStatus"] == "CREATE_COMPLETE"
    assert {"Key": OWN_TAG, "Value": "reelscan"} in made["Tags"]
    given = {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in made["Parameters"]}
    assert given == {**settings.parameters(user=cloud.caller.arn), "PermissionsBoundary": ""}
    assert outputs(made)["TaskQueueName"] == "task-queue-reelscan"


def test_the_link_to_the_console_comes_before_progress(stack: Stack, console: Console) -> None:
    stack.apply(console)
    first = text(console).splitlines()[0]
    assert first.startswith(
        "see it at https://us-east-1.console.aws.amazon.com/cloudformation/home?region=us-east-1#/stacks/"
    )
    assert "stackId=arn%3Aaws%3Acloudformation" in first


def test_the_same_again_changes_nothing(stack: Stack, console: Console) -> None:
    stack.apply(console)
    before = stack.find()
    assert not stack.apply(console)
    assert stack.find() == before


def test_what_differs_is_changed(stack: Stack, cloud: Aws, small: Template, console: Console) -> None:
    stack.apply(console)
    changed = Stack(InfraSettings(default_sqs_task_completed_visibility=60, image_tag="1.2.3"), cloud, small)
    assert changed.apply(console)
    url = cloud.sqs.get_queue_url(QueueName="task-completed-queue-reelscan")["QueueUrl"]
    attributes = cloud.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    assert attributes == {"VisibilityTimeout": "60"}


@pytest.fixture
def with_node_group(small: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target works on what moto can make, and the stack tells EKS' name of the inference nodes."""
    content = {**small.content, "Outputs": {**small.content["Outputs"], "InferenceNodeGroup": {"Value": "inference"}}}
    small.path.write_text(json.dumps(content))
    monkeypatch.setattr(stacks, "CLUSTER", small.path)
    monkeypatch.setattr(preflight, "require", lambda *_: None)
    monkeypatch.chdir(tmp_path)


def suspended(cloud: Aws, name: str) -> list[str]:
    (group,) = cloud.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    return [process["ProcessName"] for process in group["SuspendedProcesses"]]


@pytest.mark.usefixtures("with_node_group")
def test_no_instance_is_moved_to_another_zone_with_a_chunk_on_it(
    cloud: Aws, settings: InfraSettings, inference_group: str, console: Console
) -> None:
    assert suspended(cloud, inference_group) == []
    stacks.create_cluster(settings, console)
    assert suspended(cloud, inference_group) == ["AZRebalance"]
    assert f"AZRebalance is suspended for {inference_group}" in text(console)


@pytest.mark.usefixtures("with_node_group")
def test_that_is_seen_to_each_time_even_if_the_stack_is_up_to_date(
    cloud: Aws, settings: InfraSettings, inference_group: str, console: Console
) -> None:
    stacks.create_cluster(settings, console)
    # As if a new group had taken its place.
    cloud.autoscaling.resume_processes(AutoScalingGroupName=inference_group, ScalingProcesses=["AZRebalance"])
    for _ in range(2):
        stacks.create_cluster(settings, console)
        assert suspended(cloud, inference_group) == ["AZRebalance"]
    assert text(console).count("stack reelscan is up to date") == 2


def test_it_is_seen_to_for_every_group_of_the_inference_nodes(cloud: Aws) -> None:
    names = ["eks-a", "eks-b"]
    with Stubber(cloud.eks) as eks, Stubber(cloud.autoscaling) as autoscaling:
        eks.add_response(
            "describe_nodegroup",
            {"nodegroup": {"resources": {"autoScalingGroups": [{"name": name} for name in names]}}},
            {"clusterName": "clips", "nodegroupName": "inference-1"},
        )
        for name in names:
            # Nothing else of the group is stopped.
            given = {"AutoScalingGroupName": name, "ScalingProcesses": ["AZRebalance"]}
            autoscaling.add_response("suspend_processes", {}, given)
        assert stop_rebalancing(cloud, "clips", "inference-1") == names
        autoscaling.assert_no_pending_responses()


@pytest.mark.usefixtures("with_node_group")
def test_without_the_right_to_it_the_settings_are_there_and_it_says_what_to_do(
    cloud: Aws, settings: InfraSettings, inference_group: str, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(aws: Aws, cluster: str, node_group: str) -> list[str]:
        with Stubber(aws.autoscaling) as stub:
            stub.add_client_error("suspend_processes", "AccessDenied", f"not authorized on {inference_group}", 403)
            return stop_rebalancing(aws, cluster, node_group)

    monkeypatch.setattr(stacks, "stop_rebalancing", refused)
    with pytest.raises(UsageError, match=f"node group inference of reelscan: not authorized on {inference_group}; use"):
        stacks.create_cluster(settings, console)
    assert Path("out/aws/reelscan/settings.yaml").is_file()


def test_the_template_tells_the_name_of_the_inference_nodes() -> None:
    value = Template(CLUSTER).content["Outputs"]["InferenceNodeGroup"]["Value"]
    assert value == {"Fn::GetAtt": ["InferenceNodeGroup", "NodegroupName"]}


def test_the_role_of_create_role_is_taken_if_it_is_there(stack: Stack, cloud: Aws, console: Console) -> None:
    role = cloud.iam.create_role(RoleName="reelscan-operator", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    stack.apply(console)
    made = stack.find()
    assert made is not None
    assert made["RoleARN"] == role


def given_to(stack: Stack, name: str) -> str:
    """A parameter of the stack as it is."""
    made = stack.find()
    assert made is not None
    return values(made)[name]


def as_colleague(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> str:
    """Call AWS as somebody else from now on."""
    arn = "arn:aws:iam::123456789012:user/colleague"
    monkeypatch.setattr(cloud, "caller", Caller("123456789012", arn))
    return arn


def test_a_colleague_who_calls_it_again_does_not_lock_out_who_made_the_cluster(
    stack: Stack,
    settings: InfraSettings,
    cloud: Aws,
    small: Template,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack.apply(console)
    first = given_to(stack, "AdminPrincipalArn")
    colleague = as_colleague(cloud, monkeypatch)
    assert not stack.apply(console)
    changed = Stack(settings.model_copy(update={"default_sqs_task_completed_visibility": 60}), cloud, small)
    assert changed.apply(console)
    assert given_to(stack, "AdminPrincipalArn") == first != colleague
    assert text(console).count(f"the cluster's administrator stays {first}; USER_ARN names another") == 2


def test_user_arn_names_another_administrator(
    stack: Stack, settings: InfraSettings, cloud: Aws, small: Template, console: Console
) -> None:
    stack.apply(console)
    named = "arn:aws:iam::123456789012:role/team"
    assert Stack(settings.model_copy(update={"user_arn": named}), cloud, small).apply(console)
    assert given_to(stack, "AdminPrincipalArn") == named
    # Who was named stays.
    assert not stack.apply(console)
    assert given_to(stack, "AdminPrincipalArn") == named


def test_roles_have_the_boundary_of_create_role_if_it_is_there(
    stack: Stack, settings: InfraSettings, cloud: Aws, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_role(settings, cloud)
    stack.apply(console)
    bounds = "arn:aws:iam::123456789012:policy/reelscan-operator-boundary"
    assert given_to(stack, "PermissionsBoundary") == bounds
    # Who cannot see it does not take it away.
    monkeypatch.setattr(stacks, "find_boundary", lambda *_: None)
    assert not stack.apply(console)
    assert given_to(stack, "PermissionsBoundary") == bounds


def test_a_boundary_that_would_keep_rights_from_roles_stops_it(
    settings: InfraSettings, cloud: Aws, small: Template, console: Console
) -> None:
    apply_role(settings, cloud)
    more = settings.model_copy(update={"more_source_arns": "arn:aws:s3:::clips/*"})
    with pytest.raises(
        UsageError, match=r"policy reelscan-operator-boundary: .*clips.*call `make create-role` once more"
    ):
        Stack(more, cloud, small).apply(console)
    apply_role(more, cloud)
    assert Stack(more, cloud, small).apply(console)


def test_a_stack_of_the_same_name_that_is_not_ours_is_left_alone(stack: Stack, cloud: Aws, console: Console) -> None:
    body = '{"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}'
    cloud.cloudformation.create_stack(StackName="reelscan", TemplateBody=body)
    for attempt in (lambda: stack.apply(console), lambda: stack.delete(console, lambda: None)):
        with pytest.raises(UsageError, match=r"is not of Reelscan .* set another CLUSTER_STACK_NAME"):
            attempt()
    assert cloud.cloudformation.get_template(StackName="reelscan")["TemplateBody"] in (body, yaml.safe_load(body))


def test_a_stack_that_was_rolled_back_says_how_to_go_on(settings: InfraSettings, cloud: Aws, small: Template) -> None:
    found = described("ROLLBACK_COMPLETE", "Cluster failed")["Stacks"][0]
    found["Tags"] = [{"Key": OWN_TAG, "Value": "reelscan"}]
    with pytest.raises(UsageError, match=r"is ROLLBACK_COMPLETE, .* take it away with `make delete-cluster` first"):
        Stack(settings, cloud, small)._check_changeable(found)


def test_a_failure_names_the_resource_that_failed_first_and_why(cloud: Aws, console: Console) -> None:
    newest_first = [
        event("reelscan", "ROLLBACK_COMPLETE", kind="AWS::CloudFormation::Stack", after=9),
        event(
            "InferenceNodeGroup", "CREATE_FAILED", "Resource creation cancelled", kind="AWS::EKS::Nodegroup", after=4
        ),
        event("Cluster", "CREATE_FAILED", "Limit exceeded: at most 100 clusters", after=3),
        event("Vpc", "CREATE_FAILED", "Resource creation cancelled", kind="AWS::EC2::VPC", after=2),
        event("Cluster", "CREATE_IN_PROGRESS", after=1),
    ]
    with Stubber(cloud.cloudformation) as stub:
        stub.add_response("describe_stacks", described("ROLLBACK_COMPLETE"))
        stub.add_response("describe_stack_events", {"StackEvents": newest_first}, {"StackName": STACK_ID})
        with pytest.raises(OutsideError) as raised:
            progress.follow(cloud, STACK_ID, BEGAN, 5, console)
    assert str(raised.value) == (
        "stack reelscan is ROLLBACK_COMPLETE: first Cluster (AWS::EKS::Cluster) failed: "
        "Limit exceeded: at most 100 clusters"
    )
    assert raised.value.exit_status == 4


def test_progress_is_shown_until_the_stack_is_done(
    cloud: Aws, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.0)
    with Stubber(cloud.cloudformation) as stub:
        stub.add_response("describe_stacks", described("CREATE_IN_PROGRESS"))
        stub.add_response(
            "describe_stack_events",
            {
                "StackEvents": [
                    event("Cluster", "CREATE_IN_PROGRESS", after=2),
                    event("Vpc", "CREATE_COMPLETE", after=1),
                ]
            },
        )
        stub.add_response("describe_stacks", described("CREATE_COMPLETE"))
        stub.add_response("describe_stack_events", {"StackEvents": [event("Cluster", "CREATE_COMPLETE", after=3)]})
        assert progress.follow(cloud, STACK_ID, BEGAN, 2, console) == "CREATE_COMPLETE"
    assert "1 done, at work: Cluster" in text(console)


def test_events_of_an_earlier_time_do_not_count(cloud: Aws) -> None:
    old = event("Cluster", "CREATE_FAILED", "long ago", after=-60)
    with Stubber(cloud.cloudformation) as stub:
        stub.add_response(
            "describe_stack_events", {"StackEvents": [event("Vpc", "CREATE_COMPLETE"), old]}, {"StackName": ANY}
        )
        assert [found["LogicalResourceId"] for found in progress.events(cloud, STACK_ID, BEGAN)] == ["Vpc"]


def test_a_template_that_is_too_long_goes_along_shortened_and_means_the_same() -> None:
    template = Template(CLUSTER)
    body = template.body()
    assert len(body.encode()) <= MAX_BODY_BYTES
    sent = yaml.load(body, _Loader)
    for section in ("Rules", "Mappings", "Conditions", "Resources"):
        assert sent[section] == template.content[section], section
    for section in ("Parameters", "Outputs"):
        for name, item in template.content[section].items():
            assert sent[section][name] == {key: value for key, value in item.items() if key != "Description"}, name


@pytest.fixture
def read(stack: Stack, settings: InfraSettings, cloud: Aws, console: Console, tmp_path: Path) -> WorkflowSettings:
    """The workflow's settings of a stack that was made."""
    stack.apply(console)
    made = stack.find()
    assert made is not None
    return load_settings(write_settings(settings, cloud, made, tmp_path))


def test_the_stack_s_outputs_become_settings_that_the_workflow_takes(read: WorkflowSettings) -> None:
    account = "123456789012"
    assert (read.namespace, read.reconciler_namespace) == ("video", "video-reconciler")
    assert read.task_queue == "task-queue-reelscan"
    assert read.results == f"s3://results-bucket-{account}-us-east-1-reelscan/reelscan"
    assert read.allowed_sources == [f"s3://task-data-bucket-{account}-us-east-1-reelscan/*"]
    assert read.steps_image == f"{account}.dkr.ecr.us-east-1.amazonaws.com/reelscan/steps:1.2.3"
    assert read.aws_region == "us-east-1"


def test_all_settings_of_the_workflow_come_from_outputs_of_the_template(settings: InfraSettings) -> None:
    told = dict.fromkeys(Template(CLUSTER).content["Outputs"], "s3://x/y")
    assert workflow_settings(settings, told, RESOURCES)["completed_queue"] == "s3://x/y"


def test_a_pod_with_a_model_server_fits_a_node_of_the_default_type(read: WorkflowSettings) -> None:
    detect, serving = read.detect_resources, read.serving.resources
    # Of 2000m the kubelet keeps 70m; aws-node, kube-proxy, the volumes' driver and Argo's container request 190m.
    assert (amount(detect.cpu) + amount(serving.cpu)) * 1000 <= 2000 - 70 - 190
    # Of 4096 MiB the kernel sees 3789; the kubelet keeps 574 and 100 to evict in time, driver and Argo request 184.
    free = 3788 - 574 - 100 - 184
    for attempt in (detect.memory, detect.retry_memory):
        assert (amount(attempt) + amount(serving.memory)) / 2**20 <= free
    assert amount(detect.retry_memory) > amount(detect.memory)


def test_objects_of_other_buckets_that_the_stack_may_read_may_be_named_by_tasks() -> None:
    settings = InfraSettings(more_source_arns="arn:aws:s3:::clips/cam1/*,arn:aws:s3:::more/*")
    told = {**dict.fromkeys(Template(CLUSTER).content["Outputs"], "x"), "TaskData": "s3://task-data/*"}
    made = workflow_settings(settings, told, RESOURCES)
    assert made["allowed_sources"] == ["s3://task-data/*", "s3://clips/cam1/*", "s3://more/*"]

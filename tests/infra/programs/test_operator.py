"""The role of `make create-role` can do what the targets do to one stack, and nothing else."""

from __future__ import annotations

import fnmatch
import functools
import json
import re
from typing import Any

import pytest
from botocore.client import BaseClient
from rich.console import Console

from infra import cleanup, kubeconfig, nodes, policies, preflight, push, status
from infra.session import Aws, Caller
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template

CALLER = Caller("123456789012", "arn:aws:iam::123456789012:user/me")
ARN = "arn:aws:iam::123456789012:role/reelscan-operator"
# What IAM calls an action that is not called as the operation is.
ACTIONS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:DeleteObjects": "s3:DeleteObject",
    "service-quotas:GetServiceQuota": "servicequotas:GetServiceQuota",
    "resourcegroupstaggingapi:GetResources": "tag:GetResources",
}
# By whom a stack of infra/cluster.yaml is made: at least these of each kind of resource.
MAKING = {
    "AWS::EC2::VPC": "ec2:CreateVpc ec2:DeleteVpc",
    "AWS::EC2::Subnet": "ec2:CreateSubnet ec2:DeleteSubnet",
    "AWS::EC2::InternetGateway": "ec2:CreateInternetGateway ec2:DeleteInternetGateway",
    "AWS::EC2::VPCGatewayAttachment": "ec2:AttachInternetGateway ec2:DetachInternetGateway",
    "AWS::EC2::RouteTable": "ec2:CreateRouteTable ec2:DeleteRouteTable",
    "AWS::EC2::Route": "ec2:CreateRoute ec2:DeleteRoute",
    "AWS::EC2::SubnetRouteTableAssociation": "ec2:AssociateRouteTable ec2:DisassociateRouteTable",
    "AWS::EC2::EIP": "ec2:AllocateAddress ec2:ReleaseAddress",
    "AWS::EC2::NatGateway": "ec2:CreateNatGateway ec2:DeleteNatGateway",
    "AWS::EC2::VPCEndpoint": "ec2:CreateVpcEndpoint route53:AssociateVPCWithHostedZone ec2:DeleteVpcEndpoints",
    "AWS::EC2::SecurityGroup": "ec2:CreateSecurityGroup ec2:AuthorizeSecurityGroupIngress ec2:DeleteSecurityGroup",
    "AWS::EC2::LaunchTemplate": "ec2:CreateLaunchTemplate ec2:DeleteLaunchTemplate ec2:RunInstances",
    "AWS::KMS::Key": "kms:CreateKey kms:EnableKeyRotation kms:ScheduleKeyDeletion kms:CreateGrant",
    "AWS::Logs::LogGroup": "logs:CreateLogGroup logs:PutRetentionPolicy logs:AssociateKmsKey logs:DeleteLogGroup",
    "AWS::IAM::Role": (
        "iam:CreateRole iam:PutRolePolicy iam:AttachRolePolicy iam:PutRolePermissionsBoundary iam:PassRole "
        "iam:DeleteRole"
    ),
    "AWS::EKS::Cluster": "eks:CreateCluster eks:DeleteCluster",
    "AWS::EKS::AccessEntry": "eks:CreateAccessEntry eks:AssociateAccessPolicy eks:DeleteAccessEntry",
    "AWS::EKS::Addon": "eks:CreateAddon eks:DeleteAddon",
    "AWS::EKS::Nodegroup": "eks:CreateNodegroup eks:DeleteNodegroup iam:CreateServiceLinkedRole",
    "AWS::EKS::PodIdentityAssociation": "eks:CreatePodIdentityAssociation eks:DeletePodIdentityAssociation",
    "AWS::SQS::Queue": "sqs:CreateQueue sqs:SetQueueAttributes sqs:DeleteQueue",
    "AWS::SQS::QueuePolicy": "sqs:SetQueueAttributes",
    "AWS::S3::Bucket": "s3:CreateBucket s3:PutEncryptionConfiguration s3:PutLifecycleConfiguration s3:DeleteBucket",
    "AWS::S3::BucketPolicy": "s3:PutBucketPolicy s3:DeleteBucketPolicy",
    "AWS::ECR::Repository": "ecr:CreateRepository ecr:DeleteRepository",
    "AWS::SNS::Topic": "sns:CreateTopic sns:DeleteTopic",
    "AWS::SNS::TopicPolicy": "sns:SetTopicAttributes",
    "AWS::SNS::Subscription": "sns:Subscribe sns:Unsubscribe",
    "AWS::CloudWatch::Alarm": "cloudwatch:PutMetricAlarm cloudwatch:DeleteAlarms",
    "AWS::CloudWatch::Dashboard": "cloudwatch:PutDashboard cloudwatch:DeleteDashboards",
    "AWS::Budgets::Budget": "budgets:ViewBudget budgets:ModifyBudget",
    "AWS::CloudFormation::WaitConditionHandle": "",
}


@functools.cache
def statements(settings: InfraSettings) -> list[dict[str, Any]]:
    return [one for document in policies.operator_policies(settings, CALLER).values() for one in document["Statement"]]


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def allowing(settings: InfraSettings) -> list[dict[str, Any]]:
    return [one for one in statements(settings) if one["Effect"] == "Allow"]


def allows(settings: InfraSettings, action: str) -> bool:
    """Whether an action is allowed on anything at all."""
    return any(
        fnmatch.fnmatchcase(action, pattern)
        for statement in allowing(settings)
        for pattern in listed(statement["Action"])
    )


def may(settings: InfraSettings, action: str, resource: str, **context: str) -> bool:
    """Whether the role may do something to a resource, as IAM decides it.

    Args:
        context: by condition key, with an underscore for its colon.
    """
    found = {key.replace("_", ":", 1): value for key, value in context.items()}
    effects = {
        one["Effect"]
        for one in statements(settings)
        if any(fnmatch.fnmatchcase(action, pattern) for pattern in listed(one["Action"]))
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in listed(one["Resource"]))
        and holds(one.get("Condition", {}), found)
    }
    return effects == {"Allow"}


def test_each_policy_fits_into_what_iam_takes() -> None:
    longest = InfraSettings(cluster_stack_name="s" * 40, cluster_name="c" * 100, region="ap-southeast-2")
    made = policies.operator_policies(longest, CALLER)
    assert len(made) <= 10
    made[policies.boundary_name(longest)] = policies.boundary(longest, CALLER)
    for name, document in made.items():
        characters = len(re.sub(r"\s", "", json.dumps(document)))
        assert characters <= policies.MAX_POLICY_CHARACTERS, name


# By the service authorization reference of AWS; of a hosted zone it is AWS' own, whose name nobody knows.
WITHOUT_RESOURCES = {"route53:AssociateVPCWithHostedZone", "sns:Unsubscribe", "sns:GetSubscriptionAttributes"}


def test_nothing_is_allowed_by_a_star_but_looking(settings: InfraSettings) -> None:
    for statement in allowing(settings):
        for action in listed(statement["Action"]):
            service, _, verb = action.partition(":")
            assert verb != "*"
            if "*" in verb:
                assert (service, verb) in {("ec2", "Describe*"), ("s3", "GetBucket*"), ("s3", "PutBucket*")}
        if "*" in listed(statement["Resource"]):
            changing = {a for a in listed(statement["Action"]) if not re.match(r"\w+:(Describe|Get|List)", a)}
            tagged = {"StringEquals": {"aws:RequestTag/reelscan-stack": "reelscan"}}
            assert changing <= WITHOUT_RESOURCES or statement["Condition"] == tagged


def test_what_has_no_resources_is_allowed_on_all(settings: InfraSettings) -> None:
    """A statement that names some would never apply."""
    for action in (*WITHOUT_RESOURCES, "eks:CreateCluster", "kms:CreateKey"):
        (one,) = [one for one in allowing(settings) if action in listed(one["Action"])]
        assert one["Resource"] == "*"


def test_what_can_be_is_narrowed_to_the_stack(settings: InfraSettings) -> None:
    others = {
        "Ask", "Make", "NameEndpoints", "TagWhatIsMade", "UseTheLaunchTemplates", "LookUpImages", "ServiceRoles",
        "Subscriptions",
    }  # fmt: skip
    for statement in allowing(settings):
        where = json.dumps([statement["Resource"], statement.get("Condition")])
        assert statement["Sid"] in others or "reelscan" in where, statement["Sid"]


def test_every_kind_of_resource_in_the_template_can_be_made_and_deleted(settings: InfraSettings) -> None:
    kinds = {resource["Type"] for resource in Template(CLUSTER).resources.values()}
    assert kinds <= set(MAKING)
    lacking = [action for kind in kinds for action in MAKING[kind].split() if not allows(settings, action)]
    assert lacking == []


def test_no_service_is_allowed_that_the_stack_does_not_use(settings: InfraSettings) -> None:
    services = {action.partition(":")[0] for one in statements(settings) for action in listed(one["Action"])}
    used = {action.partition(":")[0] for actions in MAKING.values() for action in actions.split()}
    assert services - used == {"cloudformation", "servicequotas", "tag", "autoscaling", "ssm"}


def test_only_the_managed_policies_that_the_template_names_may_be_attached(settings: InfraSettings) -> None:
    named = {
        arn["Fn::Sub"].replace("${AWS::Partition}", "aws")
        for resource in Template(CLUSTER).resources.values()
        if resource["Type"] == "AWS::IAM::Role"
        for arn in resource["Properties"].get("ManagedPolicyArns", [])
    }
    (allowed,) = [
        one["Condition"]["ArnEquals"]["iam:PolicyARN"] for one in statements(settings) if one["Sid"] == "PoliciesOfAws"
    ]
    assert set(allowed) == named


def test_roles_are_handed_to_the_services_that_need_them_alone(settings: InfraSettings) -> None:
    passing = [one for one in statements(settings) if "iam:PassRole" in listed(one["Action"])]
    assert len(passing) == 2
    for one in passing:
        services = listed(one["Condition"]["StringEquals"]["iam:PassedToService"])
        assert set(services) <= {
            "cloudformation.amazonaws.com",
            "eks.amazonaws.com",
            "pods.eks.amazonaws.com",
            "ec2.amazonaws.com",
        }


CHANGES_OF_ROLES = (
    "CreateRole", "PutRolePolicy", "AttachRolePolicy", "PutRolePermissionsBoundary", "UpdateAssumeRolePolicy",
    "DeleteRolePolicy", "DetachRolePolicy", "DeleteRole", "DeleteRolePermissionsBoundary",
)  # fmt: skip
BOUNDARY = "arn:aws:iam::123456789012:policy/reelscan-operator-boundary"
CLUSTER_POLICY = "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"


@pytest.mark.parametrize("name", ["reelscan-operator", "reelscan-prod-operator", "another-operator", "operator"])
def test_no_role_of_an_operator_can_be_changed_neither_its_own_nor_another(settings: InfraSettings, name: str) -> None:
    for change in CHANGES_OF_ROLES:
        context = {"iam_PermissionsBoundary": BOUNDARY, "iam_PolicyARN": CLUSTER_POLICY}
        assert not may(settings, f"iam:{change}", f"arn:aws:iam::123456789012:role/{name}", **context)


def test_the_role_stays_out_of_its_own_reach_even_if_it_is_given_more(settings: InfraSettings) -> None:
    denied = [one for one in statements(settings) if one["Effect"] == "Deny"]

    def is_denied(action: str, resource: str) -> bool:
        return any(action in one["Action"] and fnmatch.fnmatchcase(resource, one["Resource"]) for one in denied)

    assert all(is_denied(f"iam:{change}", ARN) for change in CHANGES_OF_ROLES)
    for action in ("CreatePolicy", "CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicy"):
        assert is_denied(f"iam:{action}", BOUNDARY)
        assert is_denied(f"iam:{action}", "arn:aws:iam::123456789012:policy/reelscan-operator-roles")


@pytest.mark.parametrize("change", ["CreateRole", "PutRolePolicy", "AttachRolePolicy", "PutRolePermissionsBoundary"])
def test_roles_can_be_made_and_given_rights_within_the_boundary_alone(settings: InfraSettings, change: str) -> None:
    steps = "arn:aws:iam::123456789012:role/reelscan-StepsRole-1AB"
    of_aws = {"iam_PolicyARN": CLUSTER_POLICY}
    assert may(settings, f"iam:{change}", steps, iam_PermissionsBoundary=BOUNDARY, **of_aws)
    assert not may(settings, f"iam:{change}", steps, **of_aws)
    wider = "arn:aws:iam::aws:policy/AdministratorAccess"
    assert not may(settings, f"iam:{change}", steps, iam_PermissionsBoundary=wider, **of_aws)


def test_no_role_can_be_taken_out_of_the_boundary_and_it_cannot_be_changed(settings: InfraSettings) -> None:
    steps = "arn:aws:iam::123456789012:role/reelscan-StepsRole-1AB"
    assert not may(settings, "iam:DeleteRolePermissionsBoundary", steps, iam_PermissionsBoundary=BOUNDARY)
    for action in ("CreatePolicy", "CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicy", "CreateUser"):
        assert not allows(settings, f"iam:{action}")
    assert may(settings, "iam:GetPolicyVersion", BOUNDARY)


def test_roles_are_those_of_the_template(settings: InfraSettings) -> None:
    in_template = {name for name, item in Template(CLUSTER).resources.items() if item["Type"] == "AWS::IAM::Role"}
    for action in ("iam:CreateRole", "iam:PassRole", "iam:DeleteRole"):
        (one,) = [
            one for one in allowing(settings) if action in listed(one["Action"]) and len(listed(one["Resource"])) > 1
        ]
        assert set(one["Resource"]) == {f"arn:aws:iam::123456789012:role/reelscan-{name}-*" for name in in_template}


def test_a_stack_whose_name_begins_or_ends_alike_is_out_of_reach(settings: InfraSettings) -> None:
    """Names as CloudFormation makes them."""
    iam, here = "arn:aws:iam::123456789012", "us-east-1:123456789012"

    def reached(stack: str) -> set[str]:
        resources = {
            f"{iam}:role/{stack}-StepsRole-1AB": "iam:GetRole",
            f"{iam}:role/{stack}-ClusterRole-1AB": "iam:UpdateAssumeRolePolicy",
            f"arn:aws:cloudformation:{here}:stack/{stack}/1": "cloudformation:DeleteStack",
            f"arn:aws:eks:{here}:cluster/{stack}": "eks:DeleteCluster",
            f"arn:aws:sqs:{here}:task-queue-{stack}": "sqs:DeleteQueue",
            f"arn:aws:s3:::task-data-bucket-123456789012-us-east-1-{stack}": "s3:DeleteBucket",
            f"arn:aws:ecr:{here}:repository/{stack}/steps": "ecr:DeleteRepository",
            f"arn:aws:sns:{here}:{stack}-AlarmTopic-1AB": "sns:DeleteTopic",
            f"arn:aws:cloudwatch:{here}:alarm:{stack}-QueueAgeAlarm-1AB": "cloudwatch:DeleteAlarms",
            f"arn:aws:logs:{here}:log-group:/aws/eks/{stack}/cluster": "logs:DeleteLogGroup",
        }
        template = f"arn:aws:ec2:{here}:launch-template/lt-1"
        found = {resource for resource, action in resources.items() if may(settings, action, resource)}
        tag = {"aws_ResourceTag/Name": f"{stack}/standard"}
        return found | {template} if may(settings, "ec2:DeleteLaunchTemplate", template, **tag) else found

    assert len(reached("reelscan")) == 11
    for another in ("reelscan-prod", "prod-reelscan", "queue-reelscan", "x-queue-reelscan"):
        assert reached(another) == set(), another


def test_the_name_of_a_launch_template_begins_with_the_stack_s_and_a_sign(settings: InfraSettings) -> None:
    for template in Template(CLUSTER).resources.values():
        if template["Type"] == "AWS::EC2::LaunchTemplate":
            (own,) = template["Properties"]["TagSpecifications"]
            (tag,) = own["Tags"]
            assert tag["Value"]["Fn::Sub"].startswith("${AWS::StackName}/")


def holds(condition: dict[str, dict[str, Any]], context: dict[str, str]) -> bool:
    """As IAM has it: a key that is not there fails, unless the operator says that it may lack."""
    for operator, wanted in condition.items():
        name = operator.removesuffix("IfExists")
        assert name in ("StringEquals", "StringLike", "ArnEquals", "ArnLike", "Bool"), operator
        for key, value in wanted.items():
            if key not in context:
                if name == operator:
                    return False
            elif not any(fnmatch.fnmatchcase(context[key], pattern) for pattern in listed(value)):
                return False
    return True


def allowed_of_keys(settings: InfraSettings, **context: str) -> set[str]:
    """What may be done to a key that is there."""
    found = {key.replace("_", ":", 1) if key != "tag" else "aws:ResourceTag/reelscan-stack": value
             for key, value in context.items()}  # fmt: skip
    return {
        action
        for one in statements(settings)
        for action in listed(one["Action"])
        if action.startswith("kms:") and action != "kms:CreateKey" and holds(one["Condition"], found)
    }


def test_the_key_of_secrets_can_be_used_before_kms_goes_by_its_tag(settings: InfraSettings) -> None:
    """EKS describes it, and makes a grant, with the rights of who makes the cluster; CloudFormation reads it back."""
    new = allowed_of_keys(settings, aws_ViaAWSService="true")
    assert new == {
        "kms:CreateGrant", "kms:DescribeKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
        "kms:ListResourceTags",
    }  # fmt: skip
    assert new < allowed_of_keys(settings, tag="reelscan")
    assert "kms:CreateGrant" not in allowed_of_keys(settings, aws_ViaAWSService="false")


def test_a_key_of_another_stack_is_out_of_reach(settings: InfraSettings) -> None:
    assert allowed_of_keys(settings, tag="another", aws_ViaAWSService="true") == set()


def test_a_key_can_be_made_only_with_the_stacks_tag(settings: InfraSettings) -> None:
    (making,) = [one for one in statements(settings) if "kms:CreateKey" in listed(one["Action"])]
    # CloudFormation hands on the stack's tags with the request, which asks for both rights.
    assert set(making["Action"]) == {"kms:CreateKey", "kms:TagResource"}
    assert holds(making["Condition"], {"aws:RequestTag/reelscan-stack": "reelscan"})
    assert not holds(making["Condition"], {})


def test_only_groups_of_the_own_cluster_can_be_suspended(settings: InfraSettings) -> None:
    own = settings.model_copy(update={"cluster_name": "clips"})
    (one,) = [one for one in statements(own) if "autoscaling:SuspendProcesses" in listed(one["Action"])]
    # The tag that EKS gives the groups that it makes, and by which the autoscaler's role is narrowed too.
    assert one["Condition"] == {"StringEquals": {"aws:ResourceTag/eks:cluster-name": "clips"}}
    assert one["Resource"] == "arn:aws:autoscaling:us-east-1:123456789012:autoScalingGroup:*:autoScalingGroupName/*"


def test_the_role_may_do_all_that_the_targets_ask_of_aws(
    cloud: Aws,
    settings: InfraSettings,
    small: Template,
    console: Console,
    inference_group: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: set[str] = set()
    original = BaseClient._make_api_call  # type: ignore[attr-defined]

    def recording(client: Any, operation: str, arguments: Any) -> Any:
        called.add(f"{client.meta.service_model.service_name}:{operation}")
        return original(client, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", recording)
    for module in (cleanup, push, status):
        monkeypatch.setattr(module, "CLUSTER", small.path)
    monkeypatch.setattr(status, "write_settings", lambda *_: "out/aws/reelscan/settings.yaml")
    preflight.examine(settings, cloud)
    stack = Stack(settings, cloud, small)
    stack.apply(console)
    stack.apply(console)
    cloud.s3.put_object(Bucket=stack.buckets()[0], Key="a", Body=b"a")
    called.discard("s3:PutObject")
    cloud.s3.create_multipart_upload(Bucket=stack.buckets()[0], Key="b")
    called.discard("s3:CreateMultipartUpload")
    assert nodes.stop_rebalancing(cloud, "reelscan", "inference") == [inference_group]
    kubeconfig.require_cluster(settings, cloud)
    status.status(settings, console)
    push.has_tag(cloud, "reelscan/steps", "1")
    push.login(cloud)
    cloud.eks.delete_nodegroup(clusterName="reelscan", nodegroupName="inference")
    cloud.eks.delete_cluster(name="reelscan")
    called -= {"eks:DeleteNodegroup", "eks:DeleteCluster"}
    cleanup.delete_cluster(settings.model_copy(update={"confirm": "reelscan"}), console)
    actions = {ACTIONS.get(call, call) for call in called} - {"sts:GetCallerIdentity"}
    assert {
        "autoscaling:SuspendProcesses", "cloudformation:CreateStack", "s3:ListBucketVersions", "tag:GetResources",
    } <= actions  # fmt: skip
    assert [action for action in sorted(actions) if not allows(settings, action)] == []

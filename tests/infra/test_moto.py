"""What moto's CloudFormation knows of infra/cluster.yaml is deployed, and is there afterwards as the template says.

It drops some properties in silence, such as notifications, lifecycles and public access: test_stack.py looks at those.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tests.infra.stacks import NEEDED, Deploy
from tests.infra.template import REGION

NOT_IN_MOTO = {
    "AWS::Budgets::Budget",
    "AWS::CloudFormation::WaitConditionHandle",
    "AWS::CloudWatch::Alarm",
    "AWS::EKS::AccessEntry",
    "AWS::EKS::Addon",
    "AWS::EKS::Cluster",
    "AWS::EKS::Nodegroup",
    "AWS::EKS::PodIdentityAssociation",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
}
"""Types that moto skips; their attributes are errors there."""
STACK = "mine"


def without_what_moto_lacks(template: Mapping[str, Any]) -> str:
    """The rest of the template, complete in itself."""
    gone = {name for name, resource in template["Resources"].items() if resource["Type"] in NOT_IN_MOTO}
    # Its body names alarms.
    gone.add("Dashboard")
    made: dict[str, Any] = json.loads(json.dumps(template))
    made["Resources"] = {name: resource for name, resource in made["Resources"].items() if name not in gone}
    for resource in made["Resources"].values():
        if resource.get("DependsOn") in gone:
            del resource["DependsOn"]
    made["Outputs"] = {name: output for name, output in made["Outputs"].items() if not _names(output) & gone}
    return json.dumps(made)


def _names(node: Any) -> set[str]:
    """Of what a part of a template refers to."""
    if isinstance(node, list):
        return set().union(*map(_names, node))
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(_names, node.values()))
    if isinstance(node.get("Ref"), str):
        found.add(node["Ref"])
    if "Fn::GetAtt" in node:
        found.add(node["Fn::GetAtt"][0])
    return found


class Deployed:
    """The stack at moto."""

    def __init__(self, template: Mapping[str, Any], parameters: Mapping[str, str]) -> None:
        self.parameters = dict(parameters)
        cloudformation = boto3.client("cloudformation", REGION)
        cloudformation.create_stack(
            StackName=STACK,
            TemplateBody=without_what_moto_lacks(template),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in {**NEEDED, **parameters}.items()],
        )
        (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        self.status = stack["StackStatus"]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        found = cloudformation.list_stack_resources(StackName=STACK)["StackResourceSummaries"]
        self.ids = {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for resource in found
            if resource["LogicalResourceId"]
        }
        self.ec2 = boto3.client("ec2", REGION)


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"Az2": "us-east-1c", "NetworkEgress": "endpoints", "S3Notification": "true", "SshKeyName": "mine"},
        {
            "Accelerator": "gpu",
            "InferenceNodeInstanceType": "g6.xlarge",
            "Spot": "true",
            "MoreSourceArns": "arn:aws:s3:::videos/*,arn:aws:s3:::films/*",
        },
    ],
    ids=["defaults", "endpoints", "gpu"],
)
def deployed(request: pytest.FixtureRequest, cluster_template: Mapping[str, Any]) -> Iterator[Deployed]:
    with mock_aws():
        yield Deployed(cluster_template, request.param)


def test_the_stack_is_made_with_the_resources_of_its_choices(deployed: Deployed, deploy: Deploy) -> None:
    assert deployed.status == "CREATE_COMPLETE"
    expected = {
        name for name, resource in deploy(name=STACK, **deployed.parameters).resources().items()
        if resource["Type"] not in NOT_IN_MOTO and name != "Dashboard"
    }  # fmt: skip
    assert set(deployed.ids) == expected


def test_outputs_are_those_of_the_evaluator(deployed: Deployed, deploy: Deploy) -> None:
    """So what the other tests look at is what CloudFormation would make, as far as moto knows."""
    expected = deploy(name=STACK, **deployed.parameters).outputs()
    made_up = {name for name, value in expected.items() if "<" in value}
    # moto has other URLs of queues.
    urls = {name for name in expected if name.endswith("Url")} - {"DashboardUrl"}
    for name, value in deployed.outputs.items():
        if name in urls:
            assert value.rpartition("/")[2] == expected[name].rpartition("/")[2]
        elif name not in made_up:
            assert value == expected[name], name


def test_queues_are_there_as_said(deployed: Deployed) -> None:
    sqs = boto3.client("sqs", REGION)

    def attributes(name: str) -> dict[str, str]:
        url = sqs.get_queue_url(QueueName=f"{name}-{STACK}")["QueueUrl"]
        return dict(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])

    task = attributes("task-queue")
    assert (task["MaximumMessageSize"], task["VisibilityTimeout"], task["MessageRetentionPeriod"]) == (
        "65536",
        "120",
        "604800",
    )
    assert json.loads(task["RedrivePolicy"]) == {
        "deadLetterTargetArn": attributes("task-dead-letter-queue")["QueueArn"], "maxReceiveCount": 10,
    }  # fmt: skip
    assert attributes("task-completed-queue")["VisibilityTimeout"] == "500"


def test_buckets_are_there_and_encrypted(deployed: Deployed) -> None:
    s3 = boto3.client("s3", REGION)
    names = {deployed.outputs[f"{name}BucketName"] for name in ("TaskData", "Results", "Artifacts")}
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == names
    for name in names:
        (rule,) = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_private_subnets_lead_out_as_chosen(deployed: Deployed) -> None:
    zones = {
        subnet["AvailabilityZone"]
        for subnet in deployed.ec2.describe_subnets(SubnetIds=deployed.outputs["PrivateSubnets"].split(","))["Subnets"]
    }
    assert len(zones) == (3 if "Az2" in deployed.parameters else 2)
    (table,) = deployed.ec2.describe_route_tables(RouteTableIds=[deployed.ids["PrivateRoutes"]])["RouteTables"]
    out = [route for route in table["Routes"] if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
    services = {e["ServiceName"] for e in deployed.ec2.describe_vpc_endpoints()["VpcEndpoints"]}
    if deployed.parameters.get("NetworkEgress") == "endpoints":
        assert not out
        assert {
            f"com.amazonaws.{REGION}.{name}" for name in ("s3", "sqs", "ecr.api", "ecr.dkr", "eks-auth")
        } <= services
    else:
        assert out[0]["NatGatewayId"] == deployed.ids["NatGateway"]
        assert services == {f"com.amazonaws.{REGION}.s3"}


def test_launch_templates_are_there_as_said(deployed: Deployed) -> None:
    for name in ("StandardLaunchTemplate", "InferenceLaunchTemplate"):
        versions = deployed.ec2.describe_launch_template_versions(LaunchTemplateId=deployed.ids[name])
        data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        assert data["MetadataOptions"]["HttpTokens"] == "required"
        assert data["BlockDeviceMappings"][0]["Ebs"]["VolumeType"] == "gp3"
        assert data.get("KeyName") == deployed.parameters.get("SshKeyName")


def as_written(document: Any) -> Any:
    """A policy as moto gives it: as Python writes it, with a hole where AWS::NoValue was."""
    document = ast.literal_eval(str(document))
    document["Statement"] = [statement for statement in document["Statement"] if statement is not None]
    return document


def test_roles_are_there_with_the_policies_that_test_policies_looks_at(deployed: Deployed, deploy: Deploy) -> None:
    iam = boto3.client("iam", REGION)
    stack = deploy(name=STACK, **deployed.parameters)
    for name, role in stack.of_type("AWS::IAM::Role").items():
        for policy in role.get("Policies", []):
            made = iam.get_role_policy(RoleName=deployed.ids[name], PolicyName=policy["PolicyName"])["PolicyDocument"]
            assert as_written(made) == policy["PolicyDocument"]
        made = iam.get_role(RoleName=deployed.ids[name])["Role"]["AssumeRolePolicyDocument"]
        assert as_written(made) == role["AssumeRolePolicyDocument"]


def test_only_what_moto_lacks_is_left_out(cluster_template: Mapping[str, Any]) -> None:
    """When moto learns a type, it goes off the list."""
    from moto.cloudformation.parsing import get_model_map

    known = set(get_model_map())
    types = {resource["Type"] for resource in cluster_template["Resources"].values()}
    assert types - known == NOT_IN_MOTO

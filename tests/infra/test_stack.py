"""What infra/cluster.yaml makes, under the choices that change it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.settings import InfraSettings
from tests.infra.stacks import Deploy
from tests.infra.template import REGION, Stack

ENDPOINTS = {
    "SqsEndpoint", "EcrApiEndpoint", "EcrRegistryEndpoint", "Ec2Endpoint", "EksAuthEndpoint", "EksEndpoint",
    "AutoscalingEndpoint",
}  # fmt: skip


def standard_groups(stack: Stack) -> dict[str, dict[str, Any]]:
    """The node groups of standard nodes by name, the first zone's first."""
    groups = stack.of_type("AWS::EKS::Nodegroup")
    return {name: group for name, group in groups.items() if name != "InferenceNodeGroup"}


# Network


def test_with_nat_nodes_reach_the_internet_and_s3_without_it(deploy: Deploy) -> None:
    stack = deploy()
    assert stack.properties("PrivateDefaultRoute")["NatGatewayId"] == "<NatGateway>"
    assert not ENDPOINTS & set(stack.resources())
    assert stack.properties("S3Endpoint")["RouteTableIds"] == ["<PrivateRoutes>"]


def test_with_endpoints_nothing_leads_to_the_internet(deploy: Deploy) -> None:
    stack = deploy(NetworkEgress="endpoints")
    assert ENDPOINTS | {"S3Endpoint"} == set(stack.of_type("AWS::EC2::VPCEndpoint"))
    assert not stack.of_type("AWS::EC2::NatGateway")
    assert [route["RouteTableId"] for route in stack.of_type("AWS::EC2::Route").values()] == ["<PublicRoutes>"]


@pytest.mark.parametrize(("az2", "zones"), [("", 2), ("us-east-1c", 3)])
def test_nodes_are_in_private_subnets_of_all_zones(deploy: Deploy, az2: str, zones: int) -> None:
    stack = deploy(Az2=az2, NetworkEgress="endpoints")
    private = [f"<PrivateSubnet{number}>" for number in range(zones)]
    assert stack.properties("Cluster")["ResourcesVpcConfig"]["SubnetIds"] == private
    assert stack.properties("InferenceNodeGroup")["Subnets"] == private
    assert [group["Subnets"] for group in standard_groups(stack).values()] == [[subnet] for subnet in private]
    for name in ENDPOINTS:
        assert stack.properties(name)["SubnetIds"] == private
    assert stack.outputs()["PrivateSubnets"] == ",".join(private)
    tables = {a["SubnetId"]: a["RouteTableId"] for a in stack.of_type("AWS::EC2::SubnetRouteTableAssociation").values()}
    assert {tables[subnet] for subnet in private} == {"<PrivateRoutes>"}


def test_nodes_wait_for_their_way_to_aws(deploy: Deploy) -> None:
    def waits(**parameters: str) -> set[str]:
        return set(deploy(**parameters).resource("NodesReachAws")["Metadata"]["Waits"])

    assert "<PrivateDefaultRoute>" in waits()
    assert waits(NetworkEgress="endpoints") >= {f"<{name}>" for name in ENDPOINTS}
    for group in ("StandardNodeGroup0", "InferenceNodeGroup"):
        assert "NodesReachAws" in deploy().resource(group)["DependsOn"]


@pytest.mark.parametrize(
    ("access", "public", "private"), [("both", True, True), ("public", True, False), ("private", False, True)]
)
def test_the_endpoint_is_where_it_was_asked_for(deploy: Deploy, access: str, public: bool, private: bool) -> None:
    config = deploy(EndpointAccess=access, PublicAccessCidrs="203.0.113.0/24").properties("Cluster")[
        "ResourcesVpcConfig"
    ]
    assert (config["EndpointPublicAccess"], config["EndpointPrivateAccess"]) == (public, private)
    assert config.get("PublicAccessCidrs") == (["203.0.113.0/24"] if public else None)


# Cluster and nodes


def test_the_cluster_is_closed_but_for_the_given_principal(deploy: Deploy) -> None:
    stack = deploy()
    cluster = stack.properties("Cluster")
    assert cluster["AccessConfig"] == {"AuthenticationMode": "API", "BootstrapClusterCreatorAdminPermissions": False}
    assert cluster["EncryptionConfig"] == [{"Provider": {"KeyArn": "<Key.Arn>"}, "Resources": ["secrets"]}]
    assert len(cluster["Logging"]["ClusterLogging"]["EnabledTypes"]) == 5
    (entry,) = stack.of_type("AWS::EKS::AccessEntry").values()
    assert entry["PrincipalArn"] == "arn:aws:iam::123456789012:role/admin"
    assert [policy["PolicyArn"].rpartition("/")[2] for policy in entry["AccessPolicies"]] == [
        "AmazonEKSClusterAdminPolicy"
    ]


def test_the_log_group_is_there_before_eks_makes_one_that_never_expires(deploy: Deploy) -> None:
    stack = deploy(ClusterName="one", LogRetentionDays="7")
    assert stack.resource("Cluster")["DependsOn"] == "ClusterLogs"
    logs = stack.properties("ClusterLogs")
    assert (logs["LogGroupName"], logs["RetentionInDays"]) == ("/aws/eks/one/cluster", "7")


def test_add_ons_that_nodes_need_come_before_them_and_those_that_need_nodes_after(deploy: Deploy) -> None:
    stack = deploy()
    resources = stack.resources()
    addons = {r["Properties"]["AddonName"]: name for name, r in resources.items() if r["Type"] == "AWS::EKS::Addon"}
    for addon in ("vpc-cni", "kube-proxy", "eks-pod-identity-agent"):
        assert addons[addon] in resources["StandardNodeGroup0"]["DependsOn"]
        assert addons[addon] in resources["InferenceNodeGroup"]["DependsOn"]
    for addon in ("coredns", "metrics-server", "aws-ebs-csi-driver"):
        assert resources[addons[addon]]["DependsOn"] == "StandardNodeGroup0"
    assert len(addons) == 6


def test_network_policies_are_enforced(deploy: Deploy) -> None:
    assert json.loads(deploy().properties("CniAddon")["ConfigurationValues"]) == {"enableNetworkPolicy": "true"}


def test_what_cloudformation_does_not_know_of_carries_the_stacks_tag(deploy: Deploy) -> None:
    stack = deploy(name="mine")
    for template in stack.of_type("AWS::EC2::LaunchTemplate").values():
        specifications = template["LaunchTemplateData"]["TagSpecifications"]
        assert {s["ResourceType"] for s in specifications} == {"instance", "volume"}
        assert all({"Key": "reelscan-stack", "Value": "mine"} in s["Tags"] for s in specifications)
    values = json.loads(stack.properties("EbsCsiAddon")["ConfigurationValues"])
    assert values["controller"]["extraVolumeTags"] == {"reelscan-stack": "mine"}


@pytest.mark.parametrize(
    ("accelerator", "types", "image"),
    [("cpu", "c5.large,c5a.large", "AL2023_x86_64_STANDARD"), ("gpu", "g6.xlarge", "AL2023_x86_64_NVIDIA")],
)
def test_the_accelerator_decides_the_image_of_inference_nodes_alone(
    deploy: Deploy, accelerator: str, types: str, image: str
) -> None:
    stack = deploy(Accelerator=accelerator, InferenceNodeInstanceType=types)
    inference = stack.properties("InferenceNodeGroup")
    assert (inference["AmiType"], inference["InstanceTypes"]) == (image, types.split(","))
    assert {group["AmiType"] for group in standard_groups(stack).values()} == {"AL2023_x86_64_STANDARD"}


GPU_LABEL = "k8s.amazonaws.com/accelerator"


def test_the_autoscaler_waits_until_a_new_gpu_node_tells_of_its_gpu(deploy: Deploy) -> None:
    """gpu_processor.go of the Cluster Autoscaler: a node with this label and no GPU to allocate is not ready yet."""
    stack = deploy(Accelerator="gpu", InferenceNodeInstanceType="g6.xlarge")
    inference = stack.properties("InferenceNodeGroup")
    assert inference["Labels"][GPU_LABEL] == "nvidia"
    # Of a group that has no node yet.
    assert inference["Tags"][f"k8s.io/cluster-autoscaler/node-template/label/{GPU_LABEL}"] == "nvidia"
    for group in standard_groups(stack).values():
        assert GPU_LABEL not in json.dumps(group)


def test_a_node_without_a_gpu_says_nothing_of_one(deploy: Deploy) -> None:
    """It would never be ready."""
    for group in deploy().of_type("AWS::EKS::Nodegroup").values():
        assert GPU_LABEL not in json.dumps(group)


def test_nodes_are_of_the_version_of_the_control_plane(deploy: Deploy) -> None:
    stack = deploy(KubernetesVersion="1.36")
    assert stack.properties("Cluster")["Version"] == "1.36"
    assert {group["Version"] for group in stack.of_type("AWS::EKS::Nodegroup").values()} == {"1.36"}


def test_an_update_drains_the_standard_nodes_of_one_zone_at_a_time(deploy: Deploy) -> None:
    """Two of the bus' three replicas must stay."""
    stack = deploy(Az2="us-east-1c")
    _, second, third = standard_groups(stack)
    assert stack.resource(second)["DependsOn"] == "StandardNodeGroup0"
    assert stack.resource(third)["DependsOn"] == "StandardNodeGroup1"


def test_spot_is_for_inference_nodes_alone(deploy: Deploy) -> None:
    for spot, capacity in (("true", "SPOT"), ("false", "ON_DEMAND")):
        stack = deploy(Spot=spot)
        assert stack.properties("InferenceNodeGroup")["CapacityType"] == capacity
        assert {group["CapacityType"] for group in standard_groups(stack).values()} == {"ON_DEMAND"}


def sizes(stack: Stack) -> dict[str, int]:
    """Of all standard nodes together."""
    configs = [group["ScalingConfig"] for group in standard_groups(stack).values()]
    return {name: sum(int(config[name]) for config in configs) for name in configs[0]}


@pytest.mark.parametrize("az2", ["", "us-east-1c"])
@pytest.mark.parametrize(("least", "first", "most"), [(1, 2, 5), (3, 3, 3), (1, 1, 4), (4, 7, 450)])
def test_all_zones_together_have_as_many_standard_nodes_as_were_asked_for(
    deploy: Deploy, az2: str, least: int, first: int, most: int
) -> None:
    given = InfraSettings(az_2=az2, node_asg_min=least, node_asg_desired=first, node_asg_max=most)
    stack = deploy(**given.parameters(user="arn:aws:iam::123456789012:user/me"))
    assert sizes(stack) == {"MinSize": least, "DesiredSize": first, "MaxSize": most}
    for group in standard_groups(stack).values():
        config = {name: int(value) for name, value in group["ScalingConfig"].items()}
        assert config["MinSize"] <= config["DesiredSize"] <= config["MaxSize"]
        # EKS takes no less.
        assert config["MaxSize"] >= 1
    # The autoscaler is on one of these, and the add-ons wait for it.
    assert int(stack.properties("StandardNodeGroup0")["ScalingConfig"]["MinSize"]) >= 1


def test_sizes_are_those_of_the_sample(deploy: Deploy) -> None:
    stack = deploy()
    standard, inference = stack.properties("StandardNodeGroup0"), stack.properties("InferenceNodeGroup")
    assert sizes(stack) == {"MinSize": 1, "DesiredSize": 2, "MaxSize": 5}
    assert inference["ScalingConfig"] == {"MinSize": "2", "DesiredSize": "2", "MaxSize": "6"}
    assert (standard["InstanceTypes"], inference["InstanceTypes"]) == (["m5.large"], ["c5.large"])
    for name in ("StandardLaunchTemplate", "InferenceLaunchTemplate"):
        (device,) = stack.properties(name)["LaunchTemplateData"]["BlockDeviceMappings"]
        assert device["Ebs"] == {
            "VolumeSize": "100",
            "VolumeType": "gp3",
            "Encrypted": True,
            "DeleteOnTermination": True,
        }


def test_pods_cannot_reach_the_metadata_of_their_node(deploy: Deploy) -> None:
    for template in deploy().of_type("AWS::EC2::LaunchTemplate").values():
        assert template["LaunchTemplateData"]["MetadataOptions"] == {
            "HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1,
        }  # fmt: skip


@pytest.mark.parametrize(("key", "name"), [("", None), ("mine", "mine")])
def test_nodes_have_a_key_only_if_one_is_named(deploy: Deploy, key: str, name: str | None) -> None:
    for template in deploy(SshKeyName=key).of_type("AWS::EC2::LaunchTemplate").values():
        assert template["LaunchTemplateData"].get("KeyName") == name


def test_a_group_without_nodes_tells_the_autoscaler_that_a_node_would_have_a_disk(deploy: Deploy) -> None:
    """aws_manager.go of the Cluster Autoscaler, buildNodeFromTemplate: of a managed group it reads this tag alone."""
    stack = deploy(InferenceNodeVolumeSize="60")
    tag = "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"
    assert stack.properties("InferenceNodeGroup")["Tags"][tag] == "60Gi"
    assert {group["Tags"][tag] for group in standard_groups(stack).values()} == {"100Gi"}


def test_a_node_group_can_be_replaced(deploy: Deploy) -> None:
    """A new instance type makes a new group before the old one goes; two cannot have one name."""
    for group in deploy().of_type("AWS::EKS::Nodegroup").values():
        assert "NodegroupName" not in group


# Queues and buckets


def test_the_task_queue_takes_what_the_steps_take_and_hides_it_as_argo_events_expects(deploy: Deploy) -> None:
    queue = deploy().properties("TaskQueue")
    assert (queue["MaximumMessageSize"], queue["VisibilityTimeout"]) == (65536, 120)


def test_a_message_that_nothing_makes_a_run_of_ends_as_a_dead_letter(deploy: Deploy) -> None:
    stack = deploy(name="mine")
    queue, letters = stack.properties("TaskQueue"), stack.properties("DeadLetterQueue")
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": f"arn:aws:sqs:{REGION}:123456789012:task-dead-letter-queue-mine", "maxReceiveCount": 10,
    }  # fmt: skip
    assert letters["RedriveAllowPolicy"] == {
        "redrivePermission": "byQueue", "sourceQueueArns": [f"arn:aws:sqs:{REGION}:123456789012:task-queue-mine"],
    }  # fmt: skip
    # The time that it was on the task queue counts.
    assert letters["MessageRetentionPeriod"] >= 2 * queue["MessageRetentionPeriod"]


def test_every_queue_and_bucket_is_encrypted_and_takes_no_plain_http(deploy: Deploy) -> None:
    stack = deploy()
    queues, buckets = stack.of_type("AWS::SQS::Queue"), stack.of_type("AWS::S3::Bucket")
    assert (len(queues), len(buckets)) == (3, 3)
    policies = [*stack.of_type("AWS::SQS::QueuePolicy").values(), *stack.of_type("AWS::S3::BucketPolicy").values()]
    denied = [
        resource
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        if (statement["Effect"], statement["Principal"]) == ("Deny", "*")
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        and statement["Action"] in ("sqs:*", "s3:*")
        for resource in ([statement["Resource"]] if isinstance(statement["Resource"], str) else statement["Resource"])
    ]
    for name, queue in queues.items():
        assert queue["SqsManagedSseEnabled"] is True
        assert stack.value({"Fn::GetAtt": [name, "Arn"]}) in denied
    for name, bucket in buckets.items():
        assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        arn = stack.value({"Fn::GetAtt": [name, "Arn"]})
        assert {arn, f"{arn}/*"} <= set(denied)


def test_no_bucket_can_be_made_public_and_parts_of_uploads_do_not_stay(deploy: Deploy) -> None:
    for bucket in deploy().of_type("AWS::S3::Bucket").values():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        rules = bucket["LifecycleConfiguration"]["Rules"]
        assert {"DaysAfterInitiation": 7} in [rule.get("AbortIncompleteMultipartUpload") for rule in rules]


def test_copies_of_results_expire_and_results_do_not(deploy: Deploy) -> None:
    stack = deploy(ArtifactRetentionDays="3")

    def days(bucket: str) -> list[str]:
        rules = stack.properties(bucket)["LifecycleConfiguration"]["Rules"]
        return [rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule]

    assert days("ArtifactsBucket") == ["3"]
    assert days("ResultsBucket") == days("TaskDataBucket") == []


def test_objects_become_tasks_only_by_choice(deploy: Deploy) -> None:
    stack = deploy()
    assert "NotificationConfiguration" not in stack.properties("TaskDataBucket")
    (only,) = stack.properties("TaskQueuePolicy")["PolicyDocument"]["Statement"]
    assert only["Effect"] == "Deny"


def test_the_task_data_bucket_and_no_other_may_send_tasks(deploy: Deploy) -> None:
    stack = deploy(S3Notification="true", NotificationPrefix="in/")
    (told,) = stack.properties("TaskDataBucket")["NotificationConfiguration"]["QueueConfigurations"]
    assert told["Queue"] == stack.outputs()["TaskQueueArn"]
    assert told["Filter"] == {"S3Key": {"Rules": [{"Name": "prefix", "Value": "in/"}]}}
    _, allowed = stack.properties("TaskQueuePolicy")["PolicyDocument"]["Statement"]
    assert allowed["Principal"] == {"Service": "s3.amazonaws.com"}
    assert allowed["Condition"]["ArnEquals"] == {
        "aws:SourceArn": f"arn:aws:s3:::{stack.outputs()['TaskDataBucketName']}"
    }
    # S3 tries it when the bucket is made.
    assert stack.resource("TaskDataBucket")["DependsOn"] == "TaskQueuePolicy"


def test_the_stack_can_be_deleted_and_repositories_with_their_images(deploy: Deploy) -> None:
    for name, resource in deploy().resources().items():
        assert resource.get("DeletionPolicy", "Delete") == "Delete", name
    assert all(repository["EmptyOnDelete"] for repository in deploy().of_type("AWS::ECR::Repository").values())


# Alarms, budget, dashboard


def test_every_alarm_looks_at_one_queue_and_is_told(deploy: Deploy) -> None:
    stack = deploy(QueueAgeSeconds="60", FailedRunsPerHour="4")
    outputs = stack.outputs()
    alarms = stack.of_type("AWS::CloudWatch::Alarm")
    looked_at = {
        name: (alarm["MetricName"], alarm["Dimensions"][0]["Value"], str(alarm["Threshold"]))
        for name, alarm in alarms.items()
    }
    assert looked_at == {
        "QueueAgeAlarm": ("ApproximateAgeOfOldestMessage", outputs["TaskQueueName"], "60"),
        "DeadLettersAlarm": ("ApproximateNumberOfMessagesVisible", outputs["DeadLetterQueueName"], "1"),
        "FailedRunsAlarm": ("NumberOfMessagesSent", outputs["DeadLetterQueueName"], "4"),
    }
    assert all(alarm["AlarmActions"] == ["<AlarmTopic>"] for alarm in alarms.values())


def test_somebody_is_told_by_mail_only_if_named(deploy: Deploy) -> None:
    assert not deploy().of_type("AWS::SNS::Subscription")
    assert not deploy().of_type("AWS::Budgets::Budget")
    stack = deploy(AlarmEmail="me@example.com", BudgetUsdPerMonth="50", BudgetEmail="me@example.com")
    assert stack.properties("AlarmSubscription")["Endpoint"] == "me@example.com"
    budget = stack.properties("Budget")
    assert budget["Budget"]["BudgetLimit"] == {"Amount": "50", "Unit": "USD"}
    assert all(n["Subscribers"][0]["Address"] == "me@example.com" for n in budget["NotificationsWithSubscribers"])


def test_the_dashboard_is_json_and_shows_our_queues(deploy: Deploy) -> None:
    stack = deploy(name="mine")
    widgets = json.loads(stack.properties("Dashboard")["DashboardBody"])["widgets"]
    shown = {metric[3] for widget in widgets for metric in widget["properties"].get("metrics", [])}
    outputs = stack.outputs()
    assert shown == {outputs[f"{q}Name"] for q in ("TaskQueue", "TaskCompletedQueue", "DeadLetterQueue")} | {"reelscan"}

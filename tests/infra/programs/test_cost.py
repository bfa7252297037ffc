"""`make cost`: sums that can be followed by hand, from a table with a date."""

from __future__ import annotations

import datetime

import pytest
from rich.console import Console

from infra import cost
from infra.settings import InfraSettings
from infra.template import Template
from steps.errors import UsageError

PRICES = cost.load_prices()
NODE = (100 * 0.08 + 7 * 0.30) / 730
"""Of an hour of a node, besides the instance: its disk, and that it is watched by the minute."""
RECKONED = {
    "AWS::EKS::Cluster", "AWS::EKS::Nodegroup", "AWS::EC2::LaunchTemplate", "AWS::EC2::NatGateway", "AWS::EC2::EIP",
    "AWS::EC2::VPCEndpoint", "AWS::KMS::Key", "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard",
    # By use, which the last sentence leaves out.
    "AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::ECR::Repository", "AWS::Logs::LogGroup", "AWS::SNS::Topic",
}  # fmt: skip
FREE = {
    "AWS::EC2::VPC", "AWS::EC2::InternetGateway", "AWS::EC2::VPCGatewayAttachment", "AWS::EC2::Subnet",
    "AWS::EC2::RouteTable", "AWS::EC2::Route", "AWS::EC2::SubnetRouteTableAssociation", "AWS::EC2::SecurityGroup",
    "AWS::CloudFormation::WaitConditionHandle", "AWS::IAM::Role", "AWS::EKS::AccessEntry", "AWS::EKS::Addon",
    "AWS::EKS::PodIdentityAssociation", "AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy", "AWS::SNS::TopicPolicy",
    "AWS::SNS::Subscription",
    # Without actions.
    "AWS::Budgets::Budget",
}  # fmt: skip


def test_the_table_says_when_and_where_its_prices_were() -> None:
    assert isinstance(PRICES["date"], datetime.date)
    assert PRICES["region"] == "us-east-1"


def test_an_idle_hour_is_control_plane_network_nodes_volumes_and_what_watches_them(settings: InfraSettings) -> None:
    nodes = 3 * (0.096 + NODE) + 2 * (0.085 + NODE)
    expected = 0.10 + 0.045 + 0.005 + nodes + 30 * 0.08 / 730 + (1 + 3 * 0.10 + 3) / 730
    assert cost.estimate(settings, PRICES).idle_hour == pytest.approx(expected)


def test_what_costs_by_the_hour_or_month_is_reckoned_with_or_said_to_cost_nothing(console: Console) -> None:
    """A new kind of resource makes this fail: give it a price, or say here that it has none."""
    resources = Template(cost.CLUSTER).resources
    kinds = {item["Type"] for item in resources.values()}
    assert kinds - RECKONED - FREE == set()
    assert all(
        item["Properties"]["LaunchTemplateData"]["Monitoring"] == {"Enabled": True}
        for item in resources.values()
        if item["Type"] == "AWS::EC2::LaunchTemplate"
    )
    cost.cost(InfraSettings(), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(words in printed for words in ("NAT gateway, with its address", "key, 3 alarms, dashboard"))
    assert all(words in printed for words in ("between zones", "storage in S3 and\nECR", "logs"))


def test_the_bus_keeps_three_standard_nodes_however_few_are_asked_for() -> None:
    assert "3 standard nodes, m5.large" in cost.estimate(InfraSettings(node_asg_min=1), PRICES).idle
    assert "4 standard nodes, m5.large" in cost.estimate(InfraSettings(node_asg_min=4, node_asg_desired=4), PRICES).idle


def test_with_scale_to_zero_inference_nodes_cost_nothing_while_idle() -> None:
    found = cost.estimate(InfraSettings(inference_node_asg_min=0), PRICES)
    assert found.idle["0 inference nodes, c5.large"] == 0
    assert found.video_hour > 0


def test_an_hour_of_video_is_the_time_of_nodes_that_its_frames_take() -> None:
    found = cost.estimate(InfraSettings(cost_analysed_fps=10, cost_node_fps=40), PRICES)
    assert found.node_hours == pytest.approx(0.25)
    assert found.video_hour == pytest.approx(0.25 * (0.085 + NODE))


def test_endpoints_cost_by_zone_instead_of_the_nat_gateway() -> None:
    found = cost.estimate(InfraSettings(network_egress="endpoints", az_2="us-east-1c"), PRICES)
    (words,) = [words for words in found.idle if words.endswith(" endpoints in 3 zones")]
    count = int(words.split()[0])
    assert count > 3
    assert found.idle[words] == pytest.approx(3 * count * 0.01)
    assert not any("NAT gateway" in words for words in found.idle)


def test_spot_takes_off_the_instance_and_not_the_disk() -> None:
    usual, spot = (cost.estimate(InfraSettings(spot=spot), PRICES).node_hour for spot in ("false", "true"))
    assert usual - spot == pytest.approx(0.085 * PRICES["spot_discount"])


def test_accelerators_are_compared() -> None:
    found = cost.compared(InfraSettings(), PRICES)
    assert set(found) == {"cpu", "gpu"}
    assert found["cpu"] == cost.estimate(InfraSettings(), PRICES)
    assert found["gpu"] == cost.estimate(InfraSettings(accelerator="gpu"), PRICES)


def test_what_has_no_price_is_told_with_what_has() -> None:
    with pytest.raises(
        UsageError, match=r"NODE_INSTANCE_TYPE='m7i.large' has no price in infra/prices.yaml, which has m5.large"
    ):
        cost.estimate(InfraSettings(node_instance_type="m7i.large"), PRICES)


def test_of_several_types_the_dearest_is_reckoned_with() -> None:
    several = InfraSettings(inference_node_instance_type="c5.large,m5.large", node_instance_type="c5.large,m5.large")
    found = cost.estimate(several, PRICES)
    assert found.node_hour == pytest.approx(0.096 + NODE)
    assert found.idle["3 standard nodes, c5.large,m5.large"] == pytest.approx(3 * found.node_hour)
    with pytest.raises(UsageError, match=r"INFERENCE_NODE_INSTANCE_TYPE='c5a.large' has no price"):
        cost.estimate(InfraSettings(inference_node_instance_type="c5.large,c5a.large"), PRICES)


def test_it_says_what_it_rests_on(console: Console) -> None:
    cost.cost(InfraSettings(region="eu-west-1"), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for words in (str(PRICES["date"]), "to be\nchecked", "COST_NODE_FPS", "REGION is eu-west-1: its prices differ"):
        assert words in printed

"""Nodes that cannot be had, or that would hold no pod, are named before anything is created."""

from __future__ import annotations

import pytest
from botocore.stub import Stubber

from infra.preflight_nodes import instance_types, vcpus
from infra.session import Aws
from infra.settings import InfraSettings


def refusals(aws: Aws, **given: str) -> list[str]:
    return [finding.words for finding in instance_types(InfraSettings(**given), aws) if finding.stops]  # type: ignore[arg-type]


def test_an_instance_type_that_is_none_is_refused(cloud: Aws) -> None:
    (found,) = instance_types(InfraSettings(node_instance_type="m5.enormous"), cloud)
    assert found.words == "NODE_INSTANCE_TYPE='m5.enormous' is no instance type of us-east-1"


def test_an_instance_type_that_a_zone_has_not_is_refused_with_where_it_is(cloud: Aws) -> None:
    offers = cloud.ec2.get_paginator("describe_instance_type_offerings").paginate(LocationType="availability-zone")
    by_type: dict[str, set[str]] = {}
    for page in offers:
        for offer in page["InstanceTypeOfferings"]:
            by_type.setdefault(offer["InstanceType"], set()).add(offer["Location"])
    kind = next(name for name, where in sorted(by_type.items()) if name[0] == "m" and "us-east-1e" not in where)
    found = next(instance_types(InfraSettings(az_2="us-east-1e", node_instance_type=kind), cloud))
    assert found.words.startswith(f"NODE_INSTANCE_TYPE='{kind}' is not offered in us-east-1e; it is in us-east-1")


def test_an_instance_type_of_another_architecture_is_refused(cloud: Aws) -> None:
    found = [finding.words for finding in instance_types(InfraSettings(node_instance_type="m6g.large"), cloud)]
    assert "is arm64, and the images are x86_64" in found[0]


@pytest.mark.parametrize(
    ("value", "stops", "words"),
    [
        (4.0, True, "is 4, the nodes at first need 8 (m5.large and c5.large); ask for more at https://"),
        (10.0, False, "is 10, all nodes that may be together need 22"),
    ],
)
def test_a_quota_that_is_too_small_is_named(cloud: Aws, value: float, stops: bool, words: str) -> None:
    with Stubber(cloud.quotas) as stub:
        stub.add_response(
            "get_service_quota", {"Quota": {"Value": value}}, {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
        )
        (found,) = vcpus(InfraSettings(), cloud)
    assert found.stops is stops
    assert words in found.words


def test_gpus_and_spot_count_against_quotas_of_their_own(cloud: Aws) -> None:
    with Stubber(cloud.quotas) as stub:
        stub.add_response(
            "get_service_quota", {"Quota": {"Value": 100.0}}, {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
        )
        stub.add_response(
            "get_service_quota", {"Quota": {"Value": 0.0}}, {"ServiceCode": "ec2", "QuotaCode": "L-3819A6DF"}
        )
        (found,) = vcpus(InfraSettings(accelerator="gpu", spot="true"), cloud)
    assert "spot G and VT instances (L-3819A6DF) is 0, the nodes at first need 8 (g6.xlarge)" in found.words


def test_a_quota_that_cannot_be_read_is_only_a_note(cloud: Aws) -> None:
    (found,) = vcpus(InfraSettings(), cloud)
    assert not found.stops
    assert "see that it is at least 22" in found.words


@pytest.mark.parametrize("name", ["t3.nano", "t3.micro", "t3.small"])
def test_a_type_whose_nodes_hold_no_pod_is_refused_with_their_room_and_what_a_pod_takes(cloud: Aws, name: str) -> None:
    (found,) = refusals(cloud, inference_node_instance_type=name)
    assert found.startswith(f"INFERENCE_NODE_INSTANCE_TYPE='{name}' has 2 CPUs and ")
    assert "MiB, with room for 1750m CPU, " in found
    assert found.endswith(
        "a pod with a model server takes 1610m CPU, 2752Mi and 1 pod; take a larger one such as m5.large"
    )


def test_a_standard_node_must_hold_a_replica_of_the_bus_and_a_step(cloud: Aws) -> None:
    (found,) = refusals(cloud, node_instance_type="t3.micro")
    assert found.startswith("NODE_INSTANCE_TYPE='t3.micro' has 2 CPUs and 1024 MiB")
    assert "a replica of the bus and a step take 1130m CPU, 2432Mi and 2 pods" in found
    assert refusals(cloud, node_instance_type="t3.medium") == []


@pytest.mark.parametrize(
    ("name", "accelerator"),
    [("p5.48xlarge", "NVIDIA H100"), ("inf2.xlarge", "AWS Inferentia2")],
)
def test_an_accelerator_that_nothing_would_use_is_refused(cloud: Aws, name: str, accelerator: str) -> None:
    (found,) = refusals(cloud, inference_node_instance_type=name)
    assert f"'{name}' has {accelerator}, which nothing would use" in found
    assert "NODE_INSTANCE_TYPE" in refusals(cloud, node_instance_type=name)[0]


@pytest.mark.parametrize("name", ["g4dn.xlarge", "g5.xlarge", "g6.xlarge", "g6e.xlarge"])
def test_every_family_of_gpus_holds_a_pod_in_its_smallest_size(cloud: Aws, name: str) -> None:
    words = refusals(cloud, accelerator="gpu", inference_node_instance_type=name)
    assert [said for said in words if "is not offered" not in said] == []


def test_each_of_several_types_is_looked_at(cloud: Aws) -> None:
    found = refusals(cloud, node_instance_type="m5.large,m6g.large", inference_node_instance_type="c5.large,t3.micro")
    assert [said.partition(" ")[0] for said in found] == [
        "NODE_INSTANCE_TYPE='m6g.large'", "INFERENCE_NODE_INSTANCE_TYPE='t3.micro'",
    ]  # fmt: skip


def test_types_of_different_sizes_in_one_group_are_told(cloud: Aws) -> None:
    (found,) = instance_types(InfraSettings(inference_node_instance_type="c5.large,m5.large"), cloud)
    assert not found.stops
    assert "c5.large 2 CPUs and 4096 MiB, m5.large 2 CPUs and 8192 MiB" in found.words
    assert list(instance_types(InfraSettings(inference_node_instance_type="c5.large,c5a.large"), cloud)) == []


def test_of_several_types_the_one_with_the_most_cpus_counts_against_the_quota(cloud: Aws) -> None:
    with Stubber(cloud.quotas) as stub:
        stub.add_response(
            "get_service_quota", {"Quota": {"Value": 9.0}}, {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
        )
        (found,) = vcpus(InfraSettings(inference_node_instance_type="c5.large,c5.2xlarge"), cloud)
    assert "is 9, the nodes at first need 20 (m5.large and c5.large and c5.2xlarge)" in found.words

"""infra/eia.yaml: complete, and refused."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import yaml

from tests.infra.template import Stack, load

EIA = {
    "ClusterName": "reelscan",
    "ClusterEndpoint": "https://abc.gr7.us-east-1.eks.amazonaws.com",
    "ClusterCertificateAuthority": "Y2VydGlmaWNhdGU=",
    "VpcId": "vpc-1",
    "ClusterSecurityGroup": "sg-1",
    "Subnets": "subnet-1,subnet-2",
}


def test_the_template_of_elastic_inference_is_refused_whatever_its_accelerator() -> None:
    template = load("eia.yaml")
    for kind in template["Parameters"]["EiType"]["AllowedValues"]:
        (failure,) = Stack(template, {**EIA, "EiType": kind}).failures()
        for part in ("15 April 2023", "April 2024", "infra/cluster.yaml", "Accelerator=cpu", "Accelerator=gpu"):
            assert part in failure


def test_the_elastic_inference_nodes_are_complete() -> None:
    stack = Stack(load("eia.yaml"), {**EIA, "EiType": "eia2.large"})
    data = stack.properties("InferenceLaunchTemplate")["LaunchTemplateData"]
    assert data["ElasticInferenceAccelerators"] == [{"Type": "eia2.large", "Count": 1}]
    user_data = base64.b64decode(data["UserData"]).decode()
    node = yaml.safe_load(user_data.partition("application/node.eks.aws\n")[2].partition("--node--")[0])
    assert node["spec"]["cluster"] == {
        "name": "reelscan",
        "apiServerEndpoint": EIA["ClusterEndpoint"],
        "certificateAuthority": EIA["ClusterCertificateAuthority"],
        "cidr": "172.20.0.0/16",
    }
    assert node["spec"]["kubelet"]["flags"] == [
        "--node-labels=inference=true,nodegroup=elastic-inference",
        "--register-with-taints=inference=true:NoSchedule",
    ]
    tags = {tag["Key"]: tag["Value"] for tag in stack.properties("InferenceNodeGroup")["Tags"]}
    assert tags["k8s.io/cluster-autoscaler/reelscan"] == "owned"
    outputs = stack.outputs()
    assert "eks-elastic-inference-serving" in outputs["ServingImage"]
    assert "EI_TYPE=eia2.large" in outputs["ServingEnvironment"]


def test_the_elastic_inference_nodes_join_a_cluster_by_its_outputs(cluster_template: Mapping[str, Any]) -> None:
    given = {
        "ClusterName",
        "ClusterEndpoint",
        "ClusterCertificateAuthority",
        "VpcId",
        "ClusterSecurityGroup",
        "PrivateSubnets",
    }
    assert given <= set(cluster_template["Outputs"])

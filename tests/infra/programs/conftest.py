"""AWS as the programs behind the Makefile's targets see it: moto over HTTP, and a stack of what moto can make."""

from __future__ import annotations

import io
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.session import Aws
from infra.settings import InfraSettings
from infra.template import CLUSTER, Template
from local.aws import embedded_aws, endpoint_url

MOTO_MAKES = ("AWS::SQS::Queue", "AWS::S3::Bucket", "AWS::ECR::Repository")
# The python3 of the PATH may be a script that looks for one; and a first line takes no path with a space.
_FIRST_LINES = f"""#!/bin/sh
'''exec' "{sys.executable}" -IS "$0" "$@"
' '''
"""


def write_program(path: Path, text: str) -> None:
    """Make a program of Python's own modules alone, which starts fast."""
    path.write_text(_FIRST_LINES + text)
    path.chmod(0o755)


@pytest.fixture(scope="session")
def cloud_port() -> Iterator[int]:
    """A moto server of these tests alone, which they empty."""
    with embedded_aws() as port:
        yield port


@pytest.fixture
def cloud(cloud_port: int, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """An account in which there is nothing, to which the environment leads."""
    urllib.request.urlopen(f"{endpoint_url(cloud_port)}/moto-api/reset", data=b"", timeout=60).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url(cloud_port))
    return Aws("us-east-1")


@pytest.fixture
def inference_group(cloud: Aws) -> str:
    """The Auto Scaling group of the node group `inference` of a cluster `reelscan`, which are there."""
    role = cloud.iam.create_role(RoleName="eks", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    cloud.eks.create_cluster(
        name="reelscan", version="1.35", roleArn=role, resourcesVpcConfig={"subnetIds": ["subnet-1"]}
    )
    made = cloud.eks.create_nodegroup(
        clusterName="reelscan", nodegroupName="inference", subnets=["subnet-1"], nodeRole=role,
        scalingConfig={"minSize": 0, "maxSize": 6, "desiredSize": 2},
    )["nodegroup"]  # fmt: skip
    name = made["resources"]["autoScalingGroups"][0]["name"]
    # moto's EKS makes none.
    cloud.autoscaling.create_launch_configuration(
        LaunchConfigurationName="nodes", ImageId="ami-12c6146b", InstanceType="c5.large"
    )
    cloud.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=name, LaunchConfigurationName="nodes", MinSize=0, MaxSize=6, DesiredCapacity=0,
        AvailabilityZones=["us-east-1a", "us-east-1b"],
    )  # fmt: skip
    return name


@pytest.fixture
def settings() -> InfraSettings:
    return InfraSettings(image_tag="1.2.3")


@pytest.fixture
def console() -> Console:
    """One that keeps what is printed: console.file.getvalue()."""
    return Console(file=io.StringIO(), width=200, highlight=False, soft_wrap=True, markup=False, emoji=False)


@pytest.fixture
def small(small_text: str, tmp_path: Path) -> Template:
    """infra/cluster.yaml, with those of its resources and outputs alone that moto can make."""
    path = tmp_path / "small.yaml"
    path.write_text(small_text)
    return Template(path)


@pytest.fixture(scope="session")
def small_text() -> str:
    content = Template(CLUSTER).content
    others = [name for name, item in content["Resources"].items() if item["Type"] not in MOTO_MAKES]
    resources: dict[str, Any] = {
        name: {key: value for key, value in item.items() if key != "DependsOn"}
        for name, item in content["Resources"].items()
        if item["Type"] in MOTO_MAKES
    }
    # What moto drops anyway, or cannot follow.
    resources["TaskDataBucket"]["Properties"].pop("NotificationConfiguration")
    outputs = {name: item for name, item in content["Outputs"].items() if _known(item["Value"], others)}
    outputs["ClusterName"] = {"Value": {"Ref": "ClusterName"}}
    # Of lists and numbers moto never finds that they have not changed. The pattern of a list is that of its parts.
    parameters = {
        name: {**item, "Type": "String", **({"AllowedPattern": ".*"} if item["Type"] == "CommaDelimitedList" else {})}
        for name, item in content["Parameters"].items()
    }
    return json.dumps({"Parameters": parameters, "Resources": resources, "Outputs": outputs})


def _known(value: Any, others: list[str]) -> bool:
    """Whether moto can tell an output: it names none of the resources that moto cannot make."""
    text = json.dumps(value)
    return "Fn::If" not in text and not any(f'"{name}"' in text or f"${{{name}}}" in text for name in others)

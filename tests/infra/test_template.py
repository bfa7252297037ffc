"""Parameters of infra/cluster.yaml, what they may be, and that each choice of them makes a whole."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest

from tests.infra.stacks import Deploy
from tests.infra.template import TemplateError

CHOICES = {
    "Az2": ["", "us-east-1c"],
    "NetworkEgress": ["nat", "endpoints"],
    "EndpointAccess": ["both", "public", "private"],
    "Accelerator": ["cpu", "gpu"],
    "Spot": ["false", "true"],
    "S3Notification": ["false", "true"],
    "MoreSourceArns": ["", "arn:aws:s3:::videos/*,arn:aws:s3:::films/new/*"],
}
TOGETHER = {
    "SshKeyName": "mine",
    "AlarmEmail": "me@example.com",
    "BudgetUsdPerMonth": "50",
    "BudgetEmail": "me@example.com",
}


def test_under_every_choice_each_reference_leads_somewhere(deploy: Deploy) -> None:
    for values in itertools.product(*CHOICES.values()):
        for together in ({}, TOGETHER):
            parameters = dict(zip(CHOICES, values, strict=True)) | together
            if parameters["Accelerator"] == "gpu":
                parameters["InferenceNodeInstanceType"] = "g6.xlarge,g5.xlarge"
            stack = deploy(**parameters)
            resources = stack.resources()
            assert stack.outputs()
            refused = parameters["NetworkEgress"] == "endpoints" and parameters["EndpointAccess"] == "public"
            assert bool(stack.failures()) == refused, parameters
            for name, resource in resources.items():
                waited_for = resource.get("DependsOn", [])
                for other in [waited_for] if isinstance(waited_for, str) else waited_for:
                    assert other in resources, f"{name} waits for {other}, which is not there"


def test_every_parameter_is_described_grouped_and_used(cluster_template: Mapping[str, Any]) -> None:
    groups = cluster_template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    grouped = [name for group in groups for name in group["Parameters"]]
    assert sorted(grouped) == sorted(cluster_template["Parameters"])
    rest = json.dumps({part: cluster_template[part] for part in ("Conditions", "Resources", "Outputs", "Rules")})
    for name, definition in cluster_template["Parameters"].items():
        assert definition["Description"], name
        assert f'"{name}"' in rest or f"${{{name}}}" in rest, name
        if "AllowedPattern" in definition and name != "NotificationPrefix":
            assert definition["ConstraintDescription"].startswith("must be"), name


def test_every_output_is_described(cluster_template: Mapping[str, Any]) -> None:
    assert all(output["Description"] for output in cluster_template["Outputs"].values())


# What is asked of whoever deploys


def test_elastic_inference_is_refused_with_its_end_and_what_to_use_instead(deploy: Deploy) -> None:
    (failure,) = deploy(Accelerator="eia").failures()
    for part in ("April 2024", "Accelerator=cpu", "Accelerator=gpu"):
        assert part in failure


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"Accelerator": "gpu"}, "g6.xlarge"),
        ({"Accelerator": "gpu", "InferenceNodeInstanceType": "g6.xlarge,c5.large"}, "g6.xlarge"),
        ({"Az1": "us-east-1a"}, "two zones"),
        ({"Az2": "us-east-1b"}, "another zone than Az1"),
        ({"NetworkEgress": "endpoints", "EndpointAccess": "public"}, "EndpointAccess=both or private"),
        ({"EndpointAccess": "public", "PublicAccessCidrs": "203.0.113.0/24"}, "PublicAccessCidrs must hold 0.0.0.0/0"),
        ({"BudgetUsdPerMonth": "50"}, "BudgetEmail"),
    ],
)
def test_what_cannot_work_together_is_refused(deploy: Deploy, parameters: dict[str, str], told: str) -> None:
    (failure,) = deploy(**parameters).failures()
    assert told in failure


@pytest.mark.parametrize(
    "parameters",
    [
        # EKS rejects the ARN of a session.
        {"AdminPrincipalArn": "arn:aws:sts::123456789012:assumed-role/admin/me"},
        {"ClusterName": "a cluster"},
        {"KubernetesVersion": "1.34"},
        {"PublicAccessCidrs": "0.0.0.0/0,everywhere"},
        {"Namespace": "Video"},
        {"Az2": "us-east-1"},
        {"InferenceNodeInstanceType": "c5.large, c5a.large"},
        {"MoreSourceArns": "arn:aws:s3:::videos"},
        {"AlarmEmail": "me"},
        {"NodeAsgMin": "1,one,0"},
        {"Accelerator": "tpu"},
    ],
    ids=lambda parameters: "-".join(parameters),
)
def test_values_that_are_not_allowed_are_refused(deploy: Deploy, parameters: dict[str, str]) -> None:
    with pytest.raises(TemplateError):
        deploy(**parameters)


def test_the_default_version_of_kubernetes_is_in_standard_support(cluster_template: Mapping[str, Any]) -> None:
    # https://docs.aws.amazon.com/eks/latest/userguide/kubernetes-versions.html, to be read again when this fails
    ends = {"1.35": date(2027, 3, 27)}
    assert date.today() < ends[cluster_template["Parameters"]["KubernetesVersion"]["Default"]]  # noqa: DTZ011

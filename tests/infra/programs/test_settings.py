"""Variables of the cluster: what they may be, and why some are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.settings import WITHOUT_MEANING, InfraSettings, parameter_names
from infra.stack import BOUNDARY_PARAMETER
from infra.template import CLUSTER, Template
from steps.errors import UsageError

ROOT = Path(__file__).parents[3]
PARAMETERS = Template(CLUSTER).parameters


OF_THE_SAMPLE = """
CLUSTER_STACK_NAME CLUSTER_NAME EKS_ADMIN_ROLE REGION AZ_0 AZ_1 SSH_KEY_NAME USER_ARN EI_TYPE NODE_INSTANCE_TYPE
INFERENCE_NODE_INSTANCE_TYPE NODE_ASG_MIN NODE_ASG_MAX NODE_ASG_DESIRED INFERENCE_NODE_ASG_MAX INFERENCE_NODE_ASG_MIN
INFERENCE_NODE_ASG_DESIRED NODE_VOLUME_SIZE INFERENCE_NODE_VOLUME_SIZE LAMBDA_CR_BUCKET_PREFIX
DEFAULT_SQS_TASK_VISIBILITY DEFAULT_SQS_TASK_COMPLETED_VISIBILITY INFERENCE_SCALE_PERIODS INFERENCE_SCALE_OUT_THRESHOLD
INFERENCE_SCALE_IN_THRESHOLD INFERENCE_NODE_GROUP_NAME NODE_GROUP_NAME INFERENCE_BOOTSTRAP BOOTSTRAP
"""
"""Variables of its README."""


def read(**given: str) -> InfraSettings:
    return InfraSettings.from_environment({f"INFRA_{name}": value for name, value in given.items()})


def refusal(**given: str) -> str:
    with pytest.raises(UsageError) as raised:
        read(**given)
    return str(raised.value)


def test_every_parameter_of_the_template_has_a_variable_and_every_other_way_round() -> None:
    # `create-cluster` finds out itself whether there is one.
    assert sorted([*parameter_names().values(), BOUNDARY_PARAMETER]) == sorted(PARAMETERS)


def test_defaults_are_those_of_the_template() -> None:
    given = read().parameters(user="arn:aws:iam::123456789012:user/me")
    differing = {
        name: value
        for name, value in given.items()
        if "Default" in (known := PARAMETERS[name]) and str(known["Default"]) != value
    }
    assert differing == {}
    assert (given["Az0"], given["Az1"]) == ("us-east-1a", "us-east-1b")


def test_defaults_keep_to_what_the_template_allows() -> None:
    for name, value in read().parameters(user="arn:aws:iam::123456789012:user/me").items():
        known = PARAMETERS[name]
        for part in value.split(",") if known["Type"] == "CommaDelimitedList" else [value]:
            assert re.fullmatch(known.get("AllowedPattern", ".*"), part), name
        assert value in map(str, known.get("AllowedValues", [value])), name


def test_every_variable_of_the_sample_s_readme_is_known_or_refused() -> None:
    text = (ROOT / "infra/aws.mk").read_text()
    for name in OF_THE_SAMPLE.split():
        assert re.search(rf"^{name} \?=", text, re.MULTILINE), name
        assert name.lower() in InfraSettings.model_fields or name in {*WITHOUT_MEANING, "EI_TYPE"}, name


def test_an_unset_value_is_the_default_and_so_is_an_empty_one() -> None:
    assert read(REGION="", NODE_ASG_MIN=" ") == InfraSettings()


def test_unset_names_follow_from_others() -> None:
    settings = read(CLUSTER_STACK_NAME="clips", REGION="eu-west-1")
    assert settings.cluster == "clips"
    assert settings.zones == ["eu-west-1a", "eu-west-1b"]
    assert settings.inference_type == "c5.large"
    assert read(ACCELERATOR="gpu").inference_type == "g6.xlarge"


def test_all_that_is_wrong_is_named_at_once() -> None:
    said = refusal(NODE_ASG_MAX="abc", SPOT="yes", NAMESPACE="n" * 53)
    for words in ("NODE_ASG_MAX='abc'", "SPOT='yes'", "52 characters at most"):
        assert words in said


@pytest.mark.parametrize("name", sorted(WITHOUT_MEANING))
def test_a_setting_without_a_meaning_today_is_refused_with_the_reason(name: str) -> None:
    said = refusal(**{name: "1"})
    assert said.startswith(f"{name}='1' means nothing today: ")
    assert said.endswith(f"; take {name} out")


def test_another_visibility_of_the_task_queue_is_refused_with_the_reason() -> None:
    assert read(DEFAULT_SQS_TASK_VISIBILITY="120").default_sqs_task_visibility == 120
    assert "Argo Events hides each message for 120 s" in refusal(DEFAULT_SQS_TASK_VISIBILITY="7200")


def test_elastic_inference_is_refused_with_the_date_and_what_to_use_instead() -> None:
    for said in (refusal(ACCELERATOR="eia"), refusal(ACCELERATOR="eia", EI_TYPE="eia1.medium")):
        assert "ended in April 2024" in said
        assert "use ACCELERATOR=gpu" in said
    assert "take EI_TYPE out, and set INFERENCE_NODE_INSTANCE_TYPE" in refusal(EI_TYPE="eia1.medium")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"REGION": "'us-east-1'"}, "REGION=\"'us-east-1'\": it has quotes about it"),
        ({"REGION": "Frankfurt"}, "REGION='Frankfurt': allowed is what matches"),
        ({"SPOT": "yes"}, "SPOT='yes': allowed is 'true' or 'false'"),
        ({"NODE_ASG_MIN": "two"}, "NODE_ASG_MIN='two': allowed is a valid integer"),
        ({"NODE_ASG_MIN": "0"}, "NODE_ASG_MIN='0': allowed is greater than or equal to 1"),
        ({"NODE_ASG_MIN": "3"}, "NODE_ASG_MIN=3, NODE_ASG_DESIRED=2, NODE_ASG_MAX=5: must not fall"),
        (
            {"NODE_ASG_MAX": "2", "AZ_2": "us-east-1c"},
            "NODE_ASG_MAX=2: each of the 3 zones has standard nodes of its own, and at most none is not",
        ),
        ({"INFERENCE_NODE_ASG_DESIRED": "9"}, "INFERENCE_NODE_ASG_MIN=2, INFERENCE_NODE_ASG_DESIRED=9"),
        ({"CLUSTER_STACK_NAME": "My Stack"}, "CLUSTER_STACK_NAME='My Stack': allowed is what matches"),
        ({"AZ_1": "us-east-1a"}, "AZ_0, AZ_1, AZ_2 are us-east-1a, us-east-1a: must be different zones"),
        ({"ACCELERATOR": "gpu", "INFERENCE_NODE_INSTANCE_TYPE": "c5.large"}, "'c5.large' has no NVIDIA GPU"),
        (
            {"INFERENCE_NODE_INSTANCE_TYPE": "g6.xlarge"},
            "'g6.xlarge' has a GPU, which ACCELERATOR=cpu would leave idle",
        ),
        ({"NETWORK_EGRESS": "endpoints", "ENDPOINT_ACCESS": "public"}, "set ENDPOINT_ACCESS=both"),
        ({"BUDGET_USD_PER_MONTH": "100"}, "set BUDGET_EMAIL"),
        ({"PUBLIC_ACCESS_CIDRS": "10.0.0.1/8"}, "PUBLIC_ACCESS_CIDRS='10.0.0.1/8': '10.0.0.1/8': allowed are blocks"),
        ({"PUBLIC_ACCESS_CIDRS": "203.0.113.0/24,10.0.0.0/8"}, "'10.0.0.0/8': nobody comes from there to a public"),
        ({"PUBLIC_ACCESS_CIDRS": "192.168.1.0/24"}, "'192.168.1.0/24': nobody comes from there to a public endpoint"),
        ({"NODE_INSTANCE_TYPE": "large"}, "NODE_INSTANCE_TYPE='large': 'large': allowed is an instance type such as"),
        ({"NODE_INSTANCE_TYPE": "m5.large, m5a.large"}, "' m5a.large': allowed is an instance type such as c5.large"),
        (
            {"INFERENCE_NODE_INSTANCE_TYPE": "c5.large,"},
            "with commas between and no spaces, such as c5.large,c5a.large",
        ),
        ({"INFERENCE_NODE_INSTANCE_TYPE": "c5.large,g5.xlarge"}, "'g5.xlarge' has a GPU"),
        ({"ACCELERATOR": "gpu", "INFERENCE_NODE_INSTANCE_TYPE": "g6.xlarge,m5.xlarge"}, "'m5.xlarge' has no NVIDIA"),
        ({"KUBERNETES_VERSION": "1.29"}, "KUBERNETES_VERSION='1.29': allowed is what matches"),
        ({"EKS_ADMIN_ROLE": "admin"}, "EKS_ADMIN_ROLE='admin': allowed is the ARN of a role"),
        ({"USER_ARN": "me"}, "USER_ARN='me': allowed is the ARN of a user or a role"),
        ({"MORE_SOURCE_ARNS": "s3://videos"}, "allowed are ARNs of objects such as arn:aws:s3:::videos/*"),
        ({"NOBODY_KNOWS": "1"}, "INFRA_NOBODY_KNOWS is no setting"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(given: dict[str, str], words: str) -> None:
    assert words in refusal(**given)


def test_several_instance_types_may_be_given_and_reach_the_template() -> None:
    settings = read(NODE_INSTANCE_TYPE="m5.large,m5a.large", INFERENCE_NODE_INSTANCE_TYPE="c5.large,c5a.large")
    assert settings.node_types == ["m5.large", "m5a.large"]
    assert settings.inference_types == ["c5.large", "c5a.large"]
    given = settings.parameters(user="")
    assert given["NodeInstanceType"] == "m5.large,m5a.large"
    assert given["InferenceNodeInstanceType"] == "c5.large,c5a.large"
    assert {PARAMETERS[name]["Type"] for name in ("NodeInstanceType", "InferenceNodeInstanceType")} == {
        "CommaDelimitedList"
    }


@pytest.mark.parametrize("block", ["0.0.0.0/0", "203.0.113.0/24,198.51.100.7/32"])
def test_blocks_that_people_may_come_from_are_allowed(block: str) -> None:
    assert read(PUBLIC_ACCESS_CIDRS=block).public_access_cidrs == block


def test_scale_from_zero_is_allowed_for_inference_nodes() -> None:
    assert read(INFERENCE_NODE_ASG_MIN="0", INFERENCE_NODE_ASG_DESIRED="0").inference_node_asg_min == 0

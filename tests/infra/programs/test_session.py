"""Who calls AWS and where, and what its errors mean to the person at the keyboard."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from infra import regions
from infra.session import Aws, Caller, calling
from steps.errors import OutsideError, UsageError

ACCOUNT = "123456789012"
SSO = "AWSReservedSSO_Admin_0123456789abcdef"
SSO_ROLE = f"arn:aws:iam::{ACCOUNT}:role/aws-reserved/sso.amazonaws.com/eu-west-1/{SSO}"


def session_of(role: str, account: str = ACCOUNT) -> str:
    return f"arn:aws:sts::{account}:assumed-role/{role}/me@x"


def called_by(aws: Aws, arn: str) -> Aws:
    aws.caller = Caller(ACCOUNT, arn)  # type: ignore[misc]
    return aws


# Who


@pytest.mark.parametrize("path", ["/", "/aws-reserved/sso.amazonaws.com/eu-west-1/", "/teams/video/"])
def test_a_session_is_turned_into_its_role_with_the_role_s_path(cloud: Aws, path: str) -> None:
    made = cloud.iam.create_role(RoleName="Admin", Path=path, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    assert called_by(cloud, session_of("Admin")).principal() == made
    assert made.endswith(f"role{path}Admin")


def test_a_session_that_user_arn_names_is_turned_into_its_role_too(cloud: Aws) -> None:
    made = cloud.iam.create_role(RoleName="Admin", Path="/teams/", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    assert cloud.principal(session_of("Admin")) == made


@pytest.mark.parametrize("arn", [SSO_ROLE, f"arn:aws:iam::{ACCOUNT}:user/me"])
def test_a_user_or_role_is_itself_and_iam_is_not_asked(arn: str) -> None:
    aws = called_by(Aws("us-east-1"), f"arn:aws:iam::{ACCOUNT}:user/somebody")
    with Stubber(aws.iam):
        assert aws.principal(arn) == arn
        assert aws.principal() == aws.caller.arn


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchEntity"])
def test_who_may_not_ask_for_the_role_is_asked_for_user_arn(code: str) -> None:
    aws = called_by(Aws("us-east-1"), session_of(SSO))
    with Stubber(aws.iam) as stub:
        stub.add_client_error("get_role", code, "no")
        with pytest.raises(UsageError) as raised:
            aws.principal()
    for words in (session_of(SSO), f"iam:GetRole: {code}", "set USER_ARN to the ARN of the role itself"):
        assert words in str(raised.value)


def test_a_session_of_another_account_is_refused_as_its_role_cannot_be_asked_for(cloud: Aws) -> None:
    with pytest.raises(UsageError, match=rf"in account 210987654321, and this is {ACCOUNT}: set USER_ARN"):
        cloud.principal(session_of("Admin", "210987654321"))


# Where


def test_a_region_that_is_none_is_named_with_those_near_it() -> None:
    words = regions.unknown("us-east-9")
    assert words is not None
    assert words.startswith("REGION='us-east-9' is no region with EKS")
    assert "near it are us-east-1, us-east-2." in words
    assert "enable it in the account" in words
    other = regions.unknown("europe-west-1")
    assert other is not None
    assert "eu-west-1" in other


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-2", "cn-north-1", "us-gov-west-1"])
def test_regions_of_every_partition_are_known(region: str) -> None:
    assert regions.unknown(region) is None


def test_a_region_that_leads_nowhere_is_told_from_a_network_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://sts")

    def caller_in(region: str) -> Caller:
        aws = Aws(region)
        aws.sts.meta.events.register("before-send", refuse)
        return aws.caller

    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with pytest.raises(UsageError, match="REGION='us-east-9' is no region"):
        caller_in("us-east-9")
    with pytest.raises(OutsideError, match="Could not connect"):
        caller_in("us-east-1")


@pytest.mark.parametrize(("region", "told"), [("eu-south-1", True), ("us-east-1", False), ("cn-north-1", False)])
def test_where_an_account_has_to_enable_a_region_a_refused_login_says_so(region: str, told: bool) -> None:
    aws = Aws(region)
    with Stubber(aws.sts) as stub:
        stub.add_client_error("get_caller_identity", "InvalidClientTokenId", "The security token is invalid")
        with pytest.raises(UsageError, match="AWS refuses the credentials") as raised:
            _ = aws.caller
    assert (f"REGION='{region}' takes no login before the account has enabled it" in str(raised.value)) is told


# What is no answer


class Page:
    """The body of an answer of somebody else."""

    def stream(self, **_: Any) -> list[bytes]:
        return [b"<!doctype html><title>500 Internal Server Error</title>"]


def test_an_answer_that_is_none_of_aws_is_one_line_with_what_to_look_at() -> None:
    aws = Aws("us-east-1")
    aws.cloudformation.meta.events.register("before-send", lambda **_: AWSResponse("http://x", 400, {}, Page()))
    with pytest.raises(OutsideError) as raised, calling("creating stack reelscan"):
        aws.cloudformation.create_stack(StackName="reelscan")
    said = str(raised.value)
    assert said.startswith("creating stack reelscan: the answer is none of AWS: Unable to parse response")
    assert "AWS_ENDPOINT_URL" in said
    assert "doctype" not in said
    assert "\n" not in said
    assert raised.value.exit_status == 4

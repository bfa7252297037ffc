"""AWS through boto3: one session, and what its errors mean to the person at the keyboard.

`AWS_ENDPOINT_URL` and the other usual AWS variables apply.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

from steps.errors import OutsideError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_eks import EKSClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_resourcegroupstaggingapi import ResourceGroupsTaggingAPIClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_service_quotas import ServiceQuotasClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sts import STSClient

_NO_LOGIN = (NoCredentialsError, PartialCredentialsError, ProfileNotFound, TokenRetrievalError)
_BAD_LOGIN_CODES = (
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "SignatureDoesNotMatch", "UnrecognizedClientException",
)  # fmt: skip
DENIED_CODES = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized")
_HOW_TO_LOG_IN = "log in with `aws configure` or `aws sso login`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID"


@dataclass(frozen=True)
class Caller:
    """Who calls AWS."""

    account: str
    arn: str

    @property
    def partition(self) -> str:
        """`aws`, `aws-cn` or `aws-us-gov`."""
        return self.arn.split(":")[1]

    @property
    def principal(self) -> str:
        """The user or role. EKS and trust policies refuse the ARN of a role's session."""
        return principal_of(self.arn)


def principal_of(arn: str) -> str:
    """`arn:aws:sts::1:assumed-role/X/session` as `arn:aws:iam::1:role/X`; any other as it is.

    The session's ARN does not tell the role's path: that of SSO's roles is put back.
    """
    found = re.fullmatch(r"arn:([^:]+):sts::(\d+):assumed-role/([^/]+)/.+", arn)
    if found is None:
        return arn
    partition, account, role = found.groups()
    path = "aws-reserved/sso.amazonaws.com/" if role.startswith("AWSReservedSSO_") else ""
    return f"arn:{partition}:iam::{account}:role/{path}{role}"


def error_code(error: ClientError) -> str:
    """What AWS calls the error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_message(error: ClientError) -> str:
    """What AWS says about it."""
    return str(error.response.get("Error", {}).get("Message", "")) or error_code(error)


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Give the errors of boto3 within a meaning.

    Raises:
        UsageError: nobody is logged in, or has not the right.
        OutsideError: AWS failed after boto3's own retries.
    """
    try:
        yield
    except _NO_LOGIN as error:
        raise UsageError(f"{what}: no AWS credentials: {error}; {_HOW_TO_LOG_IN}") from error
    except ClientError as error:
        code = error_code(error)
        if code in _BAD_LOGIN_CODES:
            raise UsageError(f"{what}: AWS refuses the credentials ({code}); {_HOW_TO_LOG_IN}") from error
        if code in DENIED_CODES:
            raise UsageError(
                f"{what}: {error_message(error)}; use a profile that may do this, such as one that assumes the role of "
                "`make create-role`"
            ) from error
        raise OutsideError(f"{what}: {code}: {error_message(error)}") from error
    except BotoCoreError as error:
        raise OutsideError(f"{what}: {error}") from error


class Aws:
    """Clients of a region."""

    def __init__(self, region: str) -> None:
        self.region = region
        with calling("AWS"):
            self._session = boto3.Session(region_name=region)
        self._config = Config(
            connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5}
        )

    @cached_property
    def caller(self) -> Caller:
        """Who calls. Raises UsageError without credentials."""
        with calling("AWS"):
            answer = self.sts.get_caller_identity()
        return Caller(answer["Account"], answer["Arn"])

    @cached_property
    def autoscaling(self) -> Any:
        """Auto Scaling."""
        return self._session.client("autoscaling", config=self._config)

    @cached_property
    def cloudformation(self) -> CloudFormationClient:
        """CloudFormation."""
        return self._session.client("cloudformation", config=self._config)

    @cached_property
    def cloudwatch(self) -> CloudWatchClient:
        """CloudWatch."""
        return self._session.client("cloudwatch", config=self._config)

    @cached_property
    def ec2(self) -> EC2Client:
        """EC2."""
        return self._session.client("ec2", config=self._config)

    @cached_property
    def ecr(self) -> ECRClient:
        """The registry of images."""
        return self._session.client("ecr", config=self._config)

    @cached_property
    def eks(self) -> EKSClient:
        """EKS."""
        return self._session.client("eks", config=self._config)

    @cached_property
    def iam(self) -> IAMClient:
        """IAM."""
        return self._session.client("iam", config=self._config)

    @cached_property
    def quotas(self) -> ServiceQuotasClient:
        """Service Quotas."""
        return self._session.client("service-quotas", config=self._config)

    @cached_property
    def s3(self) -> S3Client:
        """S3."""
        return self._session.client("s3", config=self._config)

    @cached_property
    def sqs(self) -> SQSClient:
        """SQS."""
        return self._session.client("sqs", config=self._config)

    @cached_property
    def sts(self) -> STSClient:
        """Who calls."""
        return self._session.client("sts", config=self._config)

    @cached_property
    def tagging(self) -> ResourceGroupsTaggingAPIClient:
        """Resources by tag."""
        return self._session.client("resourcegroupstaggingapi", config=self._config)

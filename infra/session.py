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
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from infra import regions
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
FAILURES = (ClientError, BotoCoreError, ResponseParserError)
"""All that boto3 raises when AWS does not do what it is asked for."""
_SESSION = re.compile(r"arn:[^:]+:sts::(\d+):assumed-role/([^/]+)/.+")
_MOST_WORDS = 160
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


def error_code(error: ClientError) -> str:
    """What AWS calls the error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_message(error: ClientError) -> str:
    """What AWS says about it."""
    return str(error.response.get("Error", {}).get("Message", "")) or error_code(error)


def failure_words(error: Exception) -> str:
    """What one of `FAILURES` says, on one line that is not too long."""
    # A page that is no answer comes after these.
    words = error_message(error) if isinstance(error, ClientError) else str(error).partition(" Further retries")[0]
    return " ".join(words.split())[:_MOST_WORDS]


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
    except ResponseParserError as error:
        raise OutsideError(
            f"{what}: the answer is none of AWS: {failure_words(error)}; see that AWS_ENDPOINT_URL, if it is set, and "
            "any proxy lead to AWS, and try again"
        ) from error


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
            try:
                answer = self.sts.get_caller_identity()
            except EndpointConnectionError as error:
                # The name of a region that is not there leads nowhere.
                words = regions.unknown(self.region)
                if words is None:
                    raise
                raise UsageError(words) from error
            except ClientError as error:
                words = regions.may_be_off(self.region)
                if words is None or error_code(error) not in _BAD_LOGIN_CODES:
                    raise
                refused = f"AWS refuses the credentials ({error_code(error)}); {_HOW_TO_LOG_IN}"
                raise UsageError(f"{refused}. {words}") from error
        return Caller(answer["Account"], answer["Arn"])

    def principal(self, user_arn: str = "") -> str:
        """The ARN of a user or role, as EKS and trust policies take it: of a role's session it is the role's.

        That of a session does not tell the role's path, such as `aws-reserved/sso.amazonaws.com/REGION/`: IAM does.

        Args:
            user_arn: USER_ARN; empty: who calls.

        Raises:
            UsageError: the role is not seen.
        """
        arn = user_arn or self.caller.arn
        found = _SESSION.fullmatch(arn)
        if found is None:
            return arn
        account, role = found.groups()
        where = f"{f'USER_ARN={arn!r}' if user_arn else arn} is a session of the role {role}"
        ask = (
            "set USER_ARN to the ARN of the role itself, arn:aws:iam::ACCOUNT:role/PATH/NAME, as IAM's console shows it"
        )
        if account != self.caller.account:
            raise UsageError(f"{where} in account {account}, and this is {self.caller.account}: {ask}")
        with calling(f"role {role}"):
            try:
                return self.iam.get_role(RoleName=role)["Role"]["Arn"]
            except ClientError as error:
                code = error_code(error)
                if code not in ("NoSuchEntity", *DENIED_CODES):
                    raise
                raise UsageError(f"{where}, whose ARN could not be asked for (iam:GetRole: {code}): {ask}") from error

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
    def logs(self) -> Any:
        """CloudWatch Logs."""
        return self._session.client("logs", config=self._config)

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

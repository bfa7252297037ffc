"""`make create-role`: the role that operates one stack, with the rights of infra/operator-policy.yaml and no others."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from infra.command import main
from infra.policies import (
    Document,
    boundary,
    boundary_name,
    operator_policies,
    policy_arn,
    role_name,
)
from infra.session import DENIED_CODES, Aws, calling, error_code
from infra.settings import OWN_TAG, InfraSettings
from steps.errors import OutsideError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

MAX_VERSIONS = 5
_VISIBLE_SECONDS = 60.0


@dataclass(frozen=True)
class AppliedRole:
    """The role that operates the stack.

    Attributes:
        arn: its ARN.
        user: the user or role that may be it.
        changed: whether anything of it, or of the boundary, was made or changed.
    """

    arn: str
    user: str
    changed: bool


def trust(user: str) -> dict[str, Any]:
    """Who may be the role: CloudFormation, and a user or role."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "cloudformation.amazonaws.com"},
                "Action": "sts:AssumeRole",
            },
            {"Effect": "Allow", "Principal": {"AWS": user}, "Action": "sts:AssumeRole"},
        ],
    }


def trusted_user(document: Any) -> str | None:
    """The user or role that a trust policy names; None if there are several, or none but one that has been deleted."""
    found = [
        principal["AWS"]
        for statement in document.get("Statement", [])
        if "AWS" in (principal := statement.get("Principal", {}))
    ]
    # AWS shows what has been deleted by its id.
    return found[0] if len(found) == 1 and isinstance(found[0], str) and found[0].startswith("arn:") else None


def find_role(settings: InfraSettings, aws: Aws) -> str | None:
    """The role's ARN; None if it is not there, or cannot be seen."""
    with calling(f"role {role_name(settings)}"):
        try:
            return aws.iam.get_role(RoleName=role_name(settings))["Role"]["Arn"]
        except ClientError as error:
            if error_code(error) in ("NoSuchEntity", *DENIED_CODES):
                return None
            raise


def find_boundary(settings: InfraSettings, aws: Aws) -> str | None:
    """The ARN of the policy that bounds the stack's roles; None if it is not there, or cannot be seen.

    Raises:
        UsageError: it is not what these settings take.
    """
    name = boundary_name(settings)
    with calling(f"policy {name}"):
        try:
            arn = policy_arn(name, aws.caller)
            current = _current(aws, arn)
        except ClientError as error:
            if error_code(error) in ("NoSuchEntity", *DENIED_CODES):
                return None
            raise
    if current != boundary(settings, aws.caller):
        raise UsageError(
            f"policy {name}: it is of another version of Reelscan, or of another CLUSTER_NAME or MORE_SOURCE_ARNS than "
            f"{settings.cluster!r} and {settings.more_source_arns!r}, and would keep rights from the cluster's roles: "
            "call `make create-role` once more with these settings, or have it called by who may"
        )
    return arn


def apply_role(settings: InfraSettings, aws: Aws) -> AppliedRole:
    """Create the role and the boundary of the roles that it makes, or bring them to what they are to be.

    Who may be a role that is there stays as it is, unless the settings name somebody.
    """
    name = role_name(settings)
    user = aws.principal(settings.user_arn) if settings.user_arn else None
    tags: Any = [{"Key": OWN_TAG, "Value": settings.cluster_stack_name}]
    changed = False
    with calling(f"role {name}"):
        # First, as the role may make none without it.
        bounds = boundary_name(settings)
        changed |= _apply_policy(aws, bounds, boundary(settings, aws.caller), tags)
        try:
            role = aws.iam.get_role(RoleName=name)["Role"]
        except ClientError as error:
            if error_code(error) != "NoSuchEntity":
                raise
            user = user or aws.principal()
            role = aws.iam.create_role(
                RoleName=name,
                AssumeRolePolicyDocument=json.dumps(trust(user)),
                Description=f"Operates the stack {settings.cluster_stack_name} in {settings.region}",
                Tags=tags,
            )["Role"]
            changed = True
        else:
            current: Any = role.get("AssumeRolePolicyDocument", {})
            user = user or trusted_user(current) or aws.principal()
            if current != trust(user):
                aws.iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust(user)))
                changed = True
        attached = attached_policies(aws, name)
        made = operator_policies(settings, aws.caller)
        for policy, document in made.items():
            changed |= _apply_policy(aws, policy, document, tags)
            if policy not in attached:
                aws.iam.attach_role_policy(RoleName=name, PolicyArn=policy_arn(policy, aws.caller))
                changed = True
        # Such as AdministratorAccess.
        for policy, arn in attached.items():
            if policy not in made:
                aws.iam.detach_role_policy(RoleName=name, PolicyArn=arn)
                changed = True
    return AppliedRole(role["Arn"], user, changed)


def attached_policies(aws: Aws, role: str) -> dict[str, str]:
    """ARNs of the managed policies of a role, by name."""
    return {
        policy["PolicyName"]: policy["PolicyArn"]
        for page in aws.iam.get_paginator("list_attached_role_policies").paginate(RoleName=role)
        for policy in page["AttachedPolicies"]
    }


def _current(aws: Aws, arn: str) -> Any:
    """The document of a policy."""
    version = aws.iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return aws.iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]


def _apply_policy(aws: Aws, name: str, document: Document, tags: Any) -> bool:
    """Create a policy, or bring it to a document; whether there was anything to do."""
    arn = policy_arn(name, aws.caller)
    try:
        current = _current(aws, arn)
    except ClientError as error:
        if error_code(error) != "NoSuchEntity":
            raise
        aws.iam.create_policy(PolicyName=name, PolicyDocument=_short(document), Tags=tags)
        return True
    if current == document:
        return False
    versions = aws.iam.list_policy_versions(PolicyArn=arn)["Versions"]
    if len(versions) >= MAX_VERSIONS:
        oldest = min((v for v in versions if not v["IsDefaultVersion"]), key=lambda v: v["CreateDate"])
        aws.iam.delete_policy_version(PolicyArn=arn, VersionId=oldest["VersionId"])
    aws.iam.create_policy_version(PolicyArn=arn, PolicyDocument=_short(document), SetAsDefault=True)
    return True


def _short(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"))


def create_role(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    applied = apply_role(settings, aws)
    console.print(f"{applied.arn} {'is made' if applied.changed else 'is as it should be'}")
    for name in operator_policies(settings, aws.caller):
        console.print(f"  with the policy {name}")
    console.print(f"  for roles within the boundary {boundary_name(settings)}")
    console.print(f"  to be assumed by {applied.user}; USER_ARN names another")
    if applied.changed:
        _wait_until_visible(aws, role_name(settings))
    console.print("next: make create-cluster, which works by it")


def _wait_until_visible(aws: Aws, name: str) -> None:
    """IAM tells all regions only after some seconds."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while True:
        with calling(f"role {name}"):
            try:
                aws.iam.get_role(RoleName=name)
                return
            except ClientError as error:
                if time.monotonic() > deadline:
                    raise OutsideError(f"role {name}: IAM does not show it yet: try again in a minute") from error
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main("create-role", create_role))

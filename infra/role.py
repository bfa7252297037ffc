"""`make create-role`: the role that operates one stack, with the rights of infra/operator-policy.yaml and no others."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import ClientError

from infra.command import main
from infra.session import DENIED_CODES, Aws, Caller, calling, error_code
from infra.settings import OWN_TAG, InfraSettings
from steps.errors import OutsideError

if TYPE_CHECKING:
    from rich.console import Console

POLICY = Path(__file__).with_name("operator-policy.yaml")
MAX_POLICY_CHARACTERS = 6144
"""IAM's own limit on a managed policy, spaces not counted."""
MAX_VERSIONS = 5
_VISIBLE_SECONDS = 60.0


def role_name(settings: InfraSettings) -> str:
    """The role's name, which begins as those of the stack do."""
    return f"{settings.cluster_stack_name}-operator"


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values for `${NAME}`. Raises KeyError for one that is not known."""
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)


def policies(settings: InfraSettings, caller: Caller) -> dict[str, dict[str, Any]]:
    """Policy documents by the names of their policies."""
    values = {
        "Partition": caller.partition,
        "Account": caller.account,
        "Region": settings.region,
        "Stack": settings.cluster_stack_name,
        "Cluster": settings.cluster,
        "Role": f"arn:{caller.partition}:iam::{caller.account}:role/{role_name(settings)}",
    }
    parts: dict[str, list[dict[str, Any]]] = yaml.safe_load(fill(POLICY.read_text(), values))
    return {
        f"{role_name(settings)}-{name}": {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", **statement} for statement in statements],
        }
        for name, statements in parts.items()
    }


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


def find_role(settings: InfraSettings, aws: Aws) -> str | None:
    """The role's ARN; None if it is not there, or cannot be seen."""
    with calling(f"role {role_name(settings)}"):
        try:
            return aws.iam.get_role(RoleName=role_name(settings))["Role"]["Arn"]
        except ClientError as error:
            if error_code(error) in ("NoSuchEntity", *DENIED_CODES):
                return None
            raise


def apply_role(settings: InfraSettings, aws: Aws) -> tuple[str, bool]:
    """Create the role, or bring it to what it is to be; gives its ARN, and whether anything changed."""
    name, wanted = role_name(settings), trust(aws.principal(settings.user_arn))
    tags: Any = [{"Key": OWN_TAG, "Value": settings.cluster_stack_name}]
    changed = False
    with calling(f"role {name}"):
        try:
            role = aws.iam.get_role(RoleName=name)["Role"]
        except ClientError as error:
            if error_code(error) != "NoSuchEntity":
                raise
            role = aws.iam.create_role(
                RoleName=name,
                AssumeRolePolicyDocument=json.dumps(wanted),
                Description=f"Operates the stack {settings.cluster_stack_name} in {settings.region}",
                Tags=tags,
            )["Role"]
            changed = True
        else:
            if role.get("AssumeRolePolicyDocument") != wanted:
                aws.iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(wanted))
                changed = True
        attached = {
            policy["PolicyName"]: policy["PolicyArn"]
            for page in aws.iam.get_paginator("list_attached_role_policies").paginate(RoleName=name)
            for policy in page["AttachedPolicies"]
        }
        made = policies(settings, aws.caller)
        for policy, document in made.items():
            arn = f"arn:{aws.caller.partition}:iam::{aws.caller.account}:policy/{policy}"
            changed |= _apply_policy(aws, arn, policy, document, tags)
            if policy not in attached:
                aws.iam.attach_role_policy(RoleName=name, PolicyArn=arn)
                changed = True
        # Such as AdministratorAccess.
        for policy, arn in attached.items():
            if policy not in made:
                aws.iam.detach_role_policy(RoleName=name, PolicyArn=arn)
                changed = True
    return role["Arn"], changed


def _apply_policy(aws: Aws, arn: str, name: str, document: dict[str, Any], tags: Any) -> bool:
    try:
        policy = aws.iam.get_policy(PolicyArn=arn)["Policy"]
    except ClientError as error:
        if error_code(error) != "NoSuchEntity":
            raise
        aws.iam.create_policy(PolicyName=name, PolicyDocument=_short(document), Tags=tags)
        return True
    current = aws.iam.get_policy_version(PolicyArn=arn, VersionId=policy["DefaultVersionId"])["PolicyVersion"]
    if current["Document"] == document:
        return False
    versions = aws.iam.list_policy_versions(PolicyArn=arn)["Versions"]
    if len(versions) >= MAX_VERSIONS:
        oldest = min((v for v in versions if not v["IsDefaultVersion"]), key=lambda v: v["CreateDate"])
        aws.iam.delete_policy_version(PolicyArn=arn, VersionId=oldest["VersionId"])
    aws.iam.create_policy_version(PolicyArn=arn, PolicyDocument=_short(document), SetAsDefault=True)
    return True


def _short(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def create_role(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    arn, changed = apply_role(settings, aws)
    console.print(f"{arn} {'is made' if changed else 'is as it should be'}")
    for name in policies(settings, aws.caller):
        console.print(f"  with the policy {name}")
    if changed:
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

"""`make delete-role`: deletes the role of `make create-role`, its policies and the boundary of the stack's roles."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from infra.command import confirm, main
from infra.policies import boundary_name, operator_policies, policy_arn, role_name
from infra.role import attached_policies
from infra.session import Aws, calling, error_code
from infra.settings import OWN_TAG, InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template
from steps.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def remove_role(settings: InfraSettings, aws: Aws) -> bool:
    """Delete the role, after what it has; whether it was there. Raises UsageError if `create-role` did not make it."""
    name = role_name(settings)
    with calling(f"role {name}"):
        try:
            tags = aws.iam.get_role(RoleName=name)["Role"].get("Tags", [])
            if {"Key": OWN_TAG, "Value": settings.cluster_stack_name} not in tags:
                raise UsageError(f"role {name} is not of Reelscan (it lacks the tag {OWN_TAG}): nothing was deleted")
            for arn in attached_policies(aws, name).values():
                aws.iam.detach_role_policy(RoleName=name, PolicyArn=arn)
            for page in aws.iam.get_paginator("list_role_policies").paginate(RoleName=name):
                for policy in page["PolicyNames"]:
                    aws.iam.delete_role_policy(RoleName=name, PolicyName=policy)
            aws.iam.delete_role(RoleName=name)
        except ClientError as error:
            if error_code(error) != "NoSuchEntity":
                raise
            return False
    return True


def remove_policy(name: str, aws: Aws) -> bool:
    """Delete a policy with its earlier versions; whether it was there."""
    with calling(f"policy {name}"):
        arn = policy_arn(name, aws.caller)
        try:
            for version in aws.iam.list_policy_versions(PolicyArn=arn)["Versions"]:
                if not version["IsDefaultVersion"]:
                    aws.iam.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
            aws.iam.delete_policy(PolicyArn=arn)
        except ClientError as error:
            if error_code(error) != "NoSuchEntity":
                raise
            return False
    return True


def delete_role(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    stack = Stack(settings, aws, Template(CLUSTER))
    existing = stack.find()
    if existing is not None:
        raise UsageError(
            f"stack {stack.name} is {existing['StackStatus']}, and is changed and deleted by the role "
            f"{role_name(settings)}: `make delete-cluster` first"
        )
    confirm(settings, console, f"This deletes the role {role_name(settings)} of account {aws.caller.account}.")
    removed = [f"role {role_name(settings)}"] if remove_role(settings, aws) else []
    for policy in (*operator_policies(settings, aws.caller), boundary_name(settings)):
        if remove_policy(policy, aws):
            removed.append(f"policy {policy}")
    for what in removed:
        console.print(f"deleted     {what}")
    if not removed:
        console.print(f"there is no role {role_name(settings)}, and no policy of it")


if __name__ == "__main__":
    sys.exit(main("delete-role", delete_role))

"""`make create-cluster`: creates the stack of infra/cluster.yaml, or brings it up to date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from botocore.exceptions import ClientError

from infra import preflight
from infra.command import main
from infra.nodes import REBALANCING, stop_rebalancing
from infra.outputs import outputs, write_settings
from infra.progress import follow
from infra.role import find_boundary, find_role
from infra.session import Aws, calling, error_message
from infra.settings import OWN_TAG, InfraSettings
from infra.template import CLUSTER, Template
from steps.errors import OutsideError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackTypeDef
    from rich.console import Console

_CLOCKS_DIFFER = timedelta(minutes=1)
_NO_CHANGE = "No updates are to be performed"
ADMIN_PARAMETER = "AdminPrincipalArn"
BOUNDARY_PARAMETER = "PermissionsBoundary"


def values(stack: StackTypeDef) -> dict[str, str]:
    """Those of a stack's parameters, by name."""
    return {given["ParameterKey"]: given["ParameterValue"] for given in stack.get("Parameters", [])}


class Stack:
    """The stack of a cluster."""

    def __init__(self, settings: InfraSettings, aws: Aws, template: Template) -> None:
        self.name = settings.cluster_stack_name
        self._settings = settings
        self._aws = aws
        self._template = template

    def find(self) -> StackTypeDef | None:
        """What AWS says of it; None if there is none."""
        with calling(f"stack {self.name}"):
            try:
                return self._aws.cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
            except ClientError as error:
                if "does not exist" in error_message(error):
                    return None
                raise

    def console_link(self, stack_id: str) -> str:
        """Where a person sees it."""
        region = self._aws.region
        domain = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}.get(
            stack_id.split(":")[1], "console.aws.amazon.com"
        )
        where = f"https://{region}.{domain}/cloudformation/home?region={region}"
        return f"{where}#/stacks/events?stackId={quote(stack_id, safe='')}"

    def apply(self, console: Console) -> bool:
        """Create it, or change what differs, and follow that; whether there was anything to do.

        Raises:
            UsageError: a stack with this name is not of Reelscan, or cannot be changed as it is.
            OutsideError: it failed.
        """
        began = datetime.now(UTC) - _CLOCKS_DIFFER
        existing = self.find()
        if existing is None:
            with calling(f"creating stack {self.name}"):
                stack_id = self._aws.cloudformation.create_stack(**self._request(None, console))["StackId"]
        else:
            stack_id = existing["StackId"]
            self._check_changeable(existing)
            if existing["StackStatus"].endswith("_IN_PROGRESS"):
                began = existing.get("LastUpdatedTime", existing["CreationTime"]) - _CLOCKS_DIFFER
                console.print(f"stack {self.name} is {existing['StackStatus']}: following that")
            elif not self._update(existing, console):
                return False
        console.print(f"see it at {self.console_link(stack_id)}")
        console.print("control plane and nodes take some 15 minutes; Ctrl-C stops following, not the stack")
        follow(self._aws, stack_id, began, len(self._template.resources), console)
        return True

    def delete(self, console: Console, empty: Callable[[], object]) -> None:
        """Delete it and follow that.

        Args:
            console: to show it on.
            empty: empties its buckets, to which something may have been written since.

        Raises:
            OutsideError: it could not be, with the first resource and why.
        """
        try:
            self._delete(console)
        except OutsideError as error:
            if "not empty" not in str(error):
                raise
            console.print(f"note: {error}; once more")
            empty()
            self._delete(console)

    def _delete(self, console: Console) -> None:
        existing = self.find()
        if existing is None:
            return
        self.check_own(existing)
        began = datetime.now(UTC) - _CLOCKS_DIFFER
        role = self._role()
        with calling(f"deleting stack {self.name}"):
            if existing.get("EnableTerminationProtection"):
                self._aws.cloudformation.update_termination_protection(
                    StackName=self.name, EnableTerminationProtection=False
                )
            self._aws.cloudformation.delete_stack(StackName=existing["StackId"], **role)
        console.print(f"see it at {self.console_link(existing['StackId'])}")
        follow(self._aws, existing["StackId"], began, len(self._template.resources), console)

    def buckets(self) -> list[str]:
        """The buckets that it has."""
        found = []
        with calling(f"resources of stack {self.name}"):
            for page in self._aws.cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.name):
                found += [
                    resource.get("PhysicalResourceId", "")
                    for resource in page["StackResourceSummaries"]
                    if resource["ResourceType"] == "AWS::S3::Bucket"
                ]
        return [name for name in found if name]

    def missing(self) -> UsageError:
        """That there is no such stack."""
        return UsageError(
            f"CLUSTER_STACK_NAME={self.name!r}: {self._aws.region} has no such stack: `make create-cluster`, or set "
            "REGION"
        )

    def outputs(self) -> dict[str, str]:
        """What it tells, by name. Raises UsageError if there is no stack, or it tells nothing yet."""
        existing = self.find()
        if existing is None:
            raise self.missing()
        told = outputs(existing)
        if not told:
            raise UsageError(f"stack {self.name} is {existing['StackStatus']}, and tells nothing yet: `make status`")
        return told

    def _request(self, existing: StackTypeDef | None, console: Console) -> Any:
        request: dict[str, Any] = {
            "StackName": self.name,
            "TemplateBody": self._template.body(),
            "Parameters": [
                {"ParameterKey": name, "ParameterValue": value}
                for name, value in self._parameters(existing, console).items()
            ],
            "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
            "Tags": [{"Key": OWN_TAG, "Value": self.name}],
        }
        return {**request, **self._role()}

    def _parameters(self, existing: StackTypeDef | None, console: Console) -> dict[str, str]:
        had = {} if existing is None else values(existing)
        # Whoever calls, an administrator that nobody named would otherwise take the place of the first.
        user = "" if self._settings.user_arn else had.get(ADMIN_PARAMETER, "")
        if user and user != self._aws.caller.arn:
            console.print(f"the cluster's administrator stays {user}; USER_ARN names another")
        given = self._settings.parameters(user=user or self._aws.principal(self._settings.user_arn))
        given[BOUNDARY_PARAMETER] = find_boundary(self._settings, self._aws) or had.get(BOUNDARY_PARAMETER, "")
        return given

    def _role(self) -> Any:
        arn = self._settings.eks_admin_role or find_role(self._settings, self._aws)
        return {"RoleARN": arn} if arn else {}

    def _update(self, existing: StackTypeDef, console: Console) -> bool:
        with calling(f"updating stack {self.name}"):
            try:
                self._aws.cloudformation.update_stack(**self._request(existing, console))
            except ClientError as error:
                if _NO_CHANGE in error_message(error):
                    return False
                raise
        return True

    def check_own(self, existing: StackTypeDef) -> None:
        """See that it was made here. Raises UsageError."""
        if {"Key": OWN_TAG, "Value": self.name} not in existing.get("Tags", []):
            raise UsageError(
                f"stack {self.name} in {self._aws.region} is not of Reelscan (it lacks the tag {OWN_TAG}): "
                "set another CLUSTER_STACK_NAME"
            )

    def _check_changeable(self, existing: StackTypeDef) -> None:
        self.check_own(existing)
        status = existing["StackStatus"]
        if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "DELETE_IN_PROGRESS"):
            raise UsageError(
                f"stack {self.name} is {status}, and cannot be changed: {existing.get('StackStatusReason', '')} "
                "take it away with `make delete-cluster` first"
            )


def create_cluster(settings: InfraSettings, console: Console) -> None:
    """The target."""
    aws = Aws(settings.region)
    preflight.require(settings, aws, console)
    stack = Stack(settings, aws, Template(CLUSTER))
    changed = stack.apply(console)
    console.print(f"stack {stack.name} is up to date" if not changed else f"stack {stack.name} is done")
    existing = stack.find()
    if existing is not None:
        path = write_settings(settings, aws, existing)
        console.print(f"settings of the deployment: {path}")
        _keep_nodes(settings, aws, outputs(existing), console)
        console.print(
            "next: make update-kubeconfig install-argo, make images push-images SERVING_MODEL=FOLDER, then make deploy "
            f"SETTINGS={path}"
        )


def _keep_nodes(settings: InfraSettings, aws: Aws, told: dict[str, str], console: Console) -> None:
    """Each time, since a node group that was replaced has a new Auto Scaling group."""
    node_group = told.get("InferenceNodeGroup")
    # moto makes none.
    if node_group is not None:
        for name in stop_rebalancing(aws, settings.cluster, node_group):
            console.print(f"{REBALANCING} is suspended for {name}: it would end running chunks")


if __name__ == "__main__":
    sys.exit(main("create-cluster", create_cluster))

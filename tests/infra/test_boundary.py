"""The boundary of the stack's roles holds all that the template gives them, and no more than what they need."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest
from moto.iam.aws_managed_policies import aws_managed_policies_data

from infra.policies import boundary
from infra.session import Caller
from infra.settings import InfraSettings
from tests.infra.calls import Grant, grants
from tests.infra.stacks import Deploy

CALLER = Caller("123456789012", "arn:aws:iam::123456789012:user/me")
BOUNDARY = "arn:aws:iam::123456789012:policy/reelscan-operator-boundary"
MORE = "arn:aws:s3:::videos/*,arn:aws:s3:::films/new/*"
# Of the driver of volumes: nobody here makes snapshots of them, or copies.
NOT_USED = {
    "ec2:CopyVolumes", "ec2:CreateSnapshot", "ec2:DeleteSnapshot", "ec2:EnableFastSnapshotRestores", "ec2:LockSnapshot",
}  # fmt: skip


def bounds(**given: str) -> list[Grant]:
    return grants(boundary(InfraSettings(**given), CALLER))  # type: ignore[arg-type]  # pydantic reads text


def policies_of_aws(deploy: Deploy) -> dict[str, Any]:
    """Documents of the policies that the template names, by name, as moto has them."""
    known = json.loads(aws_managed_policies_data)
    named = {
        arn.rpartition("/")[2]
        for role in deploy().of_type("AWS::IAM::Role").values()
        for arn in role.get("ManagedPolicyArns", [])
    }
    return {name: known[name]["Document"] for name in sorted(named)}


def test_roles_are_bounded_if_there_is_a_boundary_and_are_not_if_there_is_none(deploy: Deploy) -> None:
    bounded = deploy(PermissionsBoundary=BOUNDARY).of_type("AWS::IAM::Role")
    assert {role["PermissionsBoundary"] for role in bounded.values()} == {BOUNDARY}
    assert not [role for role in deploy().of_type("AWS::IAM::Role").values() if "PermissionsBoundary" in role]


def test_all_that_the_template_gives_a_role_is_within_the_boundary(deploy: Deploy) -> None:
    held = bounds(more_source_arns=MORE)
    given = {
        grant
        for role in deploy(MoreSourceArns=MORE).of_type("AWS::IAM::Role").values()
        for policy in role.get("Policies", [])
        for grant in grants(policy["PolicyDocument"])
    }
    assert len(given) > 30
    beyond = [
        grant
        for grant in given
        if not any(fnmatchcase(grant.action, one.action) and fnmatchcase(grant.resource, one.resource) for one in held)
    ]
    assert beyond == []


def test_all_that_policies_of_aws_give_a_role_is_within_the_boundary_but_for_what_nobody_uses(deploy: Deploy) -> None:
    held = bounds()
    given = {grant.action for document in policies_of_aws(deploy).values() for grant in grants(document)}
    assert {action for action in given if not any(fnmatchcase(action, one.action) for one in held)} == NOT_USED


def test_nothing_is_within_the_boundary_that_no_role_has(deploy: Deploy) -> None:
    needed = {grant.action for document in policies_of_aws(deploy).values() for grant in grants(document)}
    for role in deploy().of_type("AWS::IAM::Role").values():
        for policy in role.get("Policies", []):
            needed |= {grant.action for grant in grants(policy["PolicyDocument"])}
    for held in bounds():
        assert any(fnmatchcase(action, held.action) for action in needed), held.action


def test_other_sources_are_within_the_boundary_only_if_they_are_named() -> None:
    extra = set(bounds(more_source_arns=MORE)) - set(bounds())
    assert {(grant.action, grant.resource) for grant in extra} == {("s3:GetObject", arn) for arn in MORE.split(",")}


@pytest.mark.parametrize("service", ["iam", "sts", "s3", "sqs", "kms", "eks-auth"])
def test_a_role_comes_by_no_way_to_identities_data_or_keys_of_others(service: str) -> None:
    looks = re.compile(r"kms:DescribeKey")
    for grant in bounds():
        if grant.action.startswith(f"{service}:") and not looks.fullmatch(grant.action):
            if service == "iam":
                assert (grant.action, "elasticloadbalancing" in grant.condition) == (
                    "iam:CreateServiceLinkedRole",
                    True,
                )
            else:
                assert "reelscan" in grant.resource, grant


def test_instances_volumes_and_groups_of_others_cannot_be_changed() -> None:
    for action in ("ec2:ModifyInstanceAttribute", "ec2:DeleteVolume", "ec2:AttachVolume", "ec2:DeleteRoute"):
        (grant,) = [one for one in bounds() if fnmatchcase(action, one.action)]
        assert json.loads(grant.condition) == {"StringEquals": {"aws:ResourceTag/reelscan-stack": "reelscan"}}
    for grant in bounds():
        if grant.action.startswith("autoscaling:") and "Describe" not in grant.action:
            assert "eks:cluster-name" in grant.condition


def test_no_role_can_give_what_is_not_the_stack_s_its_tag_and_so_hand_it_to_the_operator() -> None:
    """But for addresses and security groups, and volumes as they are made."""
    tagging = {one.resource.rpartition(":")[2]: one.condition for one in bounds() if one.action == "ec2:CreateTags"}
    assert set(tagging) == {"network-interface/*", "security-group/*", "volume/*"}
    assert "CreateVolume" in tagging["volume/*"]

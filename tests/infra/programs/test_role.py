"""`make create-role` and `make delete-role`: the role comes with its policies and the boundary, and goes with them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from infra import delete_role, policies, role
from infra.session import Aws, Caller
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import Template
from steps.errors import UsageError

CALLER = Caller("123456789012", "arn:aws:iam::123456789012:user/me")
ARN = "arn:aws:iam::123456789012:role/reelscan-operator"
BOUNDARY = "arn:aws:iam::123456789012:policy/reelscan-operator-boundary"


def trusted(cloud: Aws) -> Any:
    return cloud.iam.get_role(RoleName="reelscan-operator")["Role"]["AssumeRolePolicyDocument"]


def as_caller(cloud: Aws, arn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call AWS as somebody else from now on."""
    monkeypatch.setattr(cloud, "caller", Caller("123456789012", arn))


def test_cloudformation_and_who_asked_for_it_may_be_the_role(
    cloud: Aws, settings: InfraSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.iam.create_role(RoleName="Admin", AssumeRolePolicyDocument="{}")
    as_caller(cloud, "arn:aws:sts::123456789012:assumed-role/Admin/me", monkeypatch)
    role.apply_role(settings, cloud)
    first, second = trusted(cloud)["Statement"]
    assert first["Principal"] == {"Service": "cloudformation.amazonaws.com"}
    assert second["Principal"] == {"AWS": "arn:aws:iam::123456789012:role/Admin"}


def test_a_colleague_who_calls_it_again_does_not_lock_out_who_has_the_role(
    cloud: Aws, settings: InfraSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = role.apply_role(settings, cloud)
    before = trusted(cloud)
    as_caller(cloud, "arn:aws:iam::123456789012:user/colleague", monkeypatch)
    again = role.apply_role(settings, cloud)
    assert (again.user, again.changed) == (first.user, False)
    assert trusted(cloud) == before
    named = settings.model_copy(update={"user_arn": "arn:aws:iam::123456789012:user/colleague"})
    assert role.apply_role(named, cloud) == role.AppliedRole(ARN, "arn:aws:iam::123456789012:user/colleague", True)


def test_a_role_whose_user_was_deleted_becomes_the_caller_s(cloud: Aws, settings: InfraSettings) -> None:
    role.apply_role(settings, cloud)
    cloud.iam.update_assume_role_policy(
        RoleName="reelscan-operator", PolicyDocument=json.dumps(role.trust("AIDAQ3EGRM4EXAMPLE"))
    )
    assert role.apply_role(settings, cloud).user == cloud.caller.arn


def test_the_role_is_made_with_its_policies(cloud: Aws, settings: InfraSettings, console: Console) -> None:
    role.create_role(settings, console)
    attached = cloud.iam.list_attached_role_policies(RoleName="reelscan-operator")["AttachedPolicies"]
    assert {one["PolicyName"] for one in attached} == set(policies.operator_policies(settings, CALLER))
    tags = cloud.iam.list_role_tags(RoleName="reelscan-operator")["Tags"]
    assert {"Key": "reelscan-stack", "Value": "reelscan"} in tags
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{ARN} is made" in said
    assert f"to be assumed by {cloud.caller.arn}; USER_ARN names another" in said


def test_the_boundary_is_made_and_gives_the_role_itself_nothing(cloud: Aws, settings: InfraSettings) -> None:
    assert role.find_boundary(settings, cloud) is None
    role.apply_role(settings, cloud)
    assert role.find_boundary(settings, cloud) == BOUNDARY
    attached = cloud.iam.list_attached_role_policies(RoleName="reelscan-operator")["AttachedPolicies"]
    assert BOUNDARY not in [one["PolicyArn"] for one in attached]


def test_once_more_changes_nothing(cloud: Aws, settings: InfraSettings) -> None:
    assert [role.apply_role(settings, cloud).changed for _ in range(2)] == [True, False]


def test_rights_that_somebody_added_are_taken_away_again(cloud: Aws, settings: InfraSettings) -> None:
    role.apply_role(settings, cloud)
    anything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    more = cloud.iam.create_policy(PolicyName="More", PolicyDocument=json.dumps(anything))["Policy"]["Arn"]
    cloud.iam.attach_role_policy(RoleName="reelscan-operator", PolicyArn=more)
    several = role.trust("arn:aws:iam::123456789012:user/somebody")
    several["Statement"] += role.trust("arn:aws:iam::123456789012:user/else")["Statement"]
    cloud.iam.update_assume_role_policy(RoleName="reelscan-operator", PolicyDocument=json.dumps(several))
    assert role.apply_role(settings, cloud).changed
    attached = cloud.iam.list_attached_role_policies(RoleName="reelscan-operator")["AttachedPolicies"]
    assert "More" not in [one["PolicyName"] for one in attached]
    assert trusted(cloud) == role.trust(cloud.caller.arn)


def test_a_changed_policy_becomes_a_new_version_however_often(
    cloud: Aws, settings: InfraSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        document = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": f"s3:Get{number}", "Resource": "*"}],
        }
        monkeypatch.setattr(
            role, "operator_policies", lambda *_, document=document: {"reelscan-operator-data": document}
        )
        assert role.apply_role(settings, cloud).changed
    versions = cloud.iam.list_policy_versions(PolicyArn="arn:aws:iam::123456789012:policy/reelscan-operator-data")[
        "Versions"
    ]
    assert len(versions) <= role.MAX_VERSIONS


# Taking it away


def ours(cloud: Aws) -> set[str]:
    """Roles and policies of the account."""
    made = {one["RoleName"] for one in cloud.iam.list_roles()["Roles"]}
    return made | {one["PolicyName"] for one in cloud.iam.list_policies(Scope="Local")["Policies"]}


@pytest.fixture
def confirmed(settings: InfraSettings) -> InfraSettings:
    return settings.model_copy(update={"confirm": "reelscan"})


def test_the_role_goes_with_its_policies_and_the_boundary_and_no_other(
    cloud: Aws, settings: InfraSettings, confirmed: InfraSettings, console: Console
) -> None:
    role.apply_role(settings.model_copy(update={"cluster_stack_name": "another"}), cloud)
    others = ours(cloud)
    # With an earlier version of the boundary.
    role.apply_role(settings.model_copy(update={"more_source_arns": "arn:aws:s3:::clips/*"}), cloud)
    role.apply_role(settings, cloud)
    anything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    cloud.iam.put_role_policy(RoleName="reelscan-operator", PolicyName="More", PolicyDocument=json.dumps(anything))
    delete_role.delete_role(confirmed, console)
    assert ours(cloud) == others
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "deleted     role reelscan-operator\n" in said
    assert "deleted     policy reelscan-operator-boundary\n" in said


def test_it_stays_without_the_stack_s_name(cloud: Aws, settings: InfraSettings, console: Console) -> None:
    role.apply_role(settings, cloud)
    before = ours(cloud)
    with pytest.raises(UsageError, match="nothing was deleted; give the stack's name, CONFIRM=reelscan"):
        delete_role.delete_role(settings, console)
    assert ours(cloud) == before


def test_it_stays_as_long_as_its_stack(
    cloud: Aws, settings: InfraSettings, confirmed: InfraSettings, small: Template, console: Console
) -> None:
    role.apply_role(settings, cloud)
    before = ours(cloud)
    Stack(settings, cloud, small).apply(console)
    with pytest.raises(UsageError, match=r"stack reelscan is CREATE_COMPLETE, .*`make delete-cluster` first"):
        delete_role.delete_role(confirmed, console)
    assert ours(cloud) == before


def test_a_role_of_the_same_name_that_is_not_ours_stays(cloud: Aws, confirmed: InfraSettings, console: Console) -> None:
    cloud.iam.create_role(RoleName="reelscan-operator", AssumeRolePolicyDocument="{}")
    with pytest.raises(UsageError, match="is not of Reelscan"):
        delete_role.delete_role(confirmed, console)
    assert ours(cloud) == {"reelscan-operator"}


def test_deleting_it_once_more_is_no_error(
    cloud: Aws, settings: InfraSettings, confirmed: InfraSettings, console: Console
) -> None:
    role.apply_role(settings, cloud)
    for _ in range(2):
        delete_role.delete_role(confirmed, console)
    assert "there is no role reelscan-operator" in console.file.getvalue()  # type: ignore[attr-defined]

"""What the account lacks, or has already, is named before a stack would fail over it."""

from __future__ import annotations

import pytest
from botocore.stub import Stubber
from rich.console import Console

from infra import preflight
from infra.preflight_account import addresses, has_stack, key_pair, taken_names, vpcs
from infra.session import Aws
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import Template
from steps.errors import UsageError

BUCKET = "results-bucket-123456789012-us-east-1-reelscan"


def test_a_key_pair_that_is_not_there_is_refused_with_those_that_are(cloud: Aws) -> None:
    (found,) = key_pair(InfraSettings(ssh_key_name="nokey"), cloud)
    assert found.words.startswith("SSH_KEY_NAME='nokey' is no key pair of us-east-1, which has none; make one with")
    cloud.ec2.create_key_pair(KeyName="mine")
    (found,) = key_pair(InfraSettings(ssh_key_name="nokey"), cloud)
    assert "which has mine;" in found.words
    assert list(key_pair(InfraSettings(ssh_key_name="mine"), cloud)) == []
    assert list(key_pair(InfraSettings(), cloud)) == []


def test_a_log_group_that_an_earlier_cluster_left_is_named_with_how_to_delete_it(
    cloud: Aws, settings: InfraSettings
) -> None:
    # The other only begins so.
    for name in ("reelscan", "reelscan/cluster-2"):
        cloud.logs.create_log_group(logGroupName=f"/aws/eks/{name}")
    assert list(taken_names(settings, cloud)) == []
    cloud.logs.create_log_group(logGroupName="/aws/eks/reelscan/cluster")
    (found,) = taken_names(settings, cloud)
    assert found.stops
    assert "aws logs delete-log-group --region us-east-1 --log-group-name /aws/eks/reelscan/cluster" in found.words


def test_a_bucket_that_is_there_is_named(cloud: Aws, settings: InfraSettings) -> None:
    cloud.s3.create_bucket(Bucket=BUCKET)
    (found,) = taken_names(settings, cloud)
    assert found.words.startswith(f"the bucket {BUCKET} is there already")


def test_a_bucket_of_another_account_is_there_too(cloud: Aws, settings: InfraSettings) -> None:
    with Stubber(cloud.s3) as stub:
        stub.add_client_error("head_bucket", "403", "Forbidden", 403)
        for _ in range(2):
            stub.add_client_error("head_bucket", "404", "Not Found", 404)
        (found,) = taken_names(settings, cloud)
    assert "the bucket task-data-bucket-" in found.words


def test_a_stack_that_is_there_has_its_names_and_quotas_already(
    cloud: Aws, settings: InfraSettings, small: Template, console: Console
) -> None:
    assert not has_stack(settings, cloud)
    Stack(settings, cloud, small).apply(console)
    assert has_stack(settings, cloud)
    said = "\n".join(finding.words for finding in preflight.examine(settings, cloud))
    assert "is there already" not in said
    assert "VPCs" not in said


def test_used_up_vpcs_are_named_with_the_quota(cloud: Aws, settings: InfraSettings) -> None:
    assert list(vpcs(settings, cloud)) == []
    # One is there from the beginning.
    for number in range(4):
        cloud.ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")
    (found,) = vpcs(settings, cloud)
    assert found.stops
    assert found.words.startswith("the quota of VPCs (L-F678F1CE) is 5, 5 are there, and the stack takes one: delete")
    assert "/services/vpc/quotas/L-F678F1CE?region=us-east-1" in found.words


@pytest.mark.parametrize(("used", "refused"), [(4, False), (5, True)])
def test_used_up_addresses_are_named_with_the_quota(cloud: Aws, used: int, refused: bool) -> None:
    for _ in range(used):
        cloud.ec2.allocate_address(Domain="vpc")
    with Stubber(cloud.quotas) as stub:
        stub.add_response(
            "get_service_quota", {"Quota": {"Value": 5.0}}, {"ServiceCode": "ec2", "QuotaCode": "L-0263D0A3"}
        )
        found = list(addresses(InfraSettings(), cloud))
    assert [finding.stops for finding in found] == [True] * refused
    assert all("NETWORK_EGRESS=endpoints, which takes none" in finding.words for finding in found)


def test_without_a_nat_gateway_no_address_is_needed(cloud: Aws) -> None:
    with Stubber(cloud.quotas):
        assert list(addresses(InfraSettings(network_egress="endpoints"), cloud)) == []


def test_a_quota_that_cannot_be_read_is_only_a_note_with_what_is_used(cloud: Aws) -> None:
    (found,) = addresses(InfraSettings(), cloud)
    assert not found.stops
    assert found.words.endswith("see that it is more than 0")


@pytest.mark.usefixtures("cloud")
def test_nothing_of_it_hides_the_rest(cloud: Aws, settings: InfraSettings, console: Console) -> None:
    cloud.s3.create_bucket(Bucket=BUCKET)
    changed = settings.model_copy(update={"ssh_key_name": "nokey"})
    with Stubber(cloud.logs) as stub:
        stub.add_client_error("describe_log_groups", "AccessDenied", "may not")
        with pytest.raises(UsageError, match="things missing"):
            preflight.require(changed, cloud, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("SSH_KEY_NAME='nokey'", "log group /aws/eks/reelscan/cluster: may not", "Elastic IP addresses"):
        assert words in said

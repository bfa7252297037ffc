"""What is missing is named before anything is created, all of it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber
from rich.console import Console

from infra import preflight
from infra.session import Aws, Caller
from infra.settings import InfraSettings
from infra.template import CLUSTER, Template
from steps.errors import UsageError

ACCOUNT = "123456789012"


def words(settings: InfraSettings, aws: Aws) -> str:
    return "\n".join(finding.words for finding in preflight.examine(settings, aws) if finding.stops)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of programs, with all that are needed."""
    for name in ("aws", "kubectl", "git", "docker"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("tools")
def test_nothing_is_missing_where_all_is_there(cloud: Aws, settings: InfraSettings) -> None:
    assert words(settings, cloud) == ""


def test_programs_that_are_missing_are_named_with_where_they_come_from(tools: Path, settings: InfraSettings) -> None:
    for name in ("aws", "kubectl", "git", "docker"):
        (tools / name).unlink()
    found = [finding.words for finding in preflight.tools(settings)]
    assert found[0].startswith("the program aws is not on the PATH; install it: https://")
    assert found[1].startswith("the program kubectl is not on the PATH; install it: https://")
    assert found[2].startswith("the program git is not on the PATH; install it: https://")
    assert "install docker or podman or buildah" in found[3]


def test_git_is_needed_only_to_take_argo_from_github(tools: Path) -> None:
    (tools / "git").unlink()
    (found,) = preflight.tools(InfraSettings(argo_workflows_manifests="argo/manifests"))
    assert "the program git" in found.words
    own = InfraSettings(argo_workflows_manifests="argo/manifests", argo_events_manifests="events/manifests")
    assert list(preflight.tools(own)) == []


def test_without_credentials_it_says_how_to_log_in_and_checks_what_needs_none(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tools / "kubectl").unlink()
    found = words(InfraSettings(cluster_stack_name="a-name-too-long-for-buckets"), Aws("us-east-1"))
    assert "the program kubectl" in found
    assert "no AWS credentials" in found
    assert "aws sso login" in found
    assert "allowed are 63" in found


def test_names_of_buckets_longer_than_63_characters_are_refused_with_how_much_too_long() -> None:
    template = Template(CLUSTER)
    fits = "s" * (63 - len(f"task-data-bucket-{ACCOUNT}-us-east-1-"))
    assert list(preflight.names(InfraSettings(cluster_stack_name=fits), ACCOUNT, template)) == []
    (found,) = preflight.names(InfraSettings(cluster_stack_name=f"{fits}x"), ACCOUNT, template)
    assert "64 characters, allowed are 63; take a stack name shorter by 1" in found.words


def test_names_of_queues_longer_than_80_characters_are_refused() -> None:
    longest = InfraSettings.model_construct(**{**InfraSettings().model_dump(), "cluster_stack_name": "s" * 60})
    found = "\n".join(finding.words for finding in preflight.names(longest, ACCOUNT, Template(CLUSTER)))
    assert "task-dead-letter-queue-ssss" in found
    assert "allowed are 80" in found


def test_a_long_name_of_the_cluster_is_refused() -> None:
    (found,) = preflight.names(InfraSettings(cluster_name="c" * 101), ACCOUNT, Template(CLUSTER))
    assert found.words.endswith("101 characters, EKS takes 100")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"log_retention_days": 10}, "LOG_RETENTION_DAYS='10': allowed are 1, 3, 5, 7, 14, 30, "),
        ({"log_retention_days": 1000}, "LOG_RETENTION_DAYS='1000': allowed are 1, 3, 5, 7, 14, 30, "),
        (
            {"endpoint_access": "public", "public_access_cidrs": "203.0.113.0/24"},
            "ENDPOINT_ACCESS='public', PUBLIC_ACCESS_CIDRS='203.0.113.0/24': With ENDPOINT_ACCESS=public the nodes",
        ),
        ({"ssh_key_name": "schlüssel"}, "SSH_KEY_NAME='schlüssel': must be the name of a key pair, or empty"),
        (
            {"accelerator": "gpu", "inference_node_instance_type": "g6.huge"},
            "ACCELERATOR='gpu', INFERENCE_NODE_INSTANCE_TYPE='g6.huge': ACCELERATOR=gpu needs",
        ),
    ],
)
def test_what_the_template_refuses_is_refused_by_the_name_of_the_variable(given: dict[str, Any], words: str) -> None:
    (found,) = preflight.limits(InfraSettings(**given), Template(CLUSTER))
    assert found.stops
    assert found.words.startswith(words)


def test_what_the_template_allows_is_not_refused() -> None:
    allowed = [
        InfraSettings(),
        InfraSettings(accelerator="gpu", spot="true", az_2="us-east-1c"),
        InfraSettings(endpoint_access="public", inference_node_instance_type="c5.large,c5a.large"),
        InfraSettings(network_egress="endpoints", budget_usd_per_month=10, budget_email="me@example.com"),
    ]
    assert [list(preflight.limits(settings, Template(CLUSTER))) for settings in allowed] == [[]] * len(allowed)


@pytest.mark.usefixtures("tools")
def test_that_needs_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "LOG_RETENTION_DAYS='10'" in words(InfraSettings(log_retention_days=10), Aws("us-east-1"))


@pytest.mark.usefixtures("tools")
def test_a_region_that_is_none_is_all_that_is_said_of_it(cloud: Aws) -> None:
    nowhere = Aws("us-east-9")
    assert words(InfraSettings(region="us-east-9"), nowhere).startswith("REGION='us-east-9' is no region with EKS that")
    assert len(preflight.examine(InfraSettings(region="us-east-9"), nowhere)) == 1
    assert list(preflight.region(InfraSettings(), cloud)) == []


def test_a_region_that_has_zones_but_is_not_known_is_only_a_note(cloud: Aws) -> None:
    (found,) = preflight.region(InfraSettings(region="us-east-9"), cloud)
    assert not found.stops


@pytest.mark.parametrize("name", ["iam::123456789012:root", "sts::123456789012:federated-user/me"])
def test_who_cannot_administer_a_cluster_is_told_before_eks_says_so(cloud: Aws, name: str) -> None:
    cloud.caller = Caller(ACCOUNT, f"arn:aws:{name}")  # type: ignore[misc]
    (found,) = preflight.administrator(InfraSettings(), cloud)
    assert found.words.endswith("set USER_ARN to the ARN of a user or a role")
    assert list(preflight.administrator(InfraSettings(user_arn=f"arn:aws:iam::{ACCOUNT}:user/me"), cloud)) == []


def test_a_zone_that_is_not_there_is_named_with_those_that_are(cloud: Aws) -> None:
    (found,) = preflight.zones(InfraSettings(az_0="eu-west-1a"), cloud)
    assert found.words.startswith("AZ_0='eu-west-1a' is no zone of us-east-1; there are us-east-1")


def test_the_zone_without_eks_is_refused(cloud: Aws) -> None:
    zones = cloud.ec2.describe_availability_zones()["AvailabilityZones"]
    name = next(zone["ZoneName"] for zone in zones if zone["ZoneId"] == "use1-az3")
    (found,) = preflight.zones(InfraSettings(az_2=name), cloud)
    assert found.words.startswith(f"AZ_2='{name}' is use1-az3, where EKS is not; take one of ")
    assert name not in found.words.partition("take one of")[2]


@pytest.mark.parametrize(("most", "notes"), [(2, 1), (3, 0)])
def test_fewer_nodes_than_the_bus_has_replicas_are_told(most: int, notes: int) -> None:
    found = list(preflight.room(InfraSettings(node_asg_max=most), Aws("us-east-1")))
    assert [finding.stops for finding in found] == [False] * notes
    assert all("NODE_ASG_MAX=2" in finding.words and "set it to 3 or more" in finding.words for finding in found)


def test_a_version_out_of_standard_support_is_refused_with_those_in_it(cloud: Aws) -> None:
    versions = [
        {"clusterVersion": "1.36", "versionStatus": "STANDARD_SUPPORT"},
        {"clusterVersion": "1.35", "versionStatus": "EXTENDED_SUPPORT"},
    ]
    with Stubber(cloud.eks) as stub:
        stub.add_response("describe_cluster_versions", {"clusterVersions": versions})
        (found,) = preflight.version(InfraSettings(), cloud)
    assert found.words == "KUBERNETES_VERSION='1.35' is extended support; in standard support are 1.36"


def test_everything_is_printed_before_it_ends_with_status_2(
    cloud: Aws, tools: Path, settings: InfraSettings, console: Console
) -> None:
    (tools / "kubectl").unlink()
    changed = settings.model_copy(update={"az_2": "us-east-1x", "node_instance_type": "m5.enormous"})
    with pytest.raises(UsageError, match="4 things missing, nothing was created") as raised:
        preflight.require(changed, cloud, console)
    assert raised.value.exit_status == 2
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("missing  ") == 4
    for what in (
        "program kubectl",
        "AZ_2='us-east-1x'",
        "NODE_INSTANCE_TYPE='m5.enormous'",
        "not offered in us-east-1x",
    ):
        assert what in printed

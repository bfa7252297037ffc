"""`make update-kubeconfig` and EKS, against moto's EKS; by AWS' own program where it is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from infra import kubeconfig
from infra.session import Aws
from infra.settings import InfraSettings
from steps.errors import UsageError

needs_aws = pytest.mark.skipif(shutil.which("aws") is None, reason="AWS' program is not installed")


@pytest.fixture
def cluster(cloud: Aws) -> str:
    role = cloud.iam.create_role(RoleName="eks", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    cloud.eks.create_cluster(name="reelscan", roleArn=role, resourcesVpcConfig={"subnetIds": ["subnet-1", "subnet-2"]})
    cloud.eks.create_nodegroup(clusterName="reelscan", nodegroupName="inference", subnets=["subnet-1"], nodeRole=role)
    return cloud.eks.describe_cluster(name="reelscan")["cluster"]["endpoint"]


@needs_aws
def test_the_cluster_becomes_the_current_context_beside_others(
    cluster: str, settings: InfraSettings, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    other = {"name": "other", "cluster": {"server": "https://other"}}
    file.write_text(
        yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "clusters": [other], "contexts": [], "users": []})
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    kubeconfig.update_kubeconfig(settings, console)
    written = yaml.safe_load(file.read_text())
    assert written["current-context"] == "reelscan"
    assert [found["cluster"]["server"] for found in written["clusters"]] == ["https://other", cluster]
    exec_section = written["users"][0]["user"]["exec"]
    assert exec_section["command"] == "aws"
    assert exec_section["args"][-3:] == ["reelscan", "--output", "json"]
    assert "kubectl get nodes" in console.file.getvalue()  # type: ignore[attr-defined]


@needs_aws
@pytest.mark.usefixtures("cluster")
def test_once_more_changes_nothing(
    settings: InfraSettings, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    kubeconfig.update_kubeconfig(settings, console)
    once = (tmp_path / "config").read_text()
    kubeconfig.update_kubeconfig(settings, console)
    assert (tmp_path / "config").read_text() == once


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_is_not_there_is_told_with_those_that_are(settings: InfraSettings, cloud: Aws) -> None:
    with pytest.raises(UsageError, match="CLUSTER_NAME='clips': us-east-1 has no such EKS cluster; there are reelscan"):
        kubeconfig.require_cluster(settings.model_copy(update={"cluster_name": "clips"}), cloud)


def test_where_there_is_none_it_says_so(settings: InfraSettings, cloud: Aws) -> None:
    with pytest.raises(UsageError, match="there is none: `make create-cluster`, or set REGION"):
        kubeconfig.require_cluster(settings, cloud)


@pytest.mark.usefixtures("cluster")
def test_without_aws_program_it_says_where_it_comes_from(
    settings: InfraSettings, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="the program aws is not on the PATH; install it: https://"):
        kubeconfig.update_kubeconfig(settings, console)

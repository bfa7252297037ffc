"""`make delete-cluster`: nothing is left, nothing else is touched, and it is asked before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from botocore.stub import Stubber
from rich.console import Console

from infra import cleanup, draining
from infra.role import apply_role
from infra.session import Aws
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import Template
from steps.errors import OutsideError, TimeLimitError, UsageError
from tests.infra.programs.conftest import write_program

KUBECTL = """\
import json, pathlib, sys
here = pathlib.Path(__file__).parent
state = json.loads((here / "state.json").read_text())
words = [word for word in sys.argv[1:] if not word.startswith("--")]
with (here / "calls.txt").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if state.get("unreachable"):
    sys.exit("Unable to connect to the server")
if words[0] == "get":
    if words[1] not in state:
        sys.exit('error: the server doesn\\'t have a resource type "' + words[1] + '"')
    print(json.dumps({"items": state[words[1]]}))
elif "delete" in words:
    namespace, _, kind, *names = words
    state[kind] = [item for item in state[kind] if item["metadata"]["name"] not in names]
    if kind == "persistentvolumeclaims":
        state["persistentvolumes"] = [
            volume for volume in state["persistentvolumes"] if volume["spec"]["claimRef"]["name"] not in names
        ]
    (here / "state.json").write_text(json.dumps(state))
"""


def item(name: str, namespace: str = "video", **spec: object) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


class FakeCluster:
    """A kubectl that works on a file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        write_program(folder / "kubectl", KUBECTL)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        self.set(
            **{
                "workflows.argoproj.io": [],
                "eventsources.argoproj.io": [item("reelscan")],
                "sensors.argoproj.io": [item("reelscan")],
                "eventbus.argoproj.io": [item("default")],
                "services": [item("ui", "argo", type="LoadBalancer"), item("kubernetes", "default", type="ClusterIP")],
                "persistentvolumeclaims": [item("bus-0"), item("bus-1")],
                "persistentvolumes": [
                    item(f"pv-{n}", persistentVolumeReclaimPolicy="Delete", claimRef={"name": f"bus-{n}"})
                    for n in (0, 1)
                ]
                + [item("kept", persistentVolumeReclaimPolicy="Retain", claimRef={"name": "other"})],
            }
        )

    def set(self, **state: object) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    @property
    def state(self) -> dict[str, list[dict[str, dict[str, str]]]]:
        found: dict[str, list[dict[str, dict[str, str]]]] = json.loads((self.folder / "state.json").read_text())
        return found

    def names(self, kind: str) -> list[str]:
        return [found["metadata"]["name"] for found in self.state[kind]]

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls.txt").read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.setattr(draining, "POLL_SECONDS", 0.01)
    return FakeCluster(tmp_path, monkeypatch)


def text(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_versioned_bucket_is_emptied_of_versions_markers_and_uploads(cloud: Aws, console: Console) -> None:
    cloud.s3.create_bucket(Bucket="videos")
    cloud.s3.put_bucket_versioning(Bucket="videos", VersioningConfiguration={"Status": "Enabled"})
    for key in ("a b.mp4", "a b.mp4", "c'd.mp4"):
        cloud.s3.put_object(Bucket="videos", Key=key, Body=b"x")
    cloud.s3.delete_object(Bucket="videos", Key="c'd.mp4")
    cloud.s3.create_multipart_upload(Bucket="videos", Key="half.mp4")
    assert cleanup.empty_bucket(cloud, "videos", console) == 4
    assert not cloud.s3.list_multipart_uploads(Bucket="videos").get("Uploads")
    cloud.s3.delete_bucket(Bucket="videos")


def test_more_objects_than_a_request_takes_are_all_deleted(
    cloud: Aws, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "_BATCH", 3)
    cloud.s3.create_bucket(Bucket="videos")
    for number in range(10):
        cloud.s3.put_object(Bucket="videos", Key=str(number), Body=b"x")
    assert cleanup.empty_bucket(cloud, "videos", console) == 10
    assert cloud.s3.list_objects_v2(Bucket="videos")["KeyCount"] == 0


def test_a_bucket_that_is_gone_already_is_no_error(cloud: Aws, console: Console) -> None:
    assert cleanup.empty_bucket(cloud, "never-was", console) == 0


def test_the_whole_stack_goes_with_what_is_in_its_buckets(
    cloud: Aws, small: Template, settings: InfraSettings, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(settings, cloud, small)
    stack.apply(console)
    bucket = "results-bucket-123456789012-us-east-1-reelscan"
    assert bucket in stack.buckets()
    cloud.s3.put_object(Bucket=bucket, Key="reelscan/summary.json", Body=b"{}")
    cloud.s3.create_bucket(Bucket="of-others")
    monkeypatch.setattr(cleanup, "CLUSTER", small.path)
    cleanup.delete_cluster(settings.model_copy(update={"confirm": "reelscan"}), console)
    assert stack.find() is None
    assert [found["Name"] for found in cloud.s3.list_buckets()["Buckets"]] == ["of-others"]
    assert "QueueUrls" not in cloud.sqs.list_queues()
    assert f"emptied     {bucket}: 1 versions" in text(console)
    assert "nothing is left that carries a tag" in text(console)


def test_once_more_is_no_error(cloud: Aws, settings: InfraSettings, console: Console) -> None:
    cleanup.delete_cluster(settings, console)
    assert "there is no stack reelscan in us-east-1" in text(console)


@pytest.mark.parametrize("given", ["", "reelscam"])
def test_nothing_is_deleted_without_the_stack_s_name(
    given: str, cloud: Aws, small: Template, settings: InfraSettings, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stack(settings, cloud, small).apply(console)
    monkeypatch.setattr(cleanup, "CLUSTER", small.path)
    with pytest.raises(UsageError, match="nothing was deleted; give the stack's name, CONFIRM=reelscan"):
        cleanup.delete_cluster(settings.model_copy(update={"confirm": given}), console)
    assert Stack(settings, cloud, small).find() is not None


def test_what_carries_a_tag_of_the_stack_or_its_cluster_is_found(cloud: Aws, settings: InfraSettings) -> None:
    def volume(*tags: tuple[str, str]) -> str:
        pairs = [{"Key": key, "Value": value} for key, value in tags]
        return cloud.ec2.create_volume(
            AvailabilityZone="us-east-1a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": pairs}]
        )["VolumeId"]  # type: ignore[typeddict-item]

    ours = {
        volume(("reelscan-stack", "reelscan")),
        volume(("kubernetes.io/cluster/reelscan", "owned")),
        volume(("KubernetesCluster", "reelscan")),
    }
    volume(("reelscan-stack", "another"))
    volume(("kubernetes.io/cluster/another", "owned"))
    found = cleanup.leftovers(settings, cloud)
    assert {left.arn.rpartition("/")[2] for left in found} == ours
    assert all("delete it by hand" in left.note for left in found)


def test_the_role_that_stays_is_not_left_over(cloud: Aws, settings: InfraSettings) -> None:
    """In us-east-1 AWS finds by tag what belongs to no region."""
    applied = apply_role(settings, cloud)
    policies = [item["Arn"] for item in cloud.iam.list_policies(Scope="Local")["Policies"]]
    assert len(policies) > 1
    left = "arn:aws:iam::123456789012:role/reelscan-SourceRole-1"
    found = [{"ResourceARN": arn} for arn in (applied.arn, *policies, left)]
    with Stubber(cloud.tagging) as stub:
        stub.add_response("get_resources", {"ResourceTagMappingList": found})
        for _ in range(3):
            stub.add_response("get_resources", {"ResourceTagMappingList": []})
        assert [leftover.arn for leftover in cleanup.leftovers(settings, cloud)] == [left]


LOGS = "/aws/eks/reelscan/cluster"


def groups(cloud: Aws) -> list[str]:
    return [group["logGroupName"] for group in cloud.logs.describe_log_groups()["logGroups"]]


def test_logs_that_come_late_are_deleted_after_the_stack(
    cloud: Aws, small: Template, settings: InfraSettings, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stack(settings, cloud, small).apply(console)
    for name in (LOGS, f"{LOGS}-of-another"):
        cloud.logs.create_log_group(logGroupName=name)
    monkeypatch.setattr(cleanup, "CLUSTER", small.path)
    cleanup.delete_cluster(settings.model_copy(update={"confirm": "reelscan"}), console)
    assert groups(cloud) == [f"{LOGS}-of-another"]
    assert f"deleted     log group {LOGS}" in text(console)


def test_logs_that_came_later_still_go_with_the_next_call_if_it_is_confirmed(
    cloud: Aws, settings: InfraSettings, console: Console
) -> None:
    cloud.logs.create_log_group(logGroupName=LOGS)
    with pytest.raises(UsageError, match="nothing was deleted"):
        cleanup.delete_cluster(settings, console)
    cleanup.delete_cluster(settings.model_copy(update={"confirm": "reelscan"}), console)
    assert groups(cloud) == []


@pytest.mark.usefixtures("inference_group")
def test_logs_of_a_cluster_that_is_there_are_not_touched(cloud: Aws, settings: InfraSettings, console: Console) -> None:
    cloud.logs.create_log_group(logGroupName=LOGS)
    cleanup.delete_cluster(settings.model_copy(update={"confirm": "reelscan"}), console)
    assert groups(cloud) == [LOGS]


def test_volumes_and_load_balancers_go_before_the_cluster(
    cluster: FakeCluster, console: Console, tmp_path: Path
) -> None:
    draining.Cluster(tmp_path / "kubeconfig").drain(console)
    assert cluster.names("services") == ["kubernetes"]
    assert cluster.names("persistentvolumeclaims") == []
    assert cluster.names("persistentvolumes") == ["kept"]
    assert "1 load balancers, 2 volumes" in text(console)


def test_what_uses_the_volumes_goes_before_them(cluster: FakeCluster, console: Console, tmp_path: Path) -> None:
    draining.Cluster(tmp_path / "kubeconfig").drain(console)
    deleted = [call[call.index("delete") + 1] for call in cluster.calls if "delete" in call]
    assert deleted == [
        "eventsources.argoproj.io", "sensors.argoproj.io", "eventbus.argoproj.io", "services", "persistentvolumeclaims",
    ]  # fmt: skip


def test_only_the_cluster_of_its_own_kubeconfig_is_touched(
    cluster: FakeCluster, console: Console, tmp_path: Path
) -> None:
    draining.Cluster(tmp_path / "of its own").drain(console)
    assert all(f"--kubeconfig={tmp_path}/of its own" in call for call in cluster.calls)


def test_runs_that_are_not_accounted_for_stop_it(cluster: FakeCluster, console: Console, tmp_path: Path) -> None:
    run = {"metadata": {"name": "task-1", "namespace": "video", "finalizers": ["reelscan.dev/accounted"]}}
    cluster.set(**{**cluster.state, "workflows.argoproj.io": [run]})
    with pytest.raises(
        UsageError, match="1 runs in video are not accounted for, such as task-1: `make undeploy SETTINGS=FILE`"
    ):
        draining.Cluster(tmp_path / "kubeconfig").drain(console)
    assert cluster.names("persistentvolumeclaims") == ["bus-0", "bus-1"]


def test_a_cluster_without_argo_is_drained_too(cluster: FakeCluster, console: Console, tmp_path: Path) -> None:
    cluster.set(**{kind: items for kind, items in cluster.state.items() if "argoproj" not in kind})
    draining.Cluster(tmp_path / "kubeconfig").drain(console)
    assert cluster.names("persistentvolumeclaims") == []


def test_a_volume_that_stays_is_named(
    cluster: FakeCluster, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "LIMIT_SECONDS", 1.0)
    stuck = item("pv-9", persistentVolumeReclaimPolicy="Delete", claimRef={"name": "of-another"})
    cluster.set(**{**cluster.state, "persistentvolumes": [stuck]})
    with pytest.raises(TimeLimitError, match="there are still volume pv-9 of of-another"):
        draining.Cluster(tmp_path / "kubeconfig").drain(console)


def test_a_cluster_that_does_not_answer_stops_it_unless_told_otherwise(
    cloud: Aws, cluster: FakeCluster, settings: InfraSettings, console: Console, tmp_path: Path
) -> None:
    role = cloud.iam.create_role(RoleName="eks", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    cloud.eks.create_cluster(name="reelscan", roleArn=role, resourcesVpcConfig={"subnetIds": ["subnet-1", "subnet-2"]})
    (tmp_path / "aws").write_text("#!/bin/sh\n")
    (tmp_path / "aws").chmod(0o755)
    cluster.set(unreachable=True)
    with pytest.raises(OutsideError, match="set DELETE_UNREACHABLE=true"):
        cleanup._drain(settings, cloud, console)
    cleanup._drain(settings.model_copy(update={"delete_unreachable": "true"}), cloud, console)
    assert "note: kubectl" in text(console)

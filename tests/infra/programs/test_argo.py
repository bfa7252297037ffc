"""`make install-argo`: what is laid over Argo's own manifests, and what is installed beside it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from infra import install_argo, rendering
from infra.rendering import HERE, RELEASES, Place, kustomizations, load, namespaces, render, with_mirror
from infra.session import Aws
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template
from steps.errors import UsageError
from tests.infra.programs.conftest import write_program
from tests.kubernetes.validation import validate
from workflows import WorkflowSettings, objects

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
PLACE = Place(
    "clips",
    "eu-west-1",
    "reelscan",
    "films",
    "s3://artifacts-bucket/artifacts",
    "https://console.aws.amazon.com/cloudwatch/home",
)
# As in Argo's releases, what is changed of them alone.
WORKFLOWS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: workflow-controller-configmap, namespace: argo}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: workflow-controller, namespace: argo}
spec:
  selector: {matchLabels: {app: workflow-controller}}
  template:
    metadata: {labels: {app: workflow-controller}}
    spec:
      nodeSelector: {kubernetes.io/os: linux}
      containers:
      - name: workflow-controller
        image: quay.io/argoproj/workflow-controller:latest
        command: [workflow-controller]
        args: []
        env:
        - {name: LEADER_ELECTION_IDENTITY, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        ports: [{name: metrics, containerPort: 9090}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: argo-server, namespace: argo}
spec:
  selector: {matchLabels: {app: argo-server}}
  template:
    metadata: {labels: {app: argo-server}}
    spec:
      nodeSelector: {kubernetes.io/os: linux}
      containers:
      - {name: argo-server, image: "quay.io/argoproj/argocli:latest", args: [server]}
"""
EVENTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: argo-events-controller-config, namespace: argo-events}
data:
  controller-config.yaml: |
    eventBus:
      jetstream:
        versions:
        - version: 2.10.10
          natsImage: nats:2.10.10
          metricsExporterImage: natsio/prometheus-nats-exporter:0.14.0
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller-manager, namespace: argo-events}
spec:
  selector: {matchLabels: {app: controller-manager}}
  template:
    metadata: {labels: {app: controller-manager}}
    spec:
      containers:
      - name: controller-manager
        image: quay.io/argoproj/argo-events:latest
        imagePullPolicy: Always
        env:
        - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: ARGO_EVENTS_IMAGE, value: "quay.io/argoproj/argo-events:latest"}
"""


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of manifests: those of INFRA_ARGO_..._MANIFESTS if they are set, else the parts of them above."""
    found = {}
    for kind, text in (("workflows", WORKFLOWS), ("events", EVENTS)):
        folder = tmp_path_factory.mktemp(f"argo {kind}")
        (folder / "all.yaml").write_text(text)
        (folder / "kustomization.yaml").write_text("resources: [all.yaml]\n")
        found[f"argo_{kind}_manifests"] = os.environ.get(f"INFRA_ARGO_{kind.upper()}_MANIFESTS", str(folder))
    return found


def rendered(
    folder: Path, releases: dict[str, str], place: Place | None = PLACE, **given: Any
) -> dict[tuple[str, str], Any]:
    """By kind and name."""
    settings = InfraSettings(**releases, **given)
    documents = [item for file in render(settings, place, folder).values() for item in load(file.read_text())]
    return {(item["kind"], item["metadata"]["name"]): item for item in documents}


def container(deployment: Any) -> Any:
    return deployment["spec"]["template"]["spec"]["containers"][0]


@needs_kubectl
def test_what_is_rendered_is_what_an_api_server_takes(tmp_path: Path, releases: dict[str, str]) -> None:
    for (kind, name), document in rendered(
        tmp_path, releases, accelerator="gpu", argo_archive_host="db.example"
    ).items():
        problems = [problem for problem in validate(document) if "is no kind that is known here" not in problem]
        assert problems == [], (kind, name)


@needs_kubectl
def test_versions_are_pinned_those_of_pods_that_argo_makes_too(tmp_path: Path, releases: dict[str, str]) -> None:
    found = rendered(
        tmp_path, releases, argo_workflows_version="v4.0.3", argo_events_version="v1.9.10", accelerator="gpu"
    )
    controller = container(found["Deployment", "workflow-controller"])
    assert controller["image"] == "quay.io/argoproj/workflow-controller:v4.0.3"
    assert controller["args"] == ["--executor-image", "quay.io/argoproj/argoexec:v4.0.3"]
    assert container(found["Deployment", "argo-server"])["image"] == "quay.io/argoproj/argocli:v4.0.3"
    events = container(found["Deployment", "controller-manager"])
    assert events["image"] == "quay.io/argoproj/argo-events:v1.9.10"
    assert {"name": "ARGO_EVENTS_IMAGE", "value": events["image"]} in events["env"]
    for document in found.values():
        if document["kind"] in ("Deployment", "DaemonSet"):
            assert re.search(r":v\d+\.\d+\.\d+$", container(document)["image"])


@needs_kubectl
def test_the_controller_requeues_fast_and_keeps_what_it_had(tmp_path: Path, releases: dict[str, str]) -> None:
    environment = container(rendered(tmp_path, releases)["Deployment", "workflow-controller"])["env"]
    assert {"name": "DEFAULT_REQUEUE_TIME", "value": "1s"} in environment
    assert "LEADER_ELECTION_IDENTITY" in [variable["name"] for variable in environment]


@needs_kubectl
def test_the_controller_s_configuration_has_artifacts_metrics_columns_and_links(
    tmp_path: Path, releases: dict[str, str]
) -> None:
    found = rendered(tmp_path, releases)
    data = {
        key: yaml.safe_load(value) for key, value in found["ConfigMap", "workflow-controller-configmap"]["data"].items()
    }
    repository = data["artifactRepository"]["s3"]
    assert repository["useSDKCreds"] is True
    assert "accessKeySecret" not in repository
    assert (repository["bucket"], repository["region"]) == ("artifacts-bucket", "eu-west-1")
    assert data["metricsConfig"]["enabled"] is True
    assert found["Service", "workflow-controller-metrics"]["spec"]["ports"][0]["port"] == data["metricsConfig"]["port"]
    assert "reelscan.dev/workflow" in [column["key"] for column in data["columns"]]
    links = {link["scope"]: link["url"] for link in data["links"]}
    assert links["workflow"].endswith("prefix=artifacts/${metadata.name}/")
    assert links["pod"] == links["pod-logs"]
    assert links["pod"].endswith("prefix=artifacts/${workflow.metadata.name}/${metadata.name}/")
    assert "persistence" not in data


def test_links_lead_to_where_the_workflow_puts_its_artifacts() -> None:
    settings = WorkflowSettings(artifacts=PLACE.artifacts, aws_region=PLACE.region)
    (repository,) = [
        yaml.safe_load(text)["s3"]
        for item in objects(settings)
        if item["kind"] == "ConfigMap"
        for text in item["data"].values()
        if "keyFormat" in text
    ]
    ours = rendering._artifact_repository(PLACE)["s3"]
    assert {key: repository[key] for key in ours} == ours


@needs_kubectl
def test_the_archive_is_a_choice(tmp_path: Path, releases: dict[str, str]) -> None:
    found = rendered(tmp_path, releases, argo_archive_host="db.example")
    persistence = yaml.safe_load(found["ConfigMap", "workflow-controller-configmap"]["data"]["persistence"])
    assert persistence["archive"] is True
    assert persistence["postgresql"]["host"] == "db.example"
    assert persistence["postgresql"]["sslMode"] == "require"


@needs_kubectl
def test_the_autoscaler_is_the_cluster_s_and_spares_what_may_not_be_evicted(
    tmp_path: Path, releases: dict[str, str]
) -> None:
    found = container(rendered(tmp_path, releases)["Deployment", "cluster-autoscaler"])
    tags = "k8s.io/cluster-autoscaler/enabled,k8s.io/cluster-autoscaler/clips"
    assert f"--node-group-auto-discovery=asg:tag={tags}" in found["args"]
    assert found["env"] == [{"name": "AWS_REGION", "value": "eu-west-1"}]
    assert any(argument.startswith("--expander=priority") for argument in found["args"])
    # It would end pods that say that they may not be ended.
    assert not any("ignore" in argument or "safe-to-evict" in argument for argument in found["args"])
    template = next(item for item in objects(WorkflowSettings()) if item["kind"] == "WorkflowTemplate")
    assert '"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"' in yaml.safe_dump(
        template, default_style='"', width=1000
    )


def test_the_autoscaler_is_of_the_version_of_kubernetes() -> None:
    assert rendering.autoscaler_minor() == InfraSettings().kubernetes_version


def test_the_autoscaler_reads_no_secrets_and_makes_no_pods() -> None:
    for document in yaml.safe_load_all((HERE / "autoscaler/accounts.yaml").read_text()):
        for rule in document.get("rules", []):
            assert not {"secrets", "*"} & {*rule["resources"], *rule["verbs"], *rule["apiGroups"]}
            if "pods" in rule["resources"]:
                assert set(rule["verbs"]) == {"get", "list", "watch"}


def test_accounts_with_rights_on_aws_are_those_of_the_template() -> None:
    accounts = {
        (found["Namespace"], found["ServiceAccount"])
        for resource in Template(CLUSTER).resources.values()
        if resource["Type"] == "AWS::EKS::PodIdentityAssociation"
        and isinstance((found := resource["Properties"])["Namespace"], str)
    }
    assert accounts == {("kube-system", "cluster-autoscaler"), ("argo", "argo-server")}
    autoscaler = yaml.safe_load((HERE / "autoscaler/autoscaler.yaml").read_text())
    assert autoscaler["spec"]["template"]["spec"]["serviceAccountName"] == "cluster-autoscaler"


@needs_kubectl
def test_gpus_are_told_of_on_inference_nodes_if_there_are_any(tmp_path: Path, releases: dict[str, str]) -> None:
    assert ("DaemonSet", "nvidia-device-plugin") not in rendered(tmp_path / "cpu", releases)
    pod = rendered(tmp_path / "gpu", releases, accelerator="gpu")["DaemonSet", "nvidia-device-plugin"]["spec"][
        "template"
    ]["spec"]
    assert pod["nodeSelector"] == {"inference": "true"}
    assert {"key": "inference", "value": "true", "effect": "NoSchedule"} in pod["tolerations"]


@needs_kubectl
def test_the_storage_class_is_the_one_that_the_bus_asks_for(tmp_path: Path, releases: dict[str, str]) -> None:
    overlay = yaml.safe_load((HERE.parent / "events/overlays/aws/kustomization.yaml").read_text())
    bus = next(yaml.safe_load(item["patch"]) for item in overlay["patches"] if "EventBus" in item["patch"])
    name = bus["spec"]["jetstream"]["persistence"]["storageClassName"]
    found = rendered(tmp_path, releases)["StorageClass", name]
    assert found["parameters"] == {"type": "gp3", "encrypted": "true"}
    assert found["reclaimPolicy"] == "Delete"


def test_without_folders_the_manifests_come_from_the_tag(tmp_path: Path) -> None:
    made = kustomizations(InfraSettings(argo_workflows_version="v4.1.2"), PLACE, tmp_path)
    assert made["argo-workflows"]["resources"] == [
        "https://github.com/argoproj/argo-workflows//manifests/cluster-install?ref=v4.1.2"
    ]
    assert made["argo-events"]["resources"] == [RELEASES["events"].format(version="v1.9.9")]


def test_a_folder_that_has_no_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ARGO_EVENTS_MANIFESTS='.*': is no folder with a kustomization.yaml"):
        kustomizations(InfraSettings(argo_events_manifests=str(tmp_path)), PLACE, tmp_path / "out")


@needs_kubectl
def test_a_cluster_of_ones_own_gets_argo_alone_on_any_node(tmp_path: Path, releases: dict[str, str]) -> None:
    found = rendered(tmp_path, releases, place=None)
    assert {kind for kind, _ in found} & {"StorageClass", "DaemonSet"} == set()
    assert ("Deployment", "cluster-autoscaler") not in found
    for name in ("workflow-controller", "argo-server", "controller-manager"):
        assert "inference" not in found["Deployment", name]["spec"]["template"]["spec"].get("nodeSelector", {})
    assert "links" not in found["ConfigMap", "workflow-controller-configmap"]["data"]


@needs_kubectl
def test_nodes_without_the_internet_take_every_image_from_the_mirror(tmp_path: Path, releases: dict[str, str]) -> None:
    mirror = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mirror"
    found = rendered(tmp_path, releases, image_mirror=mirror, accelerator="gpu")
    for document in found.values():
        if document["kind"] in ("Deployment", "DaemonSet"):
            assert container(document)["image"].startswith(f"{mirror}/")
    assert container(found["Deployment", "workflow-controller"])["args"][1].startswith(
        f"{mirror}/quay.io/argoproj/argoexec:"
    )
    bus = found["ConfigMap", "argo-events-controller-config"]["data"]["controller-config.yaml"]
    assert f"natsImage: {mirror}/docker.io/library/nats:2.10.10" in bus
    assert f"metricsExporterImage: {mirror}/docker.io/natsio/prometheus-nats-exporter:0.14.0" in bus


def test_without_a_mirror_nothing_is_changed() -> None:
    assert with_mirror({"image": "quay.io/x:1"}, "") == {"image": "quay.io/x:1"}


KUBECTL = """\
import os, pathlib, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
if "kustomize" in words:
    os.execv({kubectl!r}, ["kubectl", *words])
with (here / "calls.txt").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
if "--context=nowhere" in words:
    sys.exit('error: context "nowhere" does not exist')
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What kubectl is called with, which only renders."""
    write_program(tmp_path / "kubectl", KUBECTL.format(kubectl=shutil.which("kubectl")))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(install_argo, "FOLDER", tmp_path / "out")
    return tmp_path / "calls.txt"


@needs_kubectl
def test_everything_is_applied_by_the_server_in_order_and_waited_for(
    calls: Path,
    releases: dict[str, str],
    cloud: Aws,
    small: Template,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = InfraSettings(**releases)
    Stack(settings, cloud, small).apply(console)
    monkeypatch.setattr(install_argo, "CLUSTER", small.path)
    install_argo.install_argo(settings, console)
    lines = calls.read_text().splitlines()
    assert all(line.startswith("--context=reelscan ") for line in lines)
    applied = [line for line in lines if " apply " in line]
    assert all("--server-side" in line for line in applied)
    files = ["namespaces", "storage", "argo-workflows", "argo-events", "autoscaler"]
    assert [Path(line.rpartition("=")[2]).stem for line in applied] == files
    waited = [re.search(r"(\S+/\S+) --timeout", line) for line in lines if "rollout status" in line]
    assert [found[1] for found in waited if found] == [
        "deployment/argo-server", "deployment/workflow-controller", "deployment/controller-manager",
        "deployment/cluster-autoscaler",
    ]  # fmt: skip


def test_the_namespaces_are_those_of_the_stack_and_of_argo_alone_without_one() -> None:
    made = [document["metadata"]["name"] for document in namespaces(PLACE)]
    assert made == ["argo", "argo-events", "films", "films-reconciler"]
    assert [document["metadata"]["name"] for document in namespaces(None)] == ["argo", "argo-events"]


@needs_kubectl
def test_a_context_that_is_not_there_is_told(calls: Path, console: Console) -> None:
    with pytest.raises(UsageError, match="kubectl has no context 'nowhere'"):
        install_argo.install_argo(InfraSettings(kube_context="nowhere"), console)
    assert " apply " not in calls.read_text()


def test_no_path_of_one_machine_stands_in_what_is_installed() -> None:
    for file in [*HERE.rglob("*.yaml"), *HERE.rglob("*.py"), *HERE.rglob("*.mk")]:
        assert "test-cluster" not in file.read_text(), file

"""The manifests of Argo and what runs beside it, rendered by kustomize over those of their releases."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.command import need, run
from infra.outputs import reconciler_namespace
from infra.preflight import TOOLS
from infra.settings import InfraSettings
from steps.errors import UsageError

HERE = Path(__file__).parent
RELEASES = {
    "workflows": "https://github.com/argoproj/argo-workflows//manifests/cluster-install?ref={version}",
    "events": "https://github.com/argoproj/argo-events//manifests/cluster-install?ref={version}",
}
_CONFIG = "workflow-controller-configmap"
_KUSTOMIZATION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_MINOR = re.compile(r"v(\d+\.\d+)\.")


@dataclass(frozen=True)
class Place:
    """What differs from cluster to cluster; without a stack nothing of it is known.

    Attributes:
        cluster: name of the EKS cluster.
        region: its region.
        stack: name of its stack.
        namespace: that Reelscan is deployed to.
        artifacts: s3://BUCKET/PREFIX.
        dashboard: URL of the dashboard.
    """

    cluster: str
    region: str
    stack: str
    namespace: str
    artifacts: str
    dashboard: str

    @property
    def bucket(self) -> str:
        """Of the artifacts."""
        return self.artifacts.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """Of the artifacts, below which each run has a folder."""
        return self.artifacts.removeprefix("s3://").partition("/")[2].strip("/")


def kustomizations(settings: InfraSettings, place: Place | None, folder: Path) -> dict[str, dict[str, Any]]:
    """Kustomizations by name, in the order in which they are applied; they are to lie in `folder`/NAME.

    Raises:
        UsageError: a folder of manifests is none.
    """
    made = {} if place is None else {"storage": _own("storage", folder)}
    made["argo-workflows"] = _workflows(settings, place, folder / "argo-workflows")
    made["argo-events"] = _events(settings, place, folder / "argo-events")
    if place is not None:
        made["autoscaler"] = _autoscaler(place, folder)
        if settings.accelerator == "gpu":
            made["gpu"] = _own("gpu", folder)
    return made


def namespaces(place: Place | None) -> list[dict[str, Any]]:
    """Namespaces that must be there before anything else; a deployment's where there is a stack."""
    of_deployment = [] if place is None else [place.namespace, reconciler_namespace(place.namespace)]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in ("argo", "argo-events", *of_deployment)
    ]


def render(settings: InfraSettings, place: Place | None, folder: Path) -> dict[str, Path]:
    """Write everything below a folder, which can be looked at or kept; gives the files to apply, in order."""
    kubectl = need("kubectl", TOOLS["kubectl"])
    files = {}
    for name, content in kustomizations(settings, place, folder).items():
        where = folder / name
        where.mkdir(parents=True, exist_ok=True)
        (where / "kustomization.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        if any(str(resource).startswith("https://") for resource in content["resources"]):
            need("git", f"{TOOLS['git']}; kustomize takes Argo's release by it")
        text = run([kubectl, "kustomize", str(where)])
        if settings.image_mirror:
            documents = [with_mirror(document, settings.image_mirror) for document in load(text)]
            text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=10_000)
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(text)
    return files


def load(text: str) -> Iterator[Any]:
    """Documents of a text, which may have ten megabytes of definitions."""
    yield from yaml.load_all(text, Loader=_Loader)


def _own(name: str, folder: Path) -> dict[str, Any]:
    return {**_KUSTOMIZATION, "resources": [os.path.relpath(HERE / name, folder / name)]}


def _release(kind: str, version: str, manifests: str, setting: str, folder: Path) -> str:
    if not manifests:
        return RELEASES[kind].format(version=version)
    path = Path(manifests).expanduser()
    if not (path / "kustomization.yaml").is_file():
        raise UsageError(
            f"{setting}={manifests!r}: is no folder with a kustomization.yaml, such as manifests/cluster-install"
        )
    # kustomize takes no absolute path.
    return os.path.relpath(path.resolve(), folder.resolve())


def _component(name: str, folder: Path) -> str:
    return os.path.relpath(HERE / "argo" / name, folder)


def _workflows(settings: InfraSettings, place: Place | None, folder: Path) -> dict[str, Any]:
    version = settings.argo_workflows_version
    source = _release("workflows", version, settings.argo_workflows_manifests, "ARGO_WORKFLOWS_MANIFESTS", folder)
    executor = with_mirror(f"quay.io/argoproj/argoexec:{version}", settings.image_mirror)
    patches = [
        # With its version, and from the mirror: the controller composes it where it is not told.
        _change(
            "Deployment", "workflow-controller", "/spec/template/spec/containers/0/args", ["--executor-image", executor]
        ),
    ]
    if place is None:
        patches += _anywhere("workflow-controller", "argo-server")
    else:
        data = {
            "artifactRepository": yaml.safe_dump(_artifact_repository(place), sort_keys=False),
            "links": yaml.safe_dump(_links(place), sort_keys=False),
        }
        patches.append(_merge(_CONFIG, data))
    components = [_component("workflows", folder)]
    if settings.argo_archive_host:
        components.append(_component("archive", folder))
        text = yaml.safe_load((HERE / "argo/archive/config.yaml").read_text())["data"]["persistence"]
        patches.append(_merge(_CONFIG, {"persistence": text.replace("HOST", settings.argo_archive_host)}))
    return {
        **_KUSTOMIZATION,
        "namespace": "argo",
        "resources": [source],
        "components": components,
        "images": [
            {"name": f"quay.io/argoproj/{image}", "newTag": version} for image in ("workflow-controller", "argocli")
        ],
        "patches": patches,
    }


def _events(settings: InfraSettings, place: Place | None, folder: Path) -> dict[str, Any]:
    version = settings.argo_events_version
    source = _release("events", version, settings.argo_events_manifests, "ARGO_EVENTS_MANIFESTS", folder)
    image = f"quay.io/argoproj/argo-events:{version}"
    container = {"name": "controller-manager", "env": [{"name": "ARGO_EVENTS_IMAGE", "value": image}]}
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "controller-manager", "namespace": "argo-events"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    return {
        **_KUSTOMIZATION,
        "namespace": "argo-events",
        "resources": [source],
        "components": [_component("events", folder)],
        "images": [{"name": "quay.io/argoproj/argo-events", "newTag": version}],
        # That of the pods which the controller makes.
        "patches": [{"patch": yaml.safe_dump(patch)}, *([] if place else _anywhere("controller-manager"))],
    }


def _autoscaler(place: Place, folder: Path) -> dict[str, Any]:
    pod = yaml.safe_load((HERE / "autoscaler/autoscaler.yaml").read_text())["spec"]["template"]["spec"]
    container = pod["containers"][0]
    args = [text.replace("CLUSTER", place.cluster) for text in container["args"]]
    path = "/spec/template/spec/containers/0"
    return {
        **_own("autoscaler", folder),
        "patches": [
            _change("Deployment", "cluster-autoscaler", f"{path}/args", args),
            _change("Deployment", "cluster-autoscaler", f"{path}/env/0/value", place.region),
        ],
    }


def autoscaler_minor() -> str:
    """The version of Kubernetes for which the autoscaler is."""
    found = _MINOR.search((HERE / "autoscaler/autoscaler.yaml").read_text())
    assert found is not None
    return found[1]


def _artifact_repository(place: Place) -> dict[str, Any]:
    """Of Workflows that name none. The rights are those of the pods' account, by Pod Identity."""
    return {
        "s3": {
            "bucket": place.bucket,
            "region": place.region,
            "endpoint": "s3.amazonaws.com",
            "useSDKCreds": True,
            "keyFormat": f"{place.prefix}/{{{{workflow.name}}}}/{{{{pod.name}}}}",
        }
    }


def _links(place: Place) -> list[dict[str, str]]:
    """Buttons of the UI, which puts the run's or the pod's name for `${...}`."""
    s3 = f"https://{place.region}.console.aws.amazon.com/s3/buckets/{place.bucket}?region={place.region}&prefix={place.prefix}/"
    pod = f"{s3}${{workflow.metadata.name}}/${{metadata.name}}/"
    return [
        {"name": "Report and results in S3", "scope": "workflow", "url": f"{s3}${{metadata.name}}/"},
        {"name": "Files of this pod in S3", "scope": "pod", "url": pod},
        {"name": "Files of this pod in S3", "scope": "pod-logs", "url": pod},
        {"name": "Queues and alarms", "scope": "workflow-list", "url": place.dashboard},
    ]


def _change(kind: str, name: str, path: str, value: Any) -> dict[str, Any]:
    return {
        "target": {"kind": kind, "name": name},
        "patch": yaml.safe_dump([{"op": "add", "path": path, "value": value}], sort_keys=False, width=10_000),
    }


def _merge(config_map: str, data: Mapping[str, str]) -> dict[str, Any]:
    patch = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": config_map, "namespace": "argo"},
        "data": dict(data),
    }
    return {"patch": yaml.safe_dump(patch, sort_keys=False, width=10_000)}


def _anywhere(*deployments: str) -> Iterator[dict[str, Any]]:
    """Where nodes have no labels of ours."""
    operation = [{"op": "remove", "path": "/spec/template/spec/nodeSelector/inference"}]
    for name in deployments:
        yield {"target": {"kind": "Deployment", "name": name}, "patch": yaml.safe_dump(operation)}


_HOSTS = ("quay.io", "registry.k8s.io", "nvcr.io")
_HUB = re.compile(r"(nats|nats-streaming|natsio/[a-z-]+):[\w.-]+")


def with_mirror(value: Any, mirror: str) -> Any:
    """A document with its images as the mirror has them: `quay.io/x:1` is `MIRROR/quay.io/x:1`."""
    if not mirror:
        return value
    if isinstance(value, dict):
        return {key: with_mirror(item, mirror) for key, item in value.items()}
    if isinstance(value, list):
        return [with_mirror(item, mirror) for item in value]
    if isinstance(value, str) and value.startswith(tuple(f"{host}/" for host in _HOSTS)):
        return f"{mirror}/{value}"
    if isinstance(value, str) and "natsImage: " in value:
        return re.sub(r"(?<=: )" + _HUB.pattern, lambda found: f"{mirror}/{_on_hub(found[0])}", value)
    return value


def _on_hub(image: str) -> str:
    return f"docker.io/{image}" if "/" in image else f"docker.io/library/{image}"

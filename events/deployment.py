"""A deployment: what kustomize's overlay says, with the settings of the WorkflowTemplate patched in.

`make deploy` writes it to a folder for each namespace, which can be looked at or kept, and which `kubectl apply -k`
takes; the order, and the label of the runs' namespace, are `make deploy`'s own: see events/deploy.py.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from pathlib import Path
from typing import Any

from workflows import WorkflowSettings, objects
from workflows.objects import executor_objects
from workflows.reconciler import reconciler, reconciler_namespace, stands_apart
from workflows.rendering import to_yaml

OVERLAYS = Path(__file__).with_name("overlays")
_RECONCILER = Path(__file__).with_name("reconciler")
_TEMPLATE_NAME, _LABEL = 0, 6
"""Which parameters of the Sensor's Workflow are the template's name."""
_NODE_FOLDER = "/var/tmp/reelscan-bus"  # noqa: S108 - of a node for tests


def write_deployment(settings: WorkflowSettings, overlay: Path, folder: Path) -> list[Path]:
    """Write kustomizations of everything, one for each namespace; gives their folders.

    Args:
        settings: with a namespace.
        overlay: a kustomization of `events/`.
        folder: where to write to; what is there is replaced.
    """
    runs, cron = objects(settings), reconciler(settings).to_dict()
    if not stands_apart(settings):
        _write(folder, kustomization(settings, overlay, folder), [*runs, cron])
        return [folder]
    apart = folder / "reconciler"
    in_its_own = executor_objects(settings.model_copy(update={"namespace": settings.reconciler_namespace}))
    _write(folder, kustomization(settings, overlay, folder), runs)
    _write(apart, reconciler_kustomization(settings, apart), [*in_its_own, cron])
    return [folder, apart]


def _write(folder: Path, kustomization: dict[str, Any], rendered: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workflow.yaml").write_text(to_yaml(rendered))
    (folder / "kustomization.yaml").write_text(to_yaml([kustomization]))


def kustomization(settings: WorkflowSettings, overlay: Path, folder: Path) -> dict[str, Any]:
    """The kustomization of the runs' namespace, which lies in `folder`."""
    resources = [os.path.relpath(overlay, folder), "workflow.yaml"]
    patches = [
        _patch("EventSource", "reelscan", _source_changes(settings)),
        _patch("Sensor", "reelscan", _sensor_changes(settings)),
        _patch("RoleBinding", "reelscan-reconciler", _binding_changes(settings)),
        *_network_patches(settings, "reelscan-steps", "reelscan-events"),
        *_volume_patches(settings, overlay),
    ]
    if not stands_apart(settings):
        resources.append(os.path.relpath(_RECONCILER, folder))
        patches += _network_patches(settings, "reelscan-reconciler")
    return {**_start(settings.namespace), "resources": resources, "patches": patches}


def reconciler_kustomization(settings: WorkflowSettings, folder: Path) -> dict[str, Any]:
    """The kustomization of the namespace of a reconciler that stands apart, which lies in `folder`."""
    return {
        **_start(settings.reconciler_namespace),
        "resources": [os.path.relpath(_RECONCILER, folder), "workflow.yaml"],
        "patches": _network_patches(settings, "reelscan-reconciler"),
    }


def _start(namespace: str | None) -> dict[str, Any]:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": namespace}


def _source_changes(settings: WorkflowSettings) -> list[dict[str, Any]]:
    changes = [_replace("/spec/sqs/task/queue", settings.task_queue)]
    if settings.aws_region is not None:
        changes.append(_replace("/spec/sqs/task/region", settings.aws_region))
        changes.append(_replace("/spec/template/container/env/0/value", settings.aws_region))
    if settings.aws_endpoint_url is not None:
        changes.append({"op": "add", "path": "/spec/sqs/task/endpoint", "value": settings.aws_endpoint_url})
    if settings.aws_secret is not None:
        secret = [{"secretRef": {"name": settings.aws_secret}}]
        changes.append({"op": "add", "path": "/spec/template/container/envFrom", "value": secret})
    return changes


def _sensor_changes(settings: WorkflowSettings) -> list[dict[str, Any]]:
    parameters = "/spec/triggers/0/template/k8s/parameters"
    return [_replace(f"{parameters}/{at}/src/value", settings.name) for at in (_TEMPLATE_NAME, _LABEL)]


def _binding_changes(settings: WorkflowSettings) -> list[dict[str, Any]]:
    """The reconciler's rights are where the runs are; kustomize would take its account to be there too."""
    return [{"op": "add", "path": "/subjects/0/namespace", "value": reconciler_namespace(settings)}]


def _network_patches(settings: WorkflowSettings, *names: str) -> list[dict[str, Any]]:
    """S3 and SQS that are not AWS' may answer at another port than its 443."""
    if settings.aws_endpoint_url is None:
        return []
    url = urllib.parse.urlsplit(settings.aws_endpoint_url)
    port = url.port or (80 if url.scheme == "http" else 443)
    change = {"op": "add", "path": "/spec/egress/-", "value": {"ports": [{"port": port, "protocol": "TCP"}]}}
    return [_patch("NetworkPolicy", name, [change]) for name in names]


def _volume_patches(settings: WorkflowSettings, overlay: Path) -> list[dict[str, Any]]:
    """The test overlay's volume is the cluster's, not the namespace's: each namespace has one of its own."""
    if overlay.name != "test":
        return []
    name = f"{settings.namespace}-bus"
    volume = [
        _replace("/metadata/name", name),
        _replace("/spec/storageClassName", name),
        _replace("/spec/hostPath/path", f"{_NODE_FOLDER}/{settings.namespace}"),
    ]
    return [
        _patch("PersistentVolume", "reelscan-bus", volume),
        _patch("EventBus", "default", [_replace("/spec/jetstream/persistence/storageClassName", name)]),
    ]


def _patch(kind: str, name: str, changes: list[dict[str, Any]]) -> dict[str, Any]:
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(changes)}


def _replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}

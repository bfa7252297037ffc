"""Rules of Kubernetes for names, labels and annotations, which no schema holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.kubernetes.schemas import join

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
NAME_OF_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
BYTES_OF_ANNOTATIONS = 256 * 1024

# The longest name where it is not 253: names that become labels of pods, and those that Argo lengthens.
LONGEST_NAMES = {
    "CronWorkflow": 52,
    "EventBus": 63,
    "EventSource": 63,
    "Namespace": 63,
    "Sensor": 63,
    "Service": 63,
    "Workflow": 63,
    "WorkflowTemplate": 63,
    "ClusterWorkflowTemplate": 63,
}
# Kinds whose names may hold what a path may.
PATH_NAMES = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "ClusterWorkflowTemplate", "Namespace", "PriorityClass"}


def metadata_problems(kind: str, metadata: Any, path: str = "metadata") -> Iterator[str]:
    """What is wrong with the names, labels and annotations of an object."""
    if not isinstance(metadata, dict):
        return
    yield from _name_problems(kind, metadata, path)
    namespace = metadata.get("namespace")
    if isinstance(namespace, str):
        if kind in CLUSTER_WIDE:
            yield f"{join(path, 'namespace')}: a {kind} has none"
        elif len(namespace) > 63 or not re.fullmatch(LABEL, namespace):
            yield f"{join(path, 'namespace')}: {namespace!r} is no DNS label of up to 63 characters"
    for position, finalizer in enumerate(metadata.get("finalizers") or []):
        if isinstance(finalizer, str) and (not _is_key(finalizer) or "/" not in finalizer):
            yield f"{join(path, 'finalizers', position)}: {finalizer!r} must be DOMAIN/NAME"
    yield from labels_problems(metadata, path)


def labels_problems(metadata: Any, path: str) -> Iterator[str]:
    """What is wrong with the labels and annotations of an object or of what it makes; templated values pass."""
    if not isinstance(metadata, dict):
        return
    labels, annotations = (metadata.get(field) for field in ("labels", "annotations"))
    for key, value in labels.items() if isinstance(labels, dict) else ():
        where = join(path, "labels", str(key))
        if not _is_key(key):
            yield f"{where}: no valid label key"
        if isinstance(value, str) and "{{" not in value and (len(value) > 63 or not re.fullmatch(LABEL_VALUE, value)):
            yield f"{where}: {value!r} is no label value of up to 63 letters, digits, '-', '_', '.'"
    if isinstance(annotations, dict):
        for key in annotations:
            if not _is_key(key, any_case=True):
                yield f"{join(path, 'annotations', str(key))}: no valid annotation key"
        size = sum(len(str(text).encode()) for item in annotations.items() for text in item)
        if size > BYTES_OF_ANNOTATIONS:
            yield f"{join(path, 'annotations')}: {size} bytes, at most {BYTES_OF_ANNOTATIONS} are allowed"


def _name_problems(kind: str, metadata: dict[str, Any], path: str) -> Iterator[str]:
    longest = LONGEST_NAMES.get(kind, 253)
    name, prefix = metadata.get("name"), metadata.get("generateName")
    if not name and not prefix:
        yield f"{join(path, 'name')}: required"
    for field, text in (("name", name), ("generateName", f"{prefix}x" if isinstance(prefix, str) and prefix else None)):
        if not isinstance(text, str) or not text:
            continue
        where = join(path, field)
        if len(text) > longest:
            yield f"{where}: {len(text)} characters, at most {longest} are allowed for a {kind}"
        if kind in PATH_NAMES:
            if text in {".", ".."} or "/" in text or "%" in text:
                yield f"{where}: {text!r} must not be '.' or '..' nor hold '/' or '%'"
        elif not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?" if kind == "Service" else SUBDOMAIN, text):
            yield f"{where}: {metadata[field]!r} is no DNS-1123 name"


def _is_key(key: Any, *, any_case: bool = False) -> bool:
    if not isinstance(key, str):
        return False
    domain, slash, name = key.rpartition("/")
    domain = domain.lower() if any_case else domain
    is_domain = not slash or (len(domain) <= 253 and re.fullmatch(SUBDOMAIN, domain) is not None)
    return is_domain and len(name) <= 63 and re.fullmatch(NAME_OF_KEY, name) is not None

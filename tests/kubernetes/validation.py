"""Finds in a rendered object what the API server, Argo's controllers or a run would stumble over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.kubernetes.metadata import labels_problems, metadata_problems
from tests.kubernetes.references import workflow_problems
from tests.kubernetes.rules import Object, objects
from tests.kubernetes.schemas import SchemaFile, join, schema_file

OBJECT_META = {"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
POD_SPEC = {"$ref": "io.k8s.api.core.v1.PodSpec"}
# Put for every tag in a patch: a number, a quantity, a part of a word.
STANDS_FOR_A_TAG = "31415"
# Where the spec of a workflow stands in each kind.
WORKFLOW_SPECS = {
    "Workflow": ("spec",),
    "WorkflowTemplate": ("spec",),
    "ClusterWorkflowTemplate": ("spec",),
    "CronWorkflow": ("spec", "workflowSpec"),
}


def validate(document: Object, version: str = "4.0") -> list[str]:
    """The problems of an object, each as `path: what`; none if it is right.

    Unknown fields, wrong types and values, rules in CEL and metadata are judged as by an API server in strict mode with
    Argo Events and the given version of Argo Workflows. Once all types are right, every reference by name is followed:
    in workflows, in the pods of deployments, in sensors.

    Raises:
        ValueError: There are no schemas of that version.
    """
    files = (schema_file("argo-workflows", version), schema_file("argo-events"), schema_file("kubernetes"))
    return list(dict.fromkeys(_problems(document, files, version)))


def _problems(document: Any, files: tuple[SchemaFile, ...], version: str) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "must be an object"
        return
    served = f"{document.get('apiVersion')} {document.get('kind')}"
    file = next((file for file in files if served in file.kinds), None)
    if file is None:
        yield f"apiVersion, kind: {served} is no kind that is known here"
        return
    of_schema = list(file.problems(file.kinds[served], document))
    yield from of_schema
    kubernetes, kind, metadata = files[-1], str(document["kind"]), document.get("metadata")
    if file is not kubernetes:
        yield from kubernetes.problems(OBJECT_META, metadata, "metadata")
    yield from metadata_problems(kind, metadata)
    for path, holder, key in _metadata_of_made_objects(document):
        yield from labels_problems(holder[key], path)
    if any(": must be " in problem for problem in of_schema):
        return
    if kind in WORKFLOW_SPECS and file is files[0]:
        yield from _workflow_problems(document, WORKFLOW_SPECS[kind], kubernetes)
    if kind == "Deployment":
        yield from _deployment_problems(document)
    if kind == "Sensor":
        yield from _sensor_problems(document, version)


def _workflow_problems(document: Object, fields: tuple[str, ...], kubernetes: SchemaFile) -> Iterator[str]:
    spec: Any = document
    for field in fields:
        spec = spec.get(field) if isinstance(spec, dict) else None
    if not isinstance(spec, dict):
        return
    path = join("", *fields)
    if document["kind"] in {"Workflow", "CronWorkflow"} and not {"workflowTemplateRef", "entrypoint"} & set(spec):
        yield f"{join(path, 'entrypoint')}: required"
    yield from workflow_problems(spec, path)
    patched = [(path, spec)]
    patched += [(join(path, "templates", position), item) for position, item in enumerate(objects(spec, "templates"))]
    for where, holder in patched:
        yield from _patch_problems(holder, kubernetes, join(where, "podSpecPatch"))


def _patch_problems(holder: Object, kubernetes: SchemaFile, path: str) -> Iterator[str]:
    """A patch is text, so that no server sees what is in it."""
    text = holder.get("podSpecPatch")
    if not isinstance(text, str):
        return
    try:
        patch = yaml.safe_load(re.sub(r"\{\{.*?\}\}", STANDS_FOR_A_TAG, text))
    except yaml.YAMLError as error:
        yield f"{path}: {' '.join(str(error).split())}"
        return
    for problem in kubernetes.problems(POD_SPEC, patch):
        where, what = problem.split(": ", 1)
        # Of a patch only the keys that lists are merged by are required, and a tag may stand for a whole object.
        is_partial = what == "required" and not where.endswith(".name")
        if not is_partial and not what.endswith(f", not {STANDS_FOR_A_TAG}"):
            yield f"{path}: {problem}"
    if "container" not in holder and "script" not in holder:
        return
    for field, own, of_argo in (
        ("containers", "sidecars", {"main", "wait"}),
        ("initContainers", "initContainers", {"init"}),
    ):
        names = of_argo | {container.get("name") for container in objects(holder, own)}
        for position, container in enumerate(objects(patch, field)):
            if container.get("name") not in names:
                where = join(field, position, "name")
                allowed = ", ".join(sorted(map(str, names)))
                yield f"{path}: {where}: no container {container.get('name')!r}, only {allowed}"


def _deployment_problems(document: Object) -> Iterator[str]:
    spec = document.get("spec") or {}
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    for key, value in ((spec.get("selector") or {}).get("matchLabels") or {}).items():
        if labels.get(key) != value:
            yield f"spec.selector.matchLabels: {key}={value} is no label of spec.template"
    pod = template.get("spec") or {}
    volumes = {volume.get("name") for volume in objects(pod, "volumes")}
    for field in ("containers", "initContainers"):
        for at, container in enumerate(objects(pod, field)):
            for position, mount in enumerate(objects(container, "volumeMounts")):
                if mount.get("name") not in volumes:
                    where = join("spec.template.spec", field, at, "volumeMounts", position, "name")
                    yield f"{where}: no volume {mount.get('name')!r}"


def _sensor_problems(document: Object, version: str) -> Iterator[str]:
    """The dependencies that triggers name, and the objects that they make."""
    names = {dependency.get("name") for dependency in objects(document, "spec", "dependencies")}
    for position, trigger in enumerate(objects(document, "spec", "triggers")):
        path = join("spec.triggers", position)
        template = trigger.get("template") or {}
        for field in ("k8s", "argoWorkflow"):
            source = (template.get(field) or {}).get("source", {})
            kind = "inline" if "inline" in source else "resource"
            made = source.get("resource")
            if kind == "inline":
                made = _parsed(source["inline"], f"{field}.source.inline", objects(trigger, "parameters"))
                if isinstance(made, str):
                    yield f"{join(path, 'template', field, 'source', 'inline')}: {made}"
            parameters = objects(template, field, "parameters")
            for at, parameter in enumerate(parameters):
                name = (parameter.get("src") or {}).get("dependencyName")
                if name not in names:
                    where = join(path, "template", field, "parameters", at, "src", "dependencyName")
                    yield f"{where}: no dependency {name!r}"
            if isinstance(made, dict):
                where = join(path, "template", field, "source", kind)
                yield from (f"{where}.{problem}" for problem in validate(_as_made(made, parameters), version))


def _parsed(text: Any, dest: str, parameters: list[Object]) -> Any:
    """The object of a text to which a parameter of the trigger appends a digit; what is wrong if it is none."""
    appended = any(p.get("dest") == dest and p.get("operation") == "append" for p in parameters)
    try:
        made = yaml.safe_load(f"{text}0" if appended else text)
    except (yaml.YAMLError, TypeError) as error:
        return " ".join(str(error).split())
    return made if isinstance(made, dict) else "holds no object"


def _as_made(made: Object, parameters: list[Object]) -> Object:
    """The object with a name such as it will have once the trigger has appended to it."""
    name = (made.get("metadata") or {}).get("name")
    appended = any(parameter.get("dest") == "metadata.name" for parameter in parameters)
    if not (appended and isinstance(name, str)):
        return made
    return {**made, "metadata": {**made["metadata"], "name": f"{name}x"}}


def _metadata_of_made_objects(value: Any, path: str = "") -> Iterator[tuple[str, Object, str]]:
    """Where labels and annotations stand for pods, workflows and the like, below the object's own metadata."""
    if isinstance(value, dict):
        for key, member in value.items():
            where = join(path, str(key))
            if path and key in {"metadata", "podMetadata", "workflowMetadata"}:
                yield where, value, key
            elif key != "resource":
                yield from _metadata_of_made_objects(member, where)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _metadata_of_made_objects(item, join(path, position))

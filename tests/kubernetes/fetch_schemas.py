"""Writes `tests/kubernetes/schemas/` anew from the Go modules of Argo and Kubernetes.

Needs Go, which checks every module against its checksum database; the sums stated here are checked besides::

    python -m tests.kubernetes.fetch_schemas                        # all that are checked in
    python -m tests.kubernetes.fetch_schemas argo-workflows v4.1.2  # one more version, for use by hand
"""

from __future__ import annotations

import collections
import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("schemas")

# Names and versions of the files that are checked in, each with the sum of its module.
CHECKED_IN = {
    ("argo-workflows", "v3.7.18"): "h1:B8v2GIBCqUATiqrI3NaLGDplT2Id18bIruebwSXkFZI=",
    ("argo-workflows", "v4.0.2"): "h1:tmg7iIjnPF9EMtaGi6K6+Sm28J9WyyLUrJ1vdKkNmgc=",
    ("argo-events", "v1.9.9"): "h1:68KExCcwoqnWq3tHsWjZ/RUqSEv+rOoFWzbeZNNjFWc=",
    ("kubernetes", "v1.34.2"): "h1:WQdDvYJazkmkwSncgNwGvVtaCt4TYXIU3wSMRgvp3MI=",
}

WORKFLOW_KINDS = ("Workflow", "WorkflowTemplate", "ClusterWorkflowTemplate", "CronWorkflow", "WorkflowEventBinding")
EVENTS_KINDS = ("EventBus", "EventSource", "Sensor")
# The group and version in the name of Kubernetes' file, and the kinds of it that are kept.
KUBERNETES_KINDS = {
    "api__v1": ("ConfigMap", "Namespace", "PersistentVolume", "Secret", "Service", "ServiceAccount"),
    "apis__apps__v1": ("Deployment",),
    "apis__networking.k8s.io__v1": ("NetworkPolicy",),
    "apis__policy__v1": ("PodDisruptionBudget",),
    "apis__rbac.authorization.k8s.io__v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "apis__scheduling.k8s.io__v1": ("PriorityClass",),
}

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
INT_OR_STRING_FORMATS = ("int-or-string", "int64-or-string")
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
# A subtree of a CustomResourceDefinition that recurs is stored once if its JSON is longer than this.
SHARED_FROM_CHARACTERS = 200

# Keywords that check something.
KEPT = {
    "additionalProperties", "const", "enum", "format", "items", "maxItems", "maxLength", "maximum", "minItems",
    "minLength", "minimum", "pattern", "properties", "required", "type",
    PRESERVE, INT_OR_STRING, "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-validations",
}  # fmt: skip
# Keywords that describe, or that only matter when an object is changed.
DROPPED = {
    "default", "description", "example", "title", "x-kubernetes-group-version-kind", "x-kubernetes-map-type",
    "x-kubernetes-patch-merge-key", "x-kubernetes-patch-strategy", "x-kubernetes-unions",
}  # fmt: skip

Schema = dict[str, Any]


def main(arguments: list[str]) -> None:
    wanted = dict(CHECKED_IN)
    if arguments:
        name, version = arguments
        wanted = {(name, version): CHECKED_IN.get((name, version), "")}
    for (name, version), expected_sum in wanted.items():
        print(write_schemas(name, version, expected_sum))  # noqa: T201


def write_schemas(name: str, version: str, expected_sum: str, folder: Path = FOLDER) -> Path:
    """The file of one version, written from its module; the same input gives the same bytes."""
    module, read = SOURCES[name]
    major = version.split(".", 1)[0]
    source, module_sum = download(f"{module}/{major}" if name == "argo-workflows" else module, version)
    if expected_sum and module_sum != expected_sum:
        raise SystemExit(f"{module} {version} has the sum {module_sum}, not {expected_sum}")
    document = read(source)
    document["origin"] = {"module": module, "version": version, "sum": module_sum}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    path = folder / f"{name}-{version.removeprefix('v')}.json.gz"
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    return path


def download(module: str, version: str) -> tuple[Path, str]:
    """The folder that Go's module cache has for a module, and its checksum."""
    with tempfile.TemporaryDirectory() as outside_any_module:
        command = ["go", "mod", "download", "-json", f"{module}@{version}"]
        done = subprocess.run(command, cwd=outside_any_module, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout)
    return Path(found["Dir"]), found["Sum"]


def read_argo_workflows(source: Path) -> Schema:
    """The full definitions, which the API server of a production installation does not have."""
    kinds = {}
    for path in sorted((source / "manifests/base/crds/full").glob("argoproj.io_*.yaml")):
        definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        kind = definition["names"]["kind"]
        if kind not in WORKFLOW_KINDS:
            continue
        (served,) = [version for version in definition["versions"] if version["served"]]
        schema = cleaned(served["schema"]["openAPIV3Schema"], is_openapi=False)
        kinds[f"{definition['group']}/{served['name']} {kind}"] = object_schema(schema)
    return with_shared_subtrees(kinds)


def read_argo_events(source: Path) -> Schema:
    """Its JSON schema: its CustomResourceDefinitions leave `spec` open."""
    definitions = json.loads((source / "api/jsonschema/schema.json").read_text())["definitions"]
    prefix = "io.argoproj.events.v1alpha1."
    kinds = {f"argoproj.io/v1alpha1 {kind}": prefix + kind for kind in EVENTS_KINDS}
    return with_needed_definitions(kinds, definitions)


def read_kubernetes(source: Path) -> Schema:
    definitions: Schema = {}
    kinds = {}
    for name, wanted in KUBERNETES_KINDS.items():
        of_group = json.loads((source / f"api/openapi-spec/v3/{name}_openapi.json").read_text())["components"][
            "schemas"
        ]
        for key, schema in of_group.items():
            for served in schema.get("x-kubernetes-group-version-kind", []):
                api_version = "/".join(part for part in (served["group"], served["version"]) if part)
                if served["kind"] in wanted and name in (
                    f"api__{api_version}",
                    f"apis__{api_version.replace('/', '__')}",
                ):
                    kinds[f"{api_version} {served['kind']}"] = key
        definitions |= of_group
    return with_needed_definitions(kinds, definitions, besides=(OBJECT_META,))


SOURCES: dict[str, tuple[str, Callable[[Path], Schema]]] = {
    "argo-workflows": ("github.com/argoproj/argo-workflows", read_argo_workflows),
    "argo-events": ("github.com/argoproj/argo-events", read_argo_events),
    "kubernetes": ("k8s.io/kubernetes", read_kubernetes),
}


def object_schema(schema: Schema) -> Schema:
    """Without `status`, which nobody applies; the metadata of every kind is described by Kubernetes."""
    properties = {name: value for name, value in schema["properties"].items() if name != "status"}
    properties["metadata"] = {"type": "object", PRESERVE: True}
    required = [name for name in schema.get("required", []) if name != "status"]
    return {**schema, "properties": properties, "required": sorted({*required, "apiVersion", "kind", "metadata"})}


def cleaned(schema: Schema, *, is_openapi: bool) -> Schema:
    """A schema reduced to what it demands; raises on a keyword that is new."""
    schema = dict(schema)
    if "allOf" in schema:
        (only,) = schema.pop("allOf")
        schema |= only
    if "$ref" in schema:
        return {"$ref": schema["$ref"].rsplit("/", 1)[-1]}
    if schema.get("format") in INT_OR_STRING_FORMATS or INT_OR_STRING in schema:
        for keyword in ("type", "format", "anyOf", "oneOf"):
            schema.pop(keyword, None)
        schema[INT_OR_STRING] = True
    nullable = schema.pop("nullable", False)
    unknown = set(schema) - KEPT - DROPPED
    if unknown:
        raise SystemExit(f"new keywords in a schema: {sorted(unknown)}")
    kept = {keyword: value for keyword, value in schema.items() if keyword in KEPT}
    for keyword in ("items", "additionalProperties"):
        if isinstance(kept.get(keyword), dict):
            kept[keyword] = cleaned(kept[keyword], is_openapi=is_openapi)
    if "properties" in kept:
        kept["properties"] = {name: cleaned(value, is_openapi=is_openapi) for name, value in kept["properties"].items()}
    if nullable:
        kept["type"] = [kept["type"], "null"]
    if is_openapi and kept.get("type", "object") == "object" and not {"properties", "additionalProperties"} & set(kept):
        kept |= {} if INT_OR_STRING in kept else {PRESERVE: True}  # OpenAPI's way to say: anything
    return kept


def with_needed_definitions(kinds: dict[str, str], definitions: Schema, besides: tuple[str, ...] = ()) -> Schema:
    """The kinds, what is wanted besides, and all that these refer to, by the names that the definitions have."""
    needed: Schema = {}
    waiting = [*kinds.values(), *besides]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        schema = {"format": "quantity"} if name == QUANTITY else cleaned(definitions[name], is_openapi=True)
        if name in kinds.values():
            schema = object_schema(schema)
        needed[name] = schema
        waiting += references(schema)
    return {"kinds": {kind: {"$ref": name} for kind, name in kinds.items()}, "definitions": needed}


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from references(value)


def with_shared_subtrees(kinds: dict[str, Schema]) -> Schema:
    """The kinds with every longer subtree that recurs moved to a definition, named by its content."""
    counts: collections.Counter[str] = collections.Counter()
    texts: dict[int, str] = {}

    def count(schema: Schema) -> None:
        text = json.dumps(schema, sort_keys=True)
        texts[id(schema)] = text
        counts[text] += 1
        if counts[text] == 1:
            for child in children(schema):
                count(child)

    definitions: Schema = {}

    def shared(schema: Schema) -> Schema:
        text = texts.get(id(schema)) or json.dumps(schema, sort_keys=True)
        if counts[text] < 2 or len(text) < SHARED_FROM_CHARACTERS:
            return replaced(schema)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        if name not in definitions:
            definitions[name] = replaced(schema)
        return {"$ref": name}

    def replaced(schema: Schema) -> Schema:
        result = dict(schema)
        for keyword in ("items", "additionalProperties"):
            if isinstance(result.get(keyword), dict):
                result[keyword] = shared(result[keyword])
        if "properties" in result:
            result["properties"] = {name: shared(value) for name, value in result["properties"].items()}
        return result

    for schema in kinds.values():
        count(schema)
    return {"kinds": {kind: shared(schema) for kind, schema in kinds.items()}, "definitions": definitions}


def children(schema: Schema) -> Iterator[Schema]:
    yield from schema.get("properties", {}).values()
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield schema[keyword]


if __name__ == "__main__":
    main(sys.argv[1:])

"""The validation finds what a server would refuse and what a run would stumble over, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.kubernetes.samples import Object, changed, sample_template
from tests.kubernetes.schemas import FOLDER, load, program_of
from tests.kubernetes.validation import validate

VERSIONS = ("3.7", "4.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_correct_workflow_template_has_no_problems(version: str) -> None:
    assert validate(sample_template(), version) == []


# The sample's templates: 0 main (dag), 1 plan, 2 part, 3 sum, 4 report (steps), 5 failure.
SCHEMA_FAULTS = {
    "a misspelt field of the object": ("spcc", {}, "spcc: unknown field"),
    "a misspelt field of the spec": ("spec/entryPoint", "main", "spec.entryPoint: unknown field"),
    "a misspelt field of a template": (
        "spec/templates/1/retrystrategy",
        {},
        "spec.templates[1].retrystrategy: unknown field",
    ),
    "a misspelt field of a container": (
        "spec/templates/1/container/resources/request",
        {},
        "spec.templates[1].container.resources.request: unknown field",
    ),
    "a misspelt field of a native sidecar": (
        "spec/templates/2/initContainers/0/startupProbe/grpc/prt",
        8500,
        "spec.templates[2].initContainers[0].startupProbe.grpc.prt: unknown field",
    ),
    "a field in an object that has none": (
        "spec/templates/1/outputs/artifacts/0/archive/none/level",
        1,
        "spec.templates[1].outputs.artifacts[0].archive.none.level: unknown field",
    ),
    "a status": ("status", {}, "status: unknown field"),
    "a string for a number": ("spec/parallelism", "20", 'spec.parallelism: must be an integer, not "20"'),
    "a number for a string": (
        "spec/templates/1/container/args/1",
        7,
        "spec.templates[1].container.args[1]: must be a string, not 7",
    ),
    "a truth value for a number": ("spec/parallelism", True, "spec.parallelism: must be an integer, not true"),
    "an object for a list": (
        "spec/templates/1/container/env",
        {},
        "spec.templates[1].container.env: must be a list, not {}",
    ),
    "nothing for an object": ("spec/podGC", None, "spec.podGC: must be an object, not null"),
    "a fraction for an integer or a string": (
        "spec/templates/1/retryStrategy/limit",
        1.5,
        "spec.templates[1].retryStrategy.limit: must be an integer or a string, not 1.5",
    ),
    "a quantity that is none": (
        "spec/templates/1/container/resources/limits/memory",
        "1.5 GB",
        "spec.templates[1].container.resources.limits.memory: '1.5 GB' does not match",
    ),
    "a required field that lacks": (
        "spec/templates/2/container/env/0/name",
        ...,
        "spec.templates[2].container.env[0].name: required",
    ),
    "an integer that is too large": (
        "spec/templates/2/initContainers/0/ports/0/containerPort",
        1 << 31,
        "must be a valid int32",
    ),
    "a port that stands twice": (
        "spec/templates/2/initContainers/0/ports",
        [{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 1, "protocol": "TCP"}],
        'spec.templates[2].initContainers[0].ports[1]: stands twice: [1, "TCP"]',
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("path", "value", "expected"), SCHEMA_FAULTS.values(), ids=SCHEMA_FAULTS)
def test_a_fault_against_the_schema_is_told_by_its_path(version: str, path: str, value: Any, expected: str) -> None:
    problems = validate(changed(sample_template(), path, value), version)
    assert any(problem.startswith(expected) or expected in problem for problem in problems), problems


# Enumerations and rules came to the definitions with 4.0.
RULE_FAULTS = {
    "a value that is not allowed": (
        "spec/templates/1/retryStrategy/retryPolicy",
        "Now",
        "retryStrategy.retryPolicy: must be one of Always, OnFailure, OnError, OnTransientError, not 'Now'",
    ),
    "two locations of an artifact": (
        "spec/templates/1/outputs/artifacts/0/gcs",
        {"key": "k"},
        "spec.templates[1].outputs.artifacts[0]: at most one artifact location can be specified",
    ),
    "depends beside dependencies": (
        "spec/templates/0/dag/tasks/1/dependencies",
        ["plan"],
        "spec.templates[0].dag.tasks[1]: cannot use both 'depends' and 'dependencies'",
    ),
    "two types of one template": (
        "spec/templates/1/suspend",
        {},
        "spec.templates: template must have at most one template type",
    ),
}


@pytest.mark.parametrize(("path", "value", "expected"), RULE_FAULTS.values(), ids=RULE_FAULTS)
def test_a_wrong_value_or_a_broken_rule_is_told_by_its_path(path: str, value: Any, expected: str) -> None:
    problems = validate(changed(sample_template(), path, value), "4.0")
    assert any(expected in problem for problem in problems), problems


def test_every_rule_of_the_definitions_can_be_compiled() -> None:
    def rules(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [rule["rule"] for rule in value.get("x-kubernetes-validations", []) if isinstance(rule, dict)]
            return own + [rule for member in value.values() for rule in rules(member)]
        return [rule for item in value for rule in rules(item)] if isinstance(value, list) else []

    found = {rule for path in FOLDER.glob("*.json.gz") for rule in rules([load(path).kinds, load(path).definitions])}
    assert len(found) >= 10
    for rule in found:
        program_of(rule)


METADATA_FAULTS: dict[str, tuple[Callable[[Object], Any], str]] = {
    "a capital": (lambda metadata: metadata.update(name="Sample"), "metadata.name: 'Sample' is no DNS-1123 name"),
    "a long name": (
        lambda metadata: metadata.update(name="s" * 64),
        "metadata.name: 64 characters, at most 63 are allowed",
    ),
    "no name": (lambda metadata: metadata.pop("name"), "metadata.name: required"),
    "a namespace": (lambda metadata: metadata.update(namespace="a.b"), "metadata.namespace: 'a.b' is no DNS label"),
    "a label's value": (
        lambda metadata: metadata["labels"].update(key="a/b"),
        "metadata.labels.key: 'a/b' is no label value",
    ),
    "a label's key": (
        lambda metadata: metadata["labels"].update({"a/b/c": "d"}),
        'metadata.labels["a/b/c"]: no valid label key',
    ),
    "a label of another type": (
        lambda metadata: metadata["labels"].update(key=1),
        "metadata.labels.key: must be a string, not 1",
    ),
    "long annotations": (
        lambda metadata: metadata["annotations"].update(key="x" * (256 * 1024)),
        "metadata.annotations: 262",
    ),
    "a finalizer": (
        lambda metadata: metadata.update(finalizers=["mine"]),
        "metadata.finalizers[0]: 'mine' must be DOMAIN/NAME",
    ),
    "a misspelt field": (lambda metadata: metadata.update(label={}), "metadata.label: unknown field"),
}


@pytest.mark.parametrize(("change", "expected"), METADATA_FAULTS.values(), ids=METADATA_FAULTS)
def test_metadata_is_judged_as_by_the_server(change: Callable[[Object], Any], expected: str) -> None:
    document = sample_template()
    change(document["metadata"])
    problems = validate(document)
    assert any(problem.startswith(expected) for problem in problems), problems


def test_labels_of_pods_are_judged_and_templated_ones_pass() -> None:
    problems = validate(changed(sample_template(), "spec/templates/2/metadata/labels/sample.dev~1part", "a b"))
    assert problems == [
        'spec.templates[2].metadata.labels["sample.dev/part"]: '
        "'a b' is no label value of up to 63 letters, digits, '-', '_', '.'"
    ]


def test_versions_differ_in_what_they_take() -> None:
    document = changed(sample_template(), "spec/templates/0/synchronization", {"mutex": {"name": "one"}})
    assert validate(document, "3.7") == []
    assert validate(document, "4.0") == ["spec.templates[0].synchronization.mutex: unknown field"]


def test_a_version_without_schemas_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(ValueError, match=r"no schemas of argo-workflows 2\.12; there are: 3\.7\.18, 4\.0\.2"):
        validate(sample_template(), "2.12")


CORRECT_OBJECTS = """
{apiVersion: v1, kind: ServiceAccount, metadata: {name: sample}, automountServiceAccountToken: false}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: sample}, data: {a.json: "{}"}}
---
{apiVersion: v1, kind: Secret, metadata: {name: sample}, type: Opaque, data: {key: c2VjcmV0}}
---
apiVersion: v1
kind: Service
metadata: {name: sample}
spec: {clusterIP: None, selector: {app: sample}, ports: [{name: grpc, port: 8500, targetPort: grpc}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "sample:executor"}
rules: [{apiGroups: [argoproj.io], resources: [workflowtaskresults], verbs: [create, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: sample}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: sample}
subjects: [{kind: ServiceAccount, name: sample}]
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: sample}, value: 10}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: sample}, spec: {maxUnavailable: 50%}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: sample}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: sample}
spec:
  selector: {matchLabels: {app: sample}}
  template:
    metadata: {labels: {app: sample}}
    spec:
      containers:
      - name: main
        image: sample:1
        resources: {limits: {cpu: 1, memory: 1Gi}}
        volumeMounts: [{name: cache, mountPath: /cache}]
      volumes: [{name: cache, emptyDir: {sizeLimit: 1Gi}}]
---
apiVersion: argoproj.io/v1alpha1
kind: CronWorkflow
metadata: {name: sample}
spec: {schedules: ["0 3 * * *"], workflowSpec: {workflowTemplateRef: {name: sample}}}
---
apiVersion: argoproj.io/v1alpha1
kind: EventBus
metadata: {name: default}
spec: {jetstream: {version: 2.10.10, replicas: 3}}
---
apiVersion: argoproj.io/v1alpha1
kind: EventSource
metadata: {name: sample}
spec: {sqs: {tasks: {queue: tasks, region: us-east-1, waitTimeSeconds: 20, jsonBody: false}}}
---
apiVersion: argoproj.io/v1alpha1
kind: Sensor
metadata: {name: sample}
spec:
  dependencies: [{name: task, eventSourceName: sample, eventName: tasks}]
  triggers:
  - atLeastOnce: true
    retryStrategy: {steps: 720, duration: 5s, factor: 1, jitter: 0.2}
    template:
      name: submit
      k8s:
        operation: patch
        source:
          resource:
            apiVersion: argoproj.io/v1alpha1
            kind: Workflow
            metadata: {name: task-}
            spec: {workflowTemplateRef: {name: sample}, arguments: {parameters: [{name: task, value: ""}]}}
        parameters:
        - {src: {dependencyName: task, dataKey: messageId}, dest: metadata.name, operation: append}
"""


def _correct_objects() -> list[Object]:
    return list(yaml.safe_load_all(CORRECT_OBJECTS))


@pytest.mark.parametrize("document", _correct_objects(), ids=lambda document: str(document["kind"]))
def test_correct_objects_of_other_kinds_have_no_problems(document: Object) -> None:
    assert validate(document) == []


OTHER_FAULTS = {
    "a misspelt field of a role": ("Role", "rules/0/verb", [], "rules[0].verb: unknown field"),
    "data that is not base64": ("Secret", "data/key", "not base64", "data.key: must be a valid byte"),
    "a quantity": (
        "Deployment",
        "spec/template/spec/containers/0/resources/limits/memory",
        "1GB",
        "spec.template.spec.containers[0].resources.limits.memory: must be a valid quantity",
    ),
    "a selector that selects nothing": (
        "Deployment",
        "spec/selector/matchLabels/app",
        "other",
        "spec.selector.matchLabels: app=other is no label of spec.template",
    ),
    "a volume of a deployment": (
        "Deployment",
        "spec/template/spec/volumes/0/name",
        "other",
        "spec.template.spec.containers[0].volumeMounts[0].name: no volume 'cache'",
    ),
    "a version that is gone": ("CronWorkflow", "spec/schedule", "0 3 * * *", "spec.schedule: unknown field"),
    "a namespace of a cluster's object": (
        "PriorityClass",
        "metadata/namespace",
        "a",
        "metadata.namespace: a PriorityClass has none",
    ),
    "a field of an event source": (
        "EventSource",
        "spec/sqs/tasks/queueName",
        "q",
        "spec.sqs.tasks.queueName: unknown field",
    ),
    "atLeastOnce where it is ignored": (
        "Sensor",
        "spec/triggers/0/template/atLeastOnce",
        True,
        "spec.triggers[0].template.atLeastOnce: unknown field",
    ),
    "a dependency of a sensor": (
        "Sensor",
        "spec/triggers/0/template/k8s/parameters/0/src/dependencyName",
        "tsak",
        "spec.triggers[0].template.k8s.parameters[0].src.dependencyName: no dependency 'tsak'",
    ),
    "a field of what a sensor makes": (
        "Sensor",
        "spec/triggers/0/template/k8s/source/resource/spec/argument",
        {},
        "spec.triggers[0].template.k8s.source.resource.spec.argument: unknown field",
    ),
    "a kind that is not known": ("Role", "apiVersion", "rbac.authorization.k8s.io/v1beta1", "apiVersion, kind: "),
}


@pytest.mark.parametrize(("kind", "path", "value", "expected"), OTHER_FAULTS.values(), ids=OTHER_FAULTS)
def test_faults_of_other_kinds_are_told_by_their_path(kind: str, path: str, value: Any, expected: str) -> None:
    (document,) = [document for document in _correct_objects() if document["kind"] == kind]
    problems = validate(changed(document, path, value))
    assert [problem for problem in problems if problem.startswith(expected)], problems

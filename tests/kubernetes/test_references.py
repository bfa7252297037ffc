"""What a workflow refers to by name and does not have is found without running it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kubernetes.samples import changed, sample_template
from tests.kubernetes.validation import validate

# The sample's templates: 0 main (dag), 1 plan, 2 part, 3 sum, 4 report (steps), 5 failure.
TASK = "spec/templates/0/dag/tasks"
REFERENCE_FAULTS = {
    "an entrypoint": ("spec/entrypoint", "mian", "spec.entrypoint: no template 'mian'"),
    "an exit handler": ("spec/onExit", "reprot", "spec.onExit: no template 'reprot'"),
    "a task's template": (f"{TASK}/0/template", "paln", "spec.templates[0].dag.tasks[0].template: no template 'paln'"),
    "a step's template": (
        "spec/templates/4/steps/0/0/template",
        "f",
        "spec.templates[4].steps[0][0].template: no template 'f'",
    ),
    "a workflow's parameter": (
        "spec/templates/0/inputs/parameters/0/value",
        "{{workflow.parameters.tsak}}",
        "spec.templates[0].inputs.parameters[0].value: {{workflow.parameters.tsak}}: no such variable here",
    ),
    "a workflow's parameter in its metadata": (
        "spec/workflowMetadata/annotations/workflows.argoproj.io~1title",
        "{{workflow.parameters.titel}}",
        "{{workflow.parameters.titel}}: no such variable here",
    ),
    "an input": (
        "spec/templates/1/container/args/1",
        "{{inputs.parameters.tusk}}",
        "spec.templates[1].container.args[1]: {{inputs.parameters.tusk}}: no such variable here",
    ),
    "an input in an expression": (
        "spec/templates/1/container/args/1",
        "{{=inputs.parameters['a-b'] + 'inputs.parameters.c'}}",
        "spec.templates[1].container.args[1]: {{inputs.parameters.a-b}}: no such variable here",
    ),
    "an input of the mutex": (
        "spec/templates/0/synchronization/mutexes/0/name",
        "{{inputs.parameters.other}}",
        "spec.templates[0].synchronization.mutexes[0].name: {{inputs.parameters.other}}: no such variable here",
    ),
    "a misspelt root": (
        "spec/templates/1/container/args/1",
        "{{input.parameters.task}}",
        "{{input.parameters.task}}: no such",
    ),
    "an output of a task": (
        f"{TASK}/1/withParam",
        "{{tasks.plan.outputs.parameters.prats}}",
        "spec.templates[0].dag.tasks[1].withParam: {{tasks.plan.outputs.parameters.prats}}: it has no such output",
    ),
    "a task that is not waited for": (
        f"{TASK}/0/arguments/parameters/0/value",
        "{{tasks.sum.outputs.parameters.total}}",
        "{{tasks.sum.outputs.parameters.total}}: it is not waited for",
    ),
    "the artifacts of a fan-out": (
        f"{TASK}/2/arguments/artifacts/0/from",
        "{{tasks.count.outputs.artifacts.shard}}",
        "{{tasks.count.outputs.artifacts.shard}}: a fan-out has only lists",
    ),
    "an output of the outputs": (
        "spec/templates/0/outputs/parameters/0/valueFrom/parameter",
        "{{tasks.sum.outputs.parameters.sum}}",
        "outputs.parameters[0].valueFrom.parameter: {{tasks.sum.outputs.parameters.sum}}: it has no such output",
    ),
    "an item without a loop": (
        f"{TASK}/0/arguments/parameters/0/value",
        "{{item}}",
        "{{item}}: the task has no withItems, withParam or withSequence",
    ),
    "retries without a retryStrategy": (
        "spec/templates/5/container/args/0",
        "{{retries}}",
        "{{retries}}: the template has no retryStrategy",
    ),
    "failures outside an exit handler": (
        "spec/templates/1/container/args/1",
        "{{workflow.failures}}",
        "{{workflow.failures}}: only an exit handler has it",
    ),
    "braces that do not close": (
        "spec/templates/1/container/args/1",
        "{{retries}",
        "args[1]: braces that do not close",
    ),
    "a task that depends names": (
        f"{TASK}/1/depends",
        "paln",
        "spec.templates[0].dag.tasks[1].depends: no task 'paln'",
    ),
    "a result that depends names": (
        f"{TASK}/1/depends",
        "plan.Success",
        "depends: plan.Success: a task's result is one of",
    ),
    "a depends that is no expression": (
        f"{TASK}/1/depends",
        "plan and plan",
        "depends: 'plan and plan' is no expression",
    ),
    "a circle of tasks": (f"{TASK}/0/depends", "sum", "spec.templates[0].dag.tasks[0]: 'plan' waits for itself"),
    "an argument that is not taken": (
        f"{TASK}/0/arguments/parameters/0/name",
        "tsak",
        "spec.templates[0].dag.tasks[0].arguments.parameters[0].name: template 'plan' has no input 'tsak'",
    ),
    "an input that is not given": (
        f"{TASK}/1/arguments/parameters/2",
        ...,
        "spec.templates[0].dag.tasks[1].arguments.parameters: template 'part' needs 'chunks'",
    ),
    "an artifact that is not given": (
        f"{TASK}/2/arguments/artifacts",
        ...,
        "spec.templates[0].dag.tasks[2].arguments.artifacts: template 'sum' needs 'plan'",
    ),
    "a volume": (
        "spec/templates/2/container/volumeMounts/0/name",
        "modle",
        "spec.templates[2].container.volumeMounts[0].name: no volume 'modle'",
    ),
    "a template that stands twice": ("spec/templates/3/name", "part", "spec.templates[3].name: 'part' stands twice"),
    "a template of no type": ("spec/templates/5/container", ..., "spec.templates[5]: a template is exactly one of"),
    "a limit that is no number": (
        "spec/templates/1/retryStrategy/limit",
        "three",
        "retryStrategy.limit: 'three' is no whole",
    ),
    "a variable of no retry": (
        "spec/templates/1/retryStrategy/expression",
        "lastRetry.reason == 'Evicted'",
        "spec.templates[1].retryStrategy.expression: lastRetry.reason: no such variable here",
    ),
    "a duration without a unit": ("spec/templates/1/timeout", "1800", "timeout: '1800' is no duration with a unit"),
    "no account for the executor": (
        "spec/executor",
        ...,
        "automountServiceAccountToken: false needs executor.serviceAccountName",
    ),
    "a display name that Argo refuses": (
        "spec/templates/2/annotations/workflows.argoproj.io~1display-name",
        "part {{inputs.parameters.index}}",
        "Argo fails the node, save for 2 to 63 letters",
    ),
    "a misspelt field in a patch": (
        "spec/podSpecPatch",
        '{"terminationGraceSeconds": 60}',
        "spec.podSpecPatch: terminationGraceSeconds: unknown field",
    ),
    "a container in a patch": (
        "spec/templates/2/podSpecPatch",
        "containers: [{name: mian}]",
        "spec.templates[2].podSpecPatch: containers[0].name: no container 'mian', only main, wait",
    ),
    "a patch that is no YAML": ("spec/podSpecPatch", '{"a": ', "spec.podSpecPatch: while parsing"),
}


@pytest.mark.parametrize(("path", "value", "expected"), REFERENCE_FAULTS.values(), ids=REFERENCE_FAULTS)
def test_a_dangling_reference_is_told_by_its_path(path: str, value: Any, expected: str) -> None:
    problems = validate(changed(sample_template(), path, value))
    assert any(expected in problem for problem in problems), problems

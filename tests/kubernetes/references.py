"""What Argo Workflows refers to by name inside one workflow: templates, tasks, parameters, artifacts, volumes.

The API server sees none of this, and Argo some of it only when a workflow runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.kubernetes.rules import (
    GO_DURATION,
    Object,
    ancestors,
    argument_problems,
    dependencies,
    display_name_problems,
    duplicates,
    expression_problems,
    objects,
    retry_problems,
)
from tests.kubernetes.schemas import join
from tests.kubernetes.variables import RETRY_VARIABLES, WORKFLOW_VARIABLES, Scope, variable_problems

TYPES = ("container", "containerSet", "dag", "data", "http", "plugin", "resource", "script", "steps", "suspend")
# Argo's own list: templates whose standard output is captured.
TYPES_WITH_RESULT = {"container", "containerSet", "data", "http", "plugin", "script"}
CALLERS_FIELDS = frozenset({"dag", "steps"})


def workflow_problems(spec: Object, path: str = "spec") -> Iterator[str]:
    """What does not fit together in the spec of a Workflow, a WorkflowTemplate or the like."""
    yield from _Workflow(spec, path).problems()


@dataclass(frozen=True)
class _Call:
    """A step or a task: where it stands, what it calls, and on what it waits."""

    call: Object
    path: str
    template: Object | None
    ancestors: tuple[str, ...]

    @property
    def is_fan_out(self) -> bool:
        return any(key in self.call for key in ("withItems", "withParam", "withSequence"))


class _Workflow:
    def __init__(self, spec: Object, path: str) -> None:
        self.spec, self.path = spec, path
        listed = [template for template in spec.get("templates") or [] if isinstance(template, dict)]
        self.templates = {template["name"]: template for template in listed if isinstance(template.get("name"), str)}
        self.listed = listed
        self.in_exit_handler = self._reachable(self._exit_templates())

    def problems(self) -> Iterator[str]:
        yield from duplicates(self.listed, join(self.path, "templates"))
        for field in ("entrypoint", "onExit"):
            name = self.spec.get(field)
            if name is not None and self.templates and name not in self.templates:
                yield f"{join(self.path, field)}: no template {name!r}"
        yield from self._hook_problems(self.spec, self.path)
        shared = {
            key: value
            for key, value in self.spec.items()
            if key not in {"templates", "templateDefaults", "podSpecPatch"}
        }
        yield from variable_problems(shared, self._globals("").plus({"workflow.failures"}), self.path)
        yield from retry_problems(self.spec.get("retryStrategy"), join(self.path, "retryStrategy"))
        yield from self._token_problems(self.spec, self.path)
        for position, template in enumerate(self.listed):
            yield from self._template_problems(template, join(self.path, "templates", position))

    def _template_problems(self, template: Object, path: str) -> Iterator[str]:
        kinds = [kind for kind in TYPES if kind in template]
        if len(kinds) != 1:
            yield f"{path}: a template is exactly one of {', '.join(TYPES)}; this is {', '.join(kinds) or 'none'}"
            return
        (kind,) = kinds
        for direction in ("inputs", "outputs"):
            for sort in ("parameters", "artifacts"):
                yield from duplicates(objects(template, direction, sort), join(path, direction, sort))
        yield from retry_problems(template.get("retryStrategy"), join(path, "retryStrategy"))
        yield from self._token_problems(template, path)
        yield from display_name_problems(template, path)
        scope = self._template_scope(template)
        if kind in {"dag", "steps"}:
            yield from self._calls_problems(template, kind, scope, path)
            return
        if "parallelism" in template:
            yield f"{join(path, 'parallelism')}: only steps and dag templates have it"
        timeout = template.get("timeout")
        if isinstance(timeout, str) and "{{" not in timeout and not GO_DURATION.fullmatch(timeout):
            yield f"{join(path, 'timeout')}: {timeout!r} is no duration with a unit, such as '30m'"
        yield from variable_problems(template, scope, path)
        yield from self._volume_problems(template, kind, path)

    def _calls_problems(self, template: Object, kind: str, scope: Scope, path: str) -> Iterator[str]:
        for field in ("timeout", "activeDeadlineSeconds"):
            if field in template:
                yield f"{join(path, field)}: steps and dag templates do not have it"
        yield from variable_problems(template, scope, path, skip=CALLERS_FIELDS | {"outputs"})
        if kind == "dag":
            calls, problems = self._tasks(template, join(path, "dag", "tasks"))
            prefix = "tasks"
        else:
            calls, problems = self._steps(template, join(path, "steps"))
            prefix = "steps"
        yield from problems
        for call in calls.values():
            yield from self._call_problems(call, calls, prefix, scope)
        everything = self._results(calls, prefix, tuple(calls), scope)
        outputs = template.get("outputs") or {}
        yield from variable_problems(outputs, everything, join(path, "outputs"))
        for sort in ("parameters", "artifacts"):
            for position, output in enumerate(objects(template, "outputs", sort)):
                source = output.get("valueFrom") or {} if sort == "parameters" else output
                expression = source.get("expression" if sort == "parameters" else "fromExpression")
                where = join(path, "outputs", sort, position)
                yield from expression_problems(expression, everything, where)

    def _tasks(self, template: Object, path: str) -> tuple[dict[str, _Call], list[str]]:
        listed = objects(template, "dag", "tasks")
        problems = list(duplicates(listed, path))
        names = {task["name"] for task in listed if isinstance(task.get("name"), str)}
        waits: dict[str, set[str]] = {}
        for position, task in enumerate(listed):
            where = join(path, position)
            waits[task.get("name", "")], found = dependencies(task, names, listed, where)
            problems += found
        calls = {}
        for position, task in enumerate(listed):
            waited_for = ancestors(task.get("name", ""), waits)
            if task.get("name") in waited_for:
                problems.append(f"{join(path, position)}: {task['name']!r} waits for itself")
            calls[task.get("name", "")] = _Call(
                task, join(path, position), self._called(task), tuple(sorted(waited_for))
            )
        return calls, problems

    def _steps(self, template: Object, path: str) -> tuple[dict[str, _Call], list[str]]:
        calls: dict[str, _Call] = {}
        problems: list[str] = []
        for group_position, group in enumerate(template.get("steps") or []):
            before = tuple(calls)
            for position, step in enumerate(group if isinstance(group, list) else []):
                where = join(path, group_position, position)
                if step.get("name") in calls:
                    problems.append(f"{join(where, 'name')}: {step['name']!r} stands twice")
                calls[step.get("name", "")] = _Call(step, where, self._called(step), before)
        return calls, problems

    def _call_problems(self, call: _Call, calls: dict[str, _Call], prefix: str, scope: Scope) -> Iterator[str]:
        scope = self._results(calls, prefix, call.ancestors, scope)
        items = [key for key in ("withItems", "withParam", "withSequence") if key in call.call]
        if len(items) > 1:
            yield f"{call.path}: only one of {', '.join(items)} may stand here"
        item_names = {"item", "item."} if items else set()
        name = call.call.get("name")
        in_hooks = scope.plus({f"{prefix}.{name}.", f"{prefix}.{name}.status"})
        for key, value in call.call.items():
            where = join(call.path, key)
            if key == "inline" and isinstance(value, dict):
                yield from self._template_problems({"name": name, **value}, where)
            elif key == "hooks":
                yield from variable_problems(value, in_hooks, where)
            elif key in {"withItems", "withParam", "withSequence"}:
                yield from variable_problems(value, scope, where)
            else:
                reason = {"item": "the task has no withItems, withParam or withSequence"}
                yield from variable_problems(value, scope.plus(item_names, reason), where)
        yield from self._hook_problems(call.call, call.path)
        named = call.call.get("template")
        if "templateRef" in call.call:
            return
        if "inline" not in call.call and call.template is None:
            yield f"{join(call.path, 'template')}: no template {named!r}"
        elif call.template is not None:
            yield from argument_problems(call.call, call.template, call.path)

    def _hook_problems(self, holder: Object, path: str) -> Iterator[str]:
        for event, hook in (holder.get("hooks") or {}).items():
            where = join(path, "hooks", event)
            name = hook.get("template")
            if "templateRef" not in hook and self.templates and name not in self.templates:
                yield f"{join(where, 'template')}: no template {name!r}"
            if event != "exit" and not hook.get("expression"):
                yield f"{join(where, 'expression')}: required, save for the hook named exit"

    def _token_problems(self, holder: Object, path: str) -> Iterator[str]:
        executor = {**(self.spec.get("executor") or {}), **(holder.get("executor") or {})}
        if holder.get("automountServiceAccountToken") is False and not executor.get("serviceAccountName"):
            yield f"{join(path, 'automountServiceAccountToken')}: false needs executor.serviceAccountName"

    def _volume_problems(self, template: Object, kind: str, path: str) -> Iterator[str]:
        claims = [claim.get("metadata") or {} for claim in self.spec.get("volumeClaimTemplates") or []]
        volumes = {
            volume.get("name") for volume in [*objects(self.spec, "volumes"), *objects(template, "volumes"), *claims]
        }
        containers = [(join(path, kind), template[kind])] if kind in {"container", "script"} else []
        for field in ("initContainers", "sidecars"):
            containers += [(join(path, field, at), container) for at, container in enumerate(objects(template, field))]
        if kind == "containerSet":
            containers += [
                (join(path, kind, "containers", at), item)
                for at, item in enumerate(objects(template, kind, "containers"))
            ]
        for where, container in containers:
            for position, mount in enumerate(objects(container, "volumeMounts")):
                if mount.get("name") not in volumes and "{{" not in str(mount.get("name")):
                    yield f"{join(where, 'volumeMounts', position, 'name')}: no volume {mount.get('name')!r}"

    def _template_scope(self, template: Object) -> Scope:
        scope = self._globals(template.get("name", ""))
        names = {"inputs.parameters"}
        reasons: dict[str, str] = {}
        for parameter in objects(template, "inputs", "parameters"):
            names.add(f"inputs.parameters.{parameter.get('name')}")
        for artifact in objects(template, "inputs", "artifacts"):
            names |= {f"inputs.artifacts.{artifact.get('name')}", f"inputs.artifacts.{artifact.get('name')}.path"}
        for parameter in objects(template, "outputs", "parameters"):
            names.add(f"outputs.parameters.{parameter.get('name')}.path")
        for artifact in objects(template, "outputs", "artifacts"):
            names.add(f"outputs.artifacts.{artifact.get('name')}.path")
        if not {"dag", "steps"} & set(template):
            names |= {"pod.name"}
        has_retries = any(
            "retryStrategy" in holder for holder in (template, self.spec, self.spec.get("templateDefaults") or {})
        )
        names |= RETRY_VARIABLES if has_retries else set()
        reasons |= {} if has_retries else dict.fromkeys(("retries", "lastRetry"), "the template has no retryStrategy")
        # The name that a template has for its caller.
        names |= {"tasks.name", "steps.name"}
        return scope.plus(names, reasons)

    def _globals(self, template: str) -> Scope:
        names = set(WORKFLOW_VARIABLES)
        reasons: dict[str, str] = {}
        for parameter in objects(self.spec, "arguments", "parameters"):
            names.add(f"workflow.parameters.{parameter.get('name')}")
        if "workflowTemplateRef" in self.spec:
            names.add("workflow.parameters.")
        if "priority" in self.spec:
            names.add("workflow.priority")
        if template in self.in_exit_handler:
            names.add("workflow.failures")
        else:
            reasons["workflow.failures"] = "only an exit handler has it"
        for other in self.listed:
            for sort in ("parameters", "artifacts"):
                exported = [
                    output["globalName"] for output in objects(other, "outputs", sort) if output.get("globalName")
                ]
                names |= {f"workflow.outputs.{sort}.{'' if '{{' in name else name}" for name in exported}
        return Scope(frozenset(names), reasons)

    def _results(self, calls: dict[str, _Call], prefix: str, ancestors: tuple[str, ...], scope: Scope) -> Scope:
        """The scope with what the calls before this one have put out."""
        names: set[str] = set()
        reasons: dict[str, str] = {}
        for name, call in calls.items():
            key = f"{prefix}.{name}"
            if name not in ancestors:
                reasons[key] = "it is not waited for" if prefix == "tasks" else "it does not stand in an earlier group"
                continue
            reasons[key] = "it has no such output"
            if call.template is None:
                names.add(f"{key}.")
                continue
            outputs = {
                f"{key}.outputs.parameters.{output.get('name')}"
                for output in objects(call.template, "outputs", "parameters")
            }
            if TYPES_WITH_RESULT & set(call.template):
                outputs.add(f"{key}.outputs.result")
            if call.is_fan_out:
                # Of a fan-out Argo has only the lists of its items' outputs, and it waits for ever for anything else.
                reasons[key] = "a fan-out has only lists of its items' output parameters and results"
                names |= outputs | {f"{key}.outputs.parameters"}
                continue
            states = ("id", "startedAt", "finishedAt", "status", "hostNodeName")
            names |= outputs | {f"{key}.{state}" for state in states}
            names |= {
                f"{key}.outputs.artifacts.{output.get('name')}"
                for output in objects(call.template, "outputs", "artifacts")
            }
            names |= {f"{key}.exitCode"} if TYPES_WITH_RESULT & set(call.template) else set()
            names |= {f"{key}.ip"} if call.template.get("daemon") else set()
        return scope.plus(names, reasons)

    def _called(self, call: Object) -> Object | None:
        inline = call.get("inline")
        if isinstance(inline, dict):
            return {"name": call.get("name"), **inline}
        return None if "templateRef" in call else self.templates.get(call.get("template", ""))

    def _exit_templates(self) -> set[str]:
        hooks = [hook.get("template") for hook in (self.spec.get("hooks") or {}).values()]
        return {name for name in [self.spec.get("onExit"), *hooks] if isinstance(name, str)}

    def _reachable(self, names: set[str]) -> set[str]:
        reached: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            template = self.templates.get(name, {})
            groups = template.get("steps") or []
            calls = [
                *objects(template, "dag", "tasks"),
                *(step for group in groups if isinstance(group, list) for step in group),
            ]
            waiting += [call["template"] for call in calls if isinstance(call.get("template"), str)]
        return reached

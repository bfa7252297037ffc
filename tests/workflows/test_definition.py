"""What the WorkflowTemplate promises, whatever its settings."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import click
import pytest
import yaml

from steps.cli import cli
from steps.options import Options
from steps.settings import Settings
from steps.variables import check_variables
from tests.workflows.expressions import evaluate
from tests.workflows.rendered import PROFILE, VARIANTS, containers, pod_templates, rendered, spec

NAMES = sorted(pod_templates())
WITH_SERVER = {"detect", "detect-and-aggregate", "whole-job"}
_TAG = re.compile(r"\{\{.*?\}\}")


def environment(template: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in template["container"]["env"]}


def strings(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Every text in an object, with where it stands."""
    if isinstance(value, dict):
        return [found for key, member in value.items() for found in strings(member, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for at, member in enumerate(value) for found in strings(member, f"{path}[{at}]")]
    return [(path, value)] if isinstance(value, str) else []


# Entry points and parameters


def test_there_are_two_entry_points() -> None:
    templates = {template["name"]: template for template in spec()["templates"]}
    assert spec()["entrypoint"] == "main"
    assert [task["name"] for task in templates["main"]["dag"]["tasks"]] == ["plan", "analyse"]
    assert [task["template"] for task in templates["single"]["dag"]["tasks"]] == ["whole-job"]


def test_a_parameter_for_each_option_of_a_task_and_for_the_task_itself() -> None:
    names = [parameter["name"] for parameter in spec()["arguments"]["parameters"]]
    of_task = {"body", "message_id", "bucket", "object", "id", "title"}
    assert len(names) == len(set(names))
    assert set(names) == of_task | set(Options.model_fields) - {"priority"}


def test_every_parameter_may_be_left_out_and_says_what_it_means() -> None:
    for parameter in spec()["arguments"]["parameters"]:
        assert parameter["value"] == ""
        assert parameter["description"]


def test_a_message_stands_in_the_spec_as_base64_alone() -> None:
    # Argo evaluates double braces in values. What a message says comes in by `body`, encoded, and goes only to a flag.
    used = [
        (path, text)
        for path, text in strings(spec())
        if "workflow.parameters." in text and not path.startswith(".arguments")
    ]
    flags = [(path, text) for path, text in used if ".container.args[" in path]
    assert {path for path, _ in used} - {path for path, _ in flags} == {
        ".workflowMetadata.annotations.workflows.argoproj.io/title"
    }
    for _, text in flags:
        whole = re.fullmatch(r"--[a-z-]+=\{\{workflow\.parameters\.[a-z_]+\}\}", text)
        assert whole or text.startswith("--message-id={{=workflow.parameters.message_id != ''")
    assert {text for _, text in flags if "parameters.body" in text} == {"--body={{workflow.parameters.body}}"}


def test_nothing_from_outside_names_a_node_a_lock_or_an_object() -> None:
    for path, text in strings(spec()):
        if path.endswith(("display-name", ".key", ".mutexes[0].name")):
            assert "workflow.parameters" not in text, path


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"title": "", "bucket": "b", "object": "k.mp4"}, "b/k.mp4"),
        ({"title": "Monday", "bucket": "b", "object": "k.mp4"}, "Monday"),
        ({"body": "e30=", "message_id": "a-1"}, "message a-1"),
        ({"body": "e30="}, "message reelscan-7hk2p"),
    ],
)
def test_a_run_is_titled_by_its_video_or_as_the_sender_says(given: dict[str, str], title: str) -> None:
    text = spec()["workflowMetadata"]["annotations"]["workflows.argoproj.io/title"]
    empty = dict.fromkeys((parameter["name"] for parameter in spec()["arguments"]["parameters"]), "")
    variables = {f"workflow.parameters.{name}": value for name, value in {**empty, **given}.items()}
    variables["workflow.name"] = "reelscan-7hk2p"
    assert evaluate(text.removeprefix("{{=").removesuffix("}}"), variables) == title


def test_equal_runs_take_turns_by_the_name_of_the_run() -> None:
    (analyse,) = (template for template in spec()["templates"] if template["name"] == "analyse")
    assert analyse["synchronization"] == {"mutexes": [{"name": "{{inputs.parameters.run}}"}]}
    leased = {name for name in NAMES if "--lease-owner={{workflow.uid}}" in pod_templates()[name]["container"]["args"]}
    assert leased == {"detect", "aggregate", "detect-and-aggregate", "whole-job"}


def test_a_chunk_that_fails_takes_no_other_along_and_all_are_merged() -> None:
    templates = {template["name"]: template for template in spec()["templates"]}
    assert templates["analyse"]["dag"]["failFast"] is False
    assert templates["analyse"]["parallelism"] == 20
    (aggregate,) = (task for task in templates["analyse"]["dag"]["tasks"] if task["name"] == "aggregate")
    assert {"detect.Failed", "detect.Errored", "detect.Succeeded"} <= set(aggregate["depends"].split(" || "))
    # But for the chunk that is analysed by the pod that merges: see `alone` of plan.
    assert aggregate["when"] == "{{inputs.parameters.alone}} != 1"


def test_finish_has_no_pod_when_the_run_succeeded() -> None:
    (handler,) = (template for template in spec()["templates"] if template["name"] == spec()["onExit"])
    # A DAG would be given up by `argo stop` in Argo 4.0.2.
    ((finish,),) = handler["steps"]
    assert finish["when"] == "{{workflow.status}} != Succeeded"
    assert finish["template"] == "finish"


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ("null", "internal"),
        ('[{"message":"main: Error (exit code 4)"}]', "internal"),
        ("[{\"message\":\"workflow shutdown with strategy:  Stop\"}]", "stopped"),
        ("[{\"message\":\"Stopped with strategy 'Stop'\"}]", "stopped"),
        ("[{\"message\":\"retry exceeded workflow deadline 2026-01-01\"}]", "timeout"),
        ('[{"message":"Pod was active on the node longer than the specified deadline"}]', "timeout"),
        ('[{"message":"Step exceeded its deadline"}]', "timeout"),
    ],
)  # fmt: skip
def test_finish_tells_why_in_words_of_its_own(failures: str, code: str) -> None:
    flags = dict(text.split("=", 1) for text in pod_templates()["finish"]["container"]["args"][1:])
    for flag in ("--code", "--message"):
        said = evaluate(flags[flag].removeprefix("{{=").removesuffix("}}"), {"workflow.failures": failures})
        assert said == code if flag == "--code" else re.fullmatch(r"[a-z, ]+", said)


def failures_of(*nodes: tuple[str, str, str | None]) -> str:
    """Nodes that failed, as Argo's `operator.go` gives them: template, message and end of each."""
    listed = [
        {
            "displayName": "a name",
            "message": message,
            "templateName": template,
            "phase": "Failed",
            "podName": f"task-x-{template}-123",
            "finishedAt": finished_at,
        }
        for template, message, finished_at in nodes
    ]
    return json.dumps(json.dumps(listed, separators=(",", ":")))


FORGED = '","templateName":"plan","phase":"Failed","podName":"p","finishedAt":"9999-01-01T00:00:00Z"}'


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ("null", ""),
        (failures_of(("plan", "", None)), ""),
        (failures_of(("plan", "", "2026-01-31T12:00:00Z")), "2026-01-31T12:00:00Z"),
        (
            failures_of(("plan", "", "2026-01-31T12:00:03Z"), ("main", "", "2026-01-31T12:00:09Z"), ("x", "", None)),
            "2026-01-31T12:00:09Z",
        ),
        (
            failures_of(("finish", "exit code 4", "2026-01-31T12:00:30Z"), ("plan", "", "2026-01-31T12:00:03Z"),
                        ("report-failure", "", "2026-01-31T12:00:31Z")),
            "2026-01-31T12:00:03Z",
        ),
        (failures_of(("plan", FORGED, "2026-01-31T12:00:03Z")), "2026-01-31T12:00:03Z"),
        (failures_of(("finish", FORGED, "2026-01-31T12:00:03Z")), ""),
    ],
)  # fmt: skip
def test_finish_is_told_when_the_last_step_failed_itself_aside(failures: str, told: str) -> None:
    flags = dict(text.split("=", 1) for text in pod_templates()["finish"]["container"]["args"][1:])
    expression = flags["--failed-at"].removeprefix("{{=").removesuffix("}}")
    assert evaluate(expression, {"workflow.failures": failures}) == told


# Pods


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_container_is_confined_and_has_its_resources(variant: str, name: str) -> None:
    for container in containers(pod_templates(variant)[name]):
        confined = container["securityContext"]
        assert confined["runAsNonRoot"] is True
        assert confined["runAsUser"] == 1000
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert confined["seccompProfile"] == {"type": "RuntimeDefault"}
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(requests)
        for what in ("memory", "ephemeral-storage"):
            assert requests[what] == limits[what]
        # Argo asks the image's registry for a command that does not stand here.
        assert container["command"]


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_has_a_deadline_a_bound_on_its_disk_and_a_name_for_people(name: str) -> None:
    template = pod_templates()[name]
    assert template["activeDeadlineSeconds"] > 0
    assert all(volume["emptyDir"]["sizeLimit"] for volume in template["volumes"])
    assert template["annotations"]["workflows.argoproj.io/display-name"]
    assert template["metadata"]["annotations"]["workflows.argoproj.io/progress"] == "0/100"
    assert "timeout" not in template  # it would replace the deadline, and count the wait for a node


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_pod_has_a_token_but_in_argos_own_container(variant: str) -> None:
    assert spec(variant)["automountServiceAccountToken"] is False
    assert spec(variant)["executor"]["serviceAccountName"] != spec(variant)["serviceAccountName"]
    for document in rendered(variant):
        if document["kind"] == "ServiceAccount":
            assert document["automountServiceAccountToken"] is False
    for template in pod_templates(variant).values():
        assert not {"automountServiceAccountToken", "serviceAccountName", "executor"} & set(template)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_executor_may_tell_results_and_nothing_else(variant: str) -> None:
    (role,) = (document for document in rendered(variant) if document["kind"] == "Role")
    (binding,) = (document for document in rendered(variant) if document["kind"] == "RoleBinding")
    (secret,) = (document for document in rendered(variant) if document["kind"] == "Secret")
    executor = spec(variant)["executor"]["serviceAccountName"]
    assert role["rules"] == [
        {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
    ]
    assert [subject["name"] for subject in binding["subjects"]] == [executor]
    # The name under which Argo looks for it.
    assert secret["metadata"]["name"] == f"{executor}.service-account-token"


def test_pods_are_not_root_whoever_brings_their_containers() -> None:
    assert spec()["securityContext"]["runAsNonRoot"] is True
    assert spec()["securityContext"]["runAsUser"] == 1000


def test_nothing_takes_a_pod_away_that_need_not() -> None:
    (budget,) = (document for document in rendered() if document["kind"] == "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 9999
    selected = budget["spec"]["selector"]["matchLabels"]
    assert selected.items() <= spec()["podMetadata"]["labels"].items()
    # Two budgets of one pod are an error of their own.
    assert "podDisruptionBudget" not in spec()
    assert selected == {"reelscan.dev/workflow": "reelscan"}
    annotations = spec()["podMetadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_a_run_and_its_pods_go_but_its_results_stay() -> None:
    assert spec()["ttlStrategy"] == {"secondsAfterSuccess": 86400, "secondsAfterFailure": 604800}
    assert spec()["podGC"]["strategy"] == "OnPodSuccess"
    assert "artifactGC" not in spec()
    assert not [path for path, _ in strings(spec()) if "artifactGC" in path]


def test_waiting_for_a_node_has_a_limit_of_its_own() -> None:
    assert spec()["activeDeadlineSeconds"] == 21600 + 43200
    assert pod_templates()["whole-job"]["activeDeadlineSeconds"] == 21600
    assert pod_templates()["detect"]["activeDeadlineSeconds"] == 7200


# The model server


@pytest.mark.parametrize("name", NAMES)
def test_only_pods_that_analyse_have_a_model_server_and_its_nodes(name: str) -> None:
    template = pod_templates()[name]
    servers = template.get("initContainers", [])
    assert len(servers) == (name in WITH_SERVER)
    assert template["nodeSelector"] == {"inference": "true" if servers else "false"}
    assert bool(template.get("tolerations")) == bool(servers)
    for server in servers:
        # A native sidecar: started first, started again if it dies, and no reason for the pod to stay.
        assert server["restartPolicy"] == "Always"


def test_a_gpu_goes_to_the_model_server_alone() -> None:
    for name, template in pod_templates("a GPU").items():
        for container in containers(template):
            has_gpu = container["resources"]["limits"].get("nvidia.com/gpu") == "1"
            assert has_gpu == (name in WITH_SERVER and container.get("name") == "serving")
    for template in pod_templates().values():
        assert "nvidia.com/gpu" not in str(template)


# The steps


def command_of(template: dict[str, Any]) -> click.Command:
    command = cli.get_command(click.Context(cli), template["container"]["args"][0])
    assert command is not None
    return command


@pytest.mark.parametrize("name", NAMES)
def test_each_step_is_called_with_flags_that_it_has(name: str) -> None:
    template = pod_templates()[name]
    assert template["container"]["command"] == ["reelscan"]
    arguments = [_TAG.sub("1", text) for text in template["container"]["args"][1:]]
    # An unknown flag, and one without its value, is an error here.
    command_of(template).make_context(name, arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_step_can_read_its_settings(variant: str, name: str) -> None:
    variables = environment(pod_templates(variant)[name])
    check_variables(variables)
    settings = Settings.from_environment(variables)
    Options.defaults(variables)
    assert settings.results == "s3://results-bucket/reelscan"
    assert settings.serving == "127.0.0.1:8500"
    assert all((settings.completed_queue, settings.dead_letter_queue))


def test_a_step_ends_itself_before_its_pod_is_ended() -> None:
    for name, limit in (("plan", "PLAN"), ("detect", "CHUNK"), ("detect-and-aggregate", "CHUNK"), ("whole-job", "JOB")):
        template = pod_templates()[name]
        seconds = float(environment(template)[f"REELSCAN_{limit}_TIMEOUT_SECONDS"])
        assert seconds < template["activeDeadlineSeconds"], name


def test_a_model_profile_of_ones_own_is_mounted_where_the_steps_look_for_it() -> None:
    variant = "a model profile of one's own"
    (profile,) = (
        document
        for document in rendered(variant)
        if document["kind"] == "ConfigMap" and "reelscan.json" in document["data"]
    )
    assert json.loads(profile["data"]["reelscan.json"]) == json.loads(PROFILE.read_text())
    for template in pod_templates(variant).values():
        (volume,) = (volume for volume in template["volumes"] if "configMap" in volume)
        (mount,) = (mount for mount in template["container"]["volumeMounts"] if mount["name"] == volume["name"])
        assert volume["configMap"]["name"] == profile["metadata"]["name"]
        assert environment(template)["REELSCAN_MODEL_PROFILE"] == f"{mount['mountPath']}/reelscan.json"


def test_keys_come_from_the_secret_for_steps_and_artifacts() -> None:
    variant = "a Secret with keys"
    for template in pod_templates(variant).values():
        assert template["container"]["envFrom"] == [{"secretRef": {"name": "aws"}}]
    maps = [document for document in rendered(variant) if document["kind"] == "ConfigMap"]
    (artifacts,) = [document for document in maps if document["metadata"]["name"].endswith("-artifacts")]
    s3 = yaml.safe_load(artifacts["data"]["s3"])["s3"]
    assert s3["accessKeySecret"] == {"name": "aws", "key": "AWS_ACCESS_KEY_ID"}
    assert (s3["endpoint"], s3["insecure"], s3["region"]) == ("10.0.0.1:5000", True, "eu-west-1")
    assert "useSDKCreds" not in s3


def test_artifacts_are_files_as_they_are_and_none_is_missed() -> None:
    for name in ("plan", "aggregate", "detect-and-aggregate", "whole-job"):
        artifacts = pod_templates()[name]["outputs"]["artifacts"]
        assert {"summary", "frames"} <= {artifact["name"] for artifact in artifacts}
        assert all(artifact["optional"] and artifact["archive"] == {"none": {}} for artifact in artifacts)
    assert "artifactRepositoryRef" not in spec("no artifacts")
    assert all("artifacts" not in template.get("outputs", {}) for template in pod_templates("no artifacts").values())


def test_progress_is_told_within_seconds() -> None:
    for template in pod_templates().values():
        patch = json.loads(_TAG.sub("1Gi", template["podSpecPatch"]))
        (wait,) = (container for container in patch["containers"] if container["name"] == "wait")
        ticks = {variable["name"]: variable["value"] for variable in wait["env"]}
        assert set(ticks) == {"ARGO_PROGRESS_PATCH_TICK_DURATION", "ARGO_PROGRESS_FILE_TICK_DURATION"}
        assert all(int(value.removesuffix("s")) <= 5 for value in ticks.values())


def test_the_modules_of_the_definition_are_imported_by_no_step(subprocess_modules: set[str]) -> None:
    assert importlib.import_module("hera")
    assert not {name.split(".")[0] for name in subprocess_modules} & {"hera", "yaml", "workflows", "local"}


def test_runs_wait_for_their_turn_by_a_limit_that_can_be_changed_while_they_do() -> None:
    (semaphore,) = spec()["synchronization"]["semaphores"]
    place = semaphore["configMapKeyRef"]
    (limits,) = [d for d in rendered() if d["kind"] == "ConfigMap" and d["metadata"]["name"] == place["name"]]
    assert limits["data"] == {place["key"]: "20"}


def test_the_controller_counts_the_runs_that_ended() -> None:
    metrics = {metric["name"]: metric for metric in spec()["metrics"]["prometheus"]}
    assert metrics["reelscan_runs_total"]["counter"] == {"value": "1"}
    assert {label["key"] for label in metrics["reelscan_runs_total"]["labels"]} == {"namespace", "workflow", "phase"}
    assert metrics["reelscan_run_seconds"]["histogram"]["value"] == "{{workflow.duration}}"

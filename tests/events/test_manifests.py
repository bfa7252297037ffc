"""The objects of Argo Events: strictly valid, and so written that no message is lost on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from events.deployment import OVERLAYS, kustomization, reconciler_kustomization, write_deployment
from events.runs import FINALIZER, FROM_MESSAGE, NAME_START, ORIGIN_LABEL
from tests.kubernetes.validation import validate
from workflows import WorkflowSettings
from workflows.reconciler import ACCOUNT, reconciler

EVENTS = OVERLAYS.parent
FILES = sorted(
    path
    for folder in ("base", "overlays", "reconciler")
    for path in (EVENTS / folder).rglob("*.yaml")
    if path.name != "kustomization.yaml"
)
DOCUMENTS = [(path, document) for path in FILES for document in yaml.safe_load_all(path.read_text())]


def the(kind: str, name: str | None = None) -> dict[str, Any]:
    """The one object of a kind, or of a kind and name."""
    (found,) = [d for _, d in DOCUMENTS if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    return found


@pytest.mark.parametrize(
    ("path", "document"), DOCUMENTS, ids=[f"{path.stem}-{d['kind']}-{d['metadata']['name']}" for path, d in DOCUMENTS]
)
def test_each_object_is_strictly_valid(path: Path, document: dict[str, Any]) -> None:
    assert validate(document) == []


@pytest.mark.parametrize("version", ["3.7", "4.0"])
@pytest.mark.parametrize("namespace", [None, "accounts"])
def test_the_reconciler_is_strictly_valid(namespace: str | None, version: str) -> None:
    settings = WorkflowSettings(namespace="video", reconciler_namespace=namespace, aws_secret="aws")
    assert validate(reconciler(settings).to_dict(), version) == []


def test_every_file_is_part_of_a_kustomization() -> None:
    for path in FILES:
        listed = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
        assert path.name in listed["resources"] + listed.get("patches", []), path


def test_the_bus_keeps_messages_and_refuses_when_it_is_full() -> None:
    jetstream = the("EventBus")["spec"]["jetstream"]
    assert "persistence" in jetstream
    assert jetstream["replicas"] >= 3
    stream = yaml.safe_load(jetstream["streamConfig"])
    assert (stream["discard"], stream["retention"], stream["maxMsgs"]) == (1, 0, -1)
    assert stream["replicas"] == jetstream["replicas"]
    assert 0 < stream["maxBytes"] < 10 * 2**30


def test_the_test_overlay_s_bus_differs_in_size_alone() -> None:
    patches = yaml.safe_load((OVERLAYS / "test/kustomization.yaml").read_text())["patches"]
    (patch,) = [yaml.safe_load(p["patch"]) for p in patches if "kind: EventBus" in p["patch"]]
    theirs, ours = (yaml.safe_load(bus["spec"]["jetstream"]["streamConfig"]) for bus in (patch, the("EventBus")))
    assert {**theirs, "replicas": 0, "maxBytes": 0} == {**ours, "replicas": 0, "maxBytes": 0}
    assert patch["spec"]["jetstream"]["replicas"] == theirs["replicas"] == 1


def test_the_source_hands_on_every_body_and_takes_its_credentials_from_the_account() -> None:
    queues = the("EventSource")["spec"]["sqs"]
    assert len(queues) == 1
    queue = queues["task"]
    assert queue["jsonBody"] is False
    assert not {"accessKey", "secretKey", "sessionToken", "roleARN", "filter", "endpoint"} & set(queue)


def test_the_sensor_tries_for_more_than_an_hour_and_then_keeps_the_message() -> None:
    (trigger,) = the("Sensor")["spec"]["triggers"]
    for one in (trigger, trigger["dlqTrigger"]):
        # Beside the template: inside, it is ignored.
        assert one["atLeastOnce"] is True
        assert "atLeastOnce" not in one["template"]
        retry = one["retryStrategy"]
        assert (
            retry["steps"]
            * float(retry["duration"].removesuffix("s"))
            * (1 - retry.get("jitter", 0))
            * (1 if retry["factor"] == 1 else 0)
            >= 2880
        )
        assert one["template"]["k8s"]["operation"] == "patch"
    assert trigger["retryStrategy"]["steps"] * 5 >= 3600
    assert "rateLimit" in trigger
    assert "policy" not in trigger


def test_nothing_of_a_message_reaches_the_spec_but_its_id_its_encoded_body_and_a_digit() -> None:
    (trigger,) = the("Sensor")["spec"]["triggers"]
    sources = {p["dest"]: p["src"] for p in trigger["template"]["k8s"]["parameters"]}
    assert {dest: src.get("dataKey", src.get("value")) for dest, src in sources.items()} == {
        "spec.workflowTemplateRef.name": "reelscan",
        "metadata.name": "messageId",
        "spec.arguments.parameters.0.value": "body",
        "spec.arguments.parameters.1.value": "messageId",
        r"metadata.annotations.reelscan\.dev/title": "a message that names no video",
        r"metadata.annotations.workflows\.argoproj\.io/title": "a message that names no video",
        r"metadata.labels.reelscan\.dev/workflow": "reelscan",
    }
    assert (
        sources[r"metadata.annotations.workflows\.argoproj\.io/title"]
        == sources[r"metadata.annotations.reelscan\.dev/title"]
    )
    title = sources[r"metadata.annotations.reelscan\.dev/title"]["dataTemplate"]
    (kept,) = re.findall(r'regexReplaceAll "\[\^(.*)\]" \$title "_" -}}$', title)
    assert not set('{}"\\\n\x1b') & set(kept.replace(r"\\p{L}\\p{N}", ""))
    (priority,) = trigger["parameters"]
    assert (priority["dest"], priority["operation"], priority["src"]["value"]) == ("k8s.source.inline", "append", "0")
    assert "min 9 (max 0" in priority["src"]["dataTemplate"]


@pytest.mark.parametrize("digit", range(10))
def test_each_priority_that_is_appended_makes_a_number(digit: int) -> None:
    (trigger,) = the("Sensor")["spec"]["triggers"]
    made = yaml.safe_load(f"{trigger['template']['k8s']['source']['inline']}{digit}")
    assert made["spec"]["priority"] == digit
    assert type(made["spec"]["priority"]) is int


def test_what_the_sensor_makes_is_what_the_reconciler_looks_for() -> None:
    (trigger,) = the("Sensor")["spec"]["triggers"]
    made = yaml.safe_load(trigger["template"]["k8s"]["source"]["inline"] + "0")
    assert made["metadata"]["finalizers"] == [FINALIZER]
    assert made["metadata"]["labels"][ORIGIN_LABEL] == FROM_MESSAGE
    assert made["metadata"]["name"] == NAME_START
    assert [p["name"] for p in made["spec"]["arguments"]["parameters"]] == ["body", "message_id"]


def test_each_account_has_no_more_rights_than_it_needs() -> None:
    rules = {
        (d["metadata"]["name"], group, resource): set(rule["verbs"])
        for _, d in DOCUMENTS
        if d["kind"] == "Role"
        for rule in d["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rules == {
        ("reelscan-sensor", "argoproj.io", "workflows"): {"get", "create", "patch"},
        ("reelscan-sensor", "", "configmaps"): {"get", "create", "patch"},
        ("reelscan-reconciler", "argoproj.io", "workflows"): {"get", "list", "patch"},
        ("reelscan-reconciler", "", "configmaps"): {"get", "list", "delete"},
    }
    assert [d["metadata"]["name"] for _, d in DOCUMENTS if d["kind"] == "ClusterRole"] == []
    without_token = {"reelscan-bus", "reelscan-source"}
    assert {
        d["metadata"]["name"]
        for _, d in DOCUMENTS
        if d["kind"] == "ServiceAccount" and d.get("automountServiceAccountToken") is False
    } == without_token
    assert the("ServiceAccount", ACCOUNT)


def test_every_container_is_confined() -> None:
    bus = the("EventBus")["spec"]["jetstream"]
    contexts = [bus[part]["securityContext"] for part in bus if part.lower().endswith("containertemplate")]
    contexts += [the(kind)["spec"]["template"]["container"]["securityContext"] for kind in ("EventSource", "Sensor")]
    assert len(contexts) == 5
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_a_deployment_s_settings_reach_every_object(tmp_path: Path) -> None:
    settings = WorkflowSettings(
        name="mine", namespace="video", task_queue="tasks", aws_region="eu-central-1", aws_secret="keys",
        aws_endpoint_url="http://aws.test:5000",
    )  # fmt: skip
    written = kustomization(settings, OVERLAYS / "test", tmp_path)
    changes = {p["target"]["kind"]: {c["path"]: c["value"] for c in json.loads(p["patch"])} for p in written["patches"]}
    assert written["namespace"] == "video"
    assert changes["EventSource"]["/spec/sqs/task/queue"] == "tasks"
    assert changes["EventSource"]["/spec/sqs/task/region"] == "eu-central-1"
    assert changes["EventSource"]["/spec/sqs/task/endpoint"] == "http://aws.test:5000"
    assert changes["EventSource"]["/spec/template/container/envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert list(changes["Sensor"].values()) == ["mine", "mine"]
    parameters = the("Sensor")["spec"]["triggers"][0]["template"]["k8s"]["parameters"]
    named = [parameters[int(path.split("/")[-3])]["dest"] for path in changes["Sensor"]]
    assert named == ["spec.workflowTemplateRef.name", r"metadata.labels.reelscan\.dev/workflow"]
    assert changes["PersistentVolume"]["/metadata/name"] == "video-bus"


def test_each_patch_of_a_deployment_finds_what_it_replaces(tmp_path: Path) -> None:
    settings = WorkflowSettings(namespace="video", aws_region="eu-central-1")
    for patch in kustomization(settings, OVERLAYS / "test", tmp_path)["patches"]:
        target = the(patch["target"]["kind"], patch["target"]["name"])
        for change in json.loads(patch["patch"]):
            if change["op"] != "replace" or "storageClassName" in change["path"]:
                continue
            value: Any = target
            for part in change["path"].split("/")[1:]:
                value = value[int(part)] if isinstance(value, list) else value[part]


@pytest.mark.parametrize("apart", [None, "video", "accounts"])
def test_the_reconciler_has_its_rights_where_the_runs_are_and_its_account_where_it_is(
    apart: str | None, tmp_path: Path
) -> None:
    settings = WorkflowSettings(namespace="video", reconciler_namespace=apart)
    place = apart or "video"
    folders = write_deployment(settings, OVERLAYS / "aws", tmp_path)
    assert folders == ([tmp_path] if place == "video" else [tmp_path, tmp_path / "reconciler"])
    written = [yaml.safe_load((folder / "kustomization.yaml").read_text()) for folder in folders]
    assert [one["namespace"] for one in written] == (["video"] if place == "video" else ["video", place])
    bindings = {p["target"]["name"]: json.loads(p["patch"]) for p in written[0]["patches"]}
    assert bindings["reelscan-reconciler"] == [{"op": "add", "path": "/subjects/0/namespace", "value": place}]
    account = [any(path.endswith("events/reconciler") for path in one["resources"]) for one in written]
    assert account == [place == "video" or number == 1 for number in range(len(folders))]
    rendered = [list(yaml.safe_load_all((folder / "workflow.yaml").read_text())) for folder in folders]
    (cron,) = [d for d in rendered[-1] if d["kind"] == "CronWorkflow"]
    assert cron["metadata"]["namespace"] == place
    assert "--namespace=video" in cron["spec"]["workflowSpec"]["templates"][0]["container"]["args"]
    # Argo's own container in its pods needs what it needs in those of the runs.
    of_executor = [d["kind"] for d in rendered[-1] if d["metadata"]["name"].startswith(settings.executor_account)]
    assert of_executor == ["ServiceAccount", "Role", "RoleBinding", "Secret"]
    assert {d["metadata"]["namespace"] for d in rendered[-1]} == {place}


def test_every_policy_lets_out_to_the_port_of_another_s3(tmp_path: Path) -> None:
    url = "http://aws.test:5000"
    beside = WorkflowSettings(namespace="video", aws_endpoint_url=url)
    apart = beside.model_copy(update={"reconciler_namespace": "accounts"})
    names = {
        p["target"]["name"]
        for written in (
            kustomization(apart, OVERLAYS / "test", tmp_path), reconciler_kustomization(apart, tmp_path),
        )
        for p in written["patches"]
        if p["target"]["kind"] == "NetworkPolicy"
    }  # fmt: skip
    assert names == {"reelscan-steps", "reelscan-events", "reelscan-reconciler"}
    assert names == {
        p["target"]["name"]
        for p in kustomization(beside, OVERLAYS / "test", tmp_path)["patches"]
        if p["target"]["kind"] == "NetworkPolicy"
    }


def test_the_reconciler_never_runs_twice_at_once_nor_waits_for_runs() -> None:
    spec = reconciler().to_dict()["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["workflowSpec"]["priority"] > max(range(10))
    assert spec["workflowSpec"]["activeDeadlineSeconds"] <= 300
    assert "synchronization" not in spec["workflowSpec"]
    assert "finalizers" not in spec.get("workflowMetadata", {})

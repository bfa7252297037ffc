"""What the WorkflowTemplate needs beside it: accounts, the least rights, and the model profile."""

from __future__ import annotations

from typing import Any

import yaml

from workflows.containers import (
    ARTIFACTS_KEY,
    RUNS_KEY,
    WORKFLOW_LABEL,
    artifacts_name,
    limits_name,
    profile_name,
)
from workflows.definition import workflow_template
from workflows.settings import WorkflowSettings


def objects(settings: WorkflowSettings) -> list[dict[str, Any]]:
    """All objects of a deployment, in an order in which they can be applied; the WorkflowTemplate is the last."""
    made = [_account(settings, settings.service_account), *executor_objects(settings)]
    made.append(_disruption_budget(settings))
    limits = {RUNS_KEY: str(settings.max_runs)}
    made.append({**_start(settings, "v1", "ConfigMap", limits_name(settings)), "data": limits})
    profile = settings.profile_text()
    if profile is not None:
        made.append({**_start(settings, "v1", "ConfigMap", profile_name(settings)), "data": {"reelscan.json": profile}})
    if settings.artifacts is not None:
        made.append(_artifact_repository(settings, settings.artifacts))
    template: dict[str, Any] = workflow_template(settings).to_dict()
    return [*made, template]


def executor_objects(settings: WorkflowSettings) -> list[dict[str, Any]]:
    """What Argo's own container in each pod needs: its account, with the least rights, and that account's token."""
    account = _account(settings, settings.executor_account)
    return [account, _executor_role(settings), _executor_binding(settings), _executor_token(settings)]


def _account(settings: WorkflowSettings, name: str) -> dict[str, Any]:
    return {**_start(settings, "v1", "ServiceAccount", name), "automountServiceAccountToken": False}


def _executor_role(settings: WorkflowSettings) -> dict[str, Any]:
    """All that Argo's own container does: it tells outputs and progress by an object of its own."""
    return {
        **_start(settings, "rbac.authorization.k8s.io/v1", "Role", settings.executor_account),
        "rules": [
            {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]},
        ],
    }


def _executor_binding(settings: WorkflowSettings) -> dict[str, Any]:
    account = {"kind": "ServiceAccount", "name": settings.executor_account}
    if settings.namespace is not None:
        account["namespace"] = settings.namespace
    return {
        **_start(settings, "rbac.authorization.k8s.io/v1", "RoleBinding", settings.executor_account),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": settings.executor_account},
        "subjects": [account],
    }


def _executor_token(settings: WorkflowSettings) -> dict[str, Any]:
    """The executor account's token, which Argo mounts by this name in its own container alone.

    `serviceAccountTokenName` in Argo's `common.go` composes it; the control plane fills the Secret.
    """
    secret = _start(settings, "v1", "Secret", f"{settings.executor_account}.service-account-token")
    secret["metadata"]["annotations"] = {"kubernetes.io/service-account.name": settings.executor_account}
    return {**secret, "type": "kubernetes.io/service-account-token"}


def _disruption_budget(settings: WorkflowSettings) -> dict[str, Any]:
    """Keeps the pods of runs from voluntary disruption.

    Of so many pods as there never are, since Kubernetes counts no others for an owner like a Workflow. One for all:
    Argo makes that of a Workflow's own spec only if the run never waited for its turn (operator.go, createPDBResource).
    """
    return {
        **_start(settings, "policy/v1", "PodDisruptionBudget", settings.name),
        "spec": {"minAvailable": 9999, "selector": {"matchLabels": {WORKFLOW_LABEL: settings.name}}},
    }


def _artifact_repository(settings: WorkflowSettings, url: str) -> dict[str, Any]:
    """Where Argo's own container puts artifacts, and the server finds them."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    s3: dict[str, Any] = {
        "bucket": bucket,
        "keyFormat": f"{prefix.rstrip('/')}/{{{{workflow.name}}}}/{{{{pod.name}}}}".lstrip("/"),
        "endpoint": "s3.amazonaws.com",
    }
    if settings.aws_region is not None:
        s3["region"] = settings.aws_region
    if settings.aws_endpoint_url is not None:
        scheme, _, s3["endpoint"] = settings.aws_endpoint_url.rstrip("/").partition("://")
        s3["insecure"] = scheme == "http"
    if settings.aws_secret is None:
        s3["useSDKCreds"] = True
    else:
        s3["accessKeySecret"] = {"name": settings.aws_secret, "key": "AWS_ACCESS_KEY_ID"}
        s3["secretKeySecret"] = {"name": settings.aws_secret, "key": "AWS_SECRET_ACCESS_KEY"}
    repository = yaml.safe_dump({"s3": s3}, sort_keys=False)
    return {**_start(settings, "v1", "ConfigMap", artifacts_name(settings)), "data": {ARTIFACTS_KEY: repository}}


def _start(settings: WorkflowSettings, api_version: str, kind: str, name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "reelscan", "app.kubernetes.io/part-of": "reelscan"}
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if settings.namespace is not None:
        metadata["namespace"] = settings.namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}

"""Argo's server, asked as the UI asks it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.cluster.cluster import Cluster, Run

ARGO_SERVER = os.environ.get("CLUSTER_ARGO_SERVER", "http://argo-server.argo.svc:2746")
"""Its URL. (`ARGO_SERVER` is the argo command's, and holds HOST:PORT.)"""
TOKEN = os.environ.get("ARGO_TOKEN", "")
"""What the server is shown, where it wants to see something."""
SECONDS = 30.0


def fetch(path: str, body: dict[str, Any] | None = None, **query: str) -> tuple[bytes, dict[str, str]]:
    """Content and headers at a path of the server, of a POST if there is a body."""
    url = f"{ARGO_SERVER}{urllib.parse.quote(path)}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    headers = {"Content-Type": "application/json", **({"Authorization": TOKEN} if TOKEN else {})}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=SECONDS) as answer:
            return answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url} answered {error.code}: {error.read()[:500]!r}") from error


def submit(cluster: Cluster, template: str = "reelscan", *, entrypoint: str = "main", **parameters: Any) -> Run:
    """Submit as the form of the UI does."""
    options = {"entryPoint": entrypoint, "parameters": [f"{name}={value}" for name, value in parameters.items()]}
    body = {"resourceKind": "WorkflowTemplate", "resourceName": template, "submitOptions": options}
    answer = json.loads(fetch(f"/api/v1/workflows/{cluster.namespace}/submit", body)[0])
    return Run(cluster, answer["metadata"]["name"])


def workflow(namespace: str, name: str) -> dict[str, Any]:
    """A workflow as the UI's page of it has it."""
    document: dict[str, Any] = json.loads(fetch(f"/api/v1/workflows/{namespace}/{name}")[0])
    return document


def names_of_workflows(namespace: str, label_selector: str) -> set[str]:
    """Names in the UI's list, filtered by labels."""
    answer = json.loads(fetch(f"/api/v1/workflows/{namespace}", **{"listOptions.labelSelector": label_selector})[0])
    return {item["metadata"]["name"] for item in answer["items"] or []}


def artifact_file(namespace: str, name: str, node: str, artifact: str) -> tuple[bytes, dict[str, str]]:
    """An output artifact of a node, as the UI's viewer gets it."""
    return fetch(f"/artifact-files/{namespace}/workflows/{name}/{node}/outputs/{artifact}")

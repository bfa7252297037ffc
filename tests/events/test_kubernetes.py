"""Asking the Kubernetes API: what comes, what is tried again, and what each refusal means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

from events import kubernetes
from events.kubernetes import ConflictError, Namespace
from steps.errors import AccessDeniedError, KubernetesError, NotFoundError, ReelscanError, UsageError
from tests.events.kubernetes_api import NAMESPACE, TOKEN, KubernetesApi, write_kubeconfig


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two tries."""
    monkeypatch.setattr(kubernetes, "wait_exponential_jitter", lambda **_: wait_none())


def names(api: KubernetesApi, kind: kubernetes.Kind = "workflows", selector: str = "") -> list[str]:
    with Namespace() as namespace:
        return [metadata["name"] for metadata in namespace.list_metadata(kind, selector)]


def test_a_list_is_of_all_objects_in_pages(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 2)
    for number in range(5):
        api.add("workflows", f"run-{number}")
    assert names(api) == [f"run-{number}" for number in range(5)]
    assert len(api.requests) == 3


def test_a_full_last_page_is_the_last(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PAGE", 2)
    for number in range(4):
        api.add("workflows", f"run-{number}")
    assert len(names(api)) == 4
    assert len(api.requests) == 2


def test_an_empty_list_has_no_objects(api: KubernetesApi) -> None:
    assert names(api) == []


def test_a_list_is_of_metadata_alone_and_of_what_has_the_labels(api: KubernetesApi) -> None:
    api.add("configmaps", "wanted", metadata={"labels": {"a": "1", "b": "2"}}, data={"large": "x"})
    api.add("configmaps", "other", metadata={"labels": {"a": "2"}})
    api.add("configmaps", "plain")
    with Namespace() as namespace:
        (found,) = namespace.list_metadata("configmaps", "a=1")
    assert found["name"] == "wanted"
    assert "large" not in json.dumps(found)


def test_the_namespace_is_that_of_the_context_unless_one_is_given(api: KubernetesApi) -> None:
    with Namespace() as namespace, Namespace("elsewhere") as elsewhere:
        assert namespace.name == NAMESPACE
        with pytest.raises(AccessDeniedError, match="elsewhere"):
            elsewhere.get("workflows", "run")


def test_what_is_not_there_is_none_or_an_error_that_names_it(api: KubernetesApi) -> None:
    with Namespace() as namespace:
        assert namespace.find("workflows", "run") is None
        with pytest.raises(NotFoundError, match=f"{NAMESPACE}/workflows/run is not in the cluster"):
            namespace.get("workflows", "run")
        with pytest.raises(NotFoundError):
            namespace.patch("workflows", "run", {})


def test_a_patch_changes_what_it_names(api: KubernetesApi) -> None:
    api.add("workflows", "run", spec={"a": 1, "b": {"c": 2}})
    with Namespace() as namespace:
        changed = namespace.patch("workflows", "run", {"spec": {"a": None, "b": {"d": 3}}})
    assert changed["spec"] == {"b": {"c": 2, "d": 3}}
    assert changed == api.get("workflows", "run")


@pytest.mark.parametrize(
    ("change", "form"),
    [
        ({"metadata": {"resourceVersion": "0"}}, "merge"),
        ({"metadata": {"uid": "another"}}, "merge"),
        ([{"op": "test", "path": "/metadata/uid", "value": "another"}], "json"),
        ([{"op": "replace", "path": "/metadata/finalizers", "value": []}], "json"),
    ],
)
def test_a_patch_of_what_has_changed_is_a_conflict(api: KubernetesApi, change: Any, form: Any) -> None:
    before = api.add("workflows", "run")
    with Namespace() as namespace, pytest.raises(ConflictError):
        namespace.patch("workflows", "run", change, form=form)
    assert api.get("workflows", "run") == before


def test_what_is_deleted_already_is_no_error(api: KubernetesApi) -> None:
    api.add("configmaps", "kept")
    with Namespace() as namespace:
        for _ in range(2):
            namespace.delete("configmaps", "kept")
    assert api.names("configmaps") == []


def test_what_passes_is_tried_again_after_a_pause(api: KubernetesApi) -> None:
    api.add("workflows", "run")
    api.fail(503)
    assert names(api) == ["run"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("status", [429, 500, 502, 504])
def test_a_server_that_is_away_is_asked_a_few_times(api: KubernetesApi, status: int) -> None:
    api.add("workflows", "run")
    api.fail(status, times=kubernetes.ATTEMPTS - 1)
    assert names(api) == ["run"]
    api.fail(status, times=100)
    with pytest.raises(KubernetesError, match=f"GET .*/workflows: told to answer {status}"):
        names(api)
    assert len(api.requests) == 2 * kubernetes.ATTEMPTS


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, KubernetesError),
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (404, NotFoundError),
        # The token of a list that took too long.
        (410, KubernetesError),
    ],
)
def test_a_refusal_is_not_tried_again_and_says_why(api: KubernetesApi, status: int, error: type[ReelscanError]) -> None:
    api.fail(status, times=100)
    with pytest.raises(error, match=f"told to answer {status}"):
        names(api)
    assert len(api.requests) == 1


@pytest.mark.usefixtures("at_once")
def test_a_server_that_never_answers_is_given_up(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "REQUEST_SECONDS", 0.1)
    api.hang(times=100)
    with pytest.raises(KubernetesError, match=r"GET .*/workflows: .*[Tt]ime"):
        names(api)


@pytest.mark.usefixtures("at_once")
def test_a_server_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "config", "http://127.0.0.1:9")))
    with Namespace() as namespace, pytest.raises(KubernetesError, match=r"GET .*refused"):
        namespace.get("workflows", "run")


def test_a_wrong_token_is_denied_and_not_told(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "config", api.url, token="secret")))
    with Namespace() as namespace, pytest.raises(AccessDeniedError) as caught:
        namespace.get("workflows", "run")
    assert "secret" not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[1, 2]",
        "clusters: 7",
        '{"clusters": [], "contexts": [], "users": []}',
        '{"clusters": [], "contexts": [], "users": [], "current-context": "x"}',
        '{"clusters": [], "contexts": [{"name": "x", "context": {"cluster": "y"}}], "current-context": "x"}',
        '{"clusters": [{"name": "y", "cluster": {"server": "http://127.0.0.1"}}], "current-context": "x", '
        '"contexts": [{"name": "x", "context": {"cluster": "y"}}]}',
        '{"clusters": [{"name": "y", "cluster": {"server": 7}}], "current-context": "x", "contexts": []}',
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_wrong_usage(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(UsageError, match="KUBECONFIG"):
        Namespace()

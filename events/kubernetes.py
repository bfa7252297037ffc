"""Argo's Workflows and their like in one namespace, through the Kubernetes API.

lightkube reads the kubeconfig, or what a pod is given, and opens the connection; the requests are plain REST, since
of a list of Workflows only the metadata is wanted: whole, they are up to a megabyte each.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import httpx2 as httpx
from lightkube.config.client_adapter import Client, ConnectionParams
from lightkube.config.kubeconfig import KubeConfig
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from steps.errors import AccessDeniedError, KubernetesError, NotFoundError, ReelscanError, UsageError

if TYPE_CHECKING:
    from types import TracebackType

Object = dict[str, Any]
Kind = Literal["workflows", "sensors", "configmaps"]

REQUEST_SECONDS = 20.0
ATTEMPTS = 4
PAGE = 50
"""Objects of one answer: the metadata of a run of many chunks may hold a hundred kilobytes on who changed what."""
_ARGO = "/apis/argoproj.io/v1alpha1"
_PATHS: dict[Kind, str] = {"workflows": _ARGO, "sensors": _ARGO, "configmaps": "/api/v1"}
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PATCHES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}


class ConflictError(KubernetesError):
    """The object is not as the patch supposed."""


class _PassingError(Exception):
    """The server could not answer now."""


class Namespace:
    """Objects of a namespace. A context manager.

    Args:
        name: of the namespace; None: that of the pod, or of the kubeconfig's context.

    Every method raises NotFoundError if an object or the kind is not there, AccessDeniedError if the API refuses,
    KubernetesError if it cannot be reached after some tries.

    Raises:
        UsageError: there is no kubeconfig, or it cannot be read.
    """

    def __init__(self, name: str | None = None) -> None:
        try:
            config = KubeConfig.from_env().get()
            if config is None:
                raise UsageError("no cluster is set: set KUBECONFIG to a kubeconfig with a current context")
            self._client: httpx.Client = Client(config, ConnectionParams(timeout=httpx.Timeout(REQUEST_SECONDS)))
        except Exception as error:  # lightkube raises another for each thing that is wrong with the file
            raise UsageError(f"no cluster can be asked ({error}); set KUBECONFIG to a kubeconfig") from error
        self.name = name or config.namespace

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def list_metadata(self, kind: Kind, selector: str = "") -> Iterator[Object]:
        """The metadata of all objects of a kind, perhaps only of those with labels; page by page."""
        token = ""
        while True:
            query = {"limit": str(PAGE), "labelSelector": selector, "continue": token}
            answer = self._ask("GET", self._path(kind), query=query, accept=_METADATA_ONLY)
            yield from (item["metadata"] for item in answer["items"] or [])
            token = answer["metadata"].get("continue", "")
            if not token:
                return

    def get(self, kind: Kind, name: str) -> Object:
        """An object."""
        return self._ask("GET", self._path(kind, name))

    def find(self, kind: Kind, name: str) -> Object | None:
        """An object, or None if there is none of that name."""
        try:
            return self.get(kind, name)
        except NotFoundError:
            return None

    def patch(self, kind: Kind, name: str, change: Any, *, form: Literal["merge", "json"] = "merge") -> Object:
        """Change an object. Raises ConflictError if a test of a JSON patch fails."""
        return self._ask("PATCH", self._path(kind, name), content=json.dumps(change), content_type=_PATCHES[form])

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object; that it is gone already is no error."""
        try:
            self._ask("DELETE", self._path(kind, name))
        except NotFoundError:
            return

    def _path(self, kind: Kind, name: str = "") -> str:
        # A name from outside must not become another path.
        place = f"{_PATHS[kind]}/namespaces/{self.name}/{kind}"
        return f"{place}/{urllib.parse.quote(name, safe='')}" if name else place

    def _ask(
        self, method: str, path: str, *, query: dict[str, str] | None = None, accept: str = "application/json",
        content: str | None = None, content_type: str = "application/json",
    ) -> Object:  # fmt: skip
        retrying = Retrying(
            retry=retry_if_exception_type((_PassingError, httpx.TransportError)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(max=3.0),
            reraise=True,
        )
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            for attempt in retrying:
                with attempt:
                    response = self._client.request(method, path, params=query, content=content, headers=headers)
                    if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
                        raise _PassingError(_reason(response))
        except (_PassingError, httpx.TransportError) as error:
            raise KubernetesError(
                f"the Kubernetes API failed: {method} {path}: {error or type(error).__name__}"
            ) from error
        if response.is_success:
            answer: Object = response.json()
            return answer
        raise _meaning(response, method, path)


def _meaning(response: httpx.Response, method: str, path: str) -> ReelscanError | ConflictError:
    said = _reason(response)
    if response.status_code == httpx.codes.NOT_FOUND:
        return NotFoundError(
            f"{path} is not in the cluster: {said}; check namespace and name, and that Argo is installed"
        )
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return AccessDeniedError(f"{method} {path} is denied: {said}; check the account and its role")
    if response.status_code in (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_CONTENT):
        return ConflictError(said)
    return KubernetesError(f"the Kubernetes API refused {method} {path} ({response.status_code}): {said}")


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"

"""A server that answers as the Kubernetes API does for the objects of one namespace, and goes wrong on order.

The tests on a cluster are about the real one. This is for what that gives seldom, or not at the moment wanted.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml

from events.runs import COMPLETED_LABEL, FINALIZER, FROM_MESSAGE, NAME_START, ORIGIN_LABEL, PHASE_LABEL

Object = dict[str, Any]

NAMESPACE = "there"
TOKEN = "token-of-the-tests"
CREATED = "2026-01-31T12:00:00Z"
TASK = '{"bucket": "videos", "object": "clip.mp4", "id": "of the sender"}'
ENDED = ("Succeeded", "Failed", "Error")
_ARGO = "/apis/argoproj.io/v1alpha1"
KINDS = {"workflows": _ARGO, "sensors": _ARGO, "configmaps": "/api/v1"}
_PATH = re.compile(r"(?P<api>/.+)/namespaces/(?P<namespace>[^/]+)/(?P<kind>[a-z]+)(/(?P<name>[^/]+))?")
_REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}


class Refusal(Exception):
    """What the API says instead of an object."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Order:
    pattern: re.Pattern[str]
    times: int
    action: Callable[[], object]


class KubernetesApi:
    """Objects of a namespace, as a server and for the test itself.

    A request is matched by one line: method, path with its query, and body, such as
    `PATCH /apis/argoproj.io/v1alpha1/namespaces/there/workflows/task-1 {"spec": {"shutdown": "Stop"}}`.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        """Lines of all requests that came, whatever became of them."""
        self._objects: dict[str, dict[str, Object]] = {kind: {} for kind in KINDS}
        self._versions = itertools.count(1)
        self._orders: list[_Order] = []
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> KubernetesApi:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # For the test

    def add(self, kind: str, name: str, **fields: Any) -> Object:
        """Make an object; `metadata` goes beside what every object has."""
        with self._lock:
            number = next(self._versions)
            metadata = {
                "name": name,
                "uid": f"uid-{number}",
                "creationTimestamp": CREATED,
                **fields.pop("metadata", {}),
            }
            self._objects[kind][name] = {"metadata": {**metadata, "resourceVersion": str(number)}, **fields}
            return self.get(kind, name)

    def get(self, kind: str, name: str) -> Object:
        """An object as it is now."""
        with self._lock:
            if name not in self._objects[kind]:
                raise Refusal(404, f'{kind} "{name}" not found')
            return copy.deepcopy(self._objects[kind][name])

    def names(self, kind: str) -> list[str]:
        with self._lock:
            return sorted(self._objects[kind])

    def change(self, kind: str, name: str, change: Object) -> None:
        """Change an object by a merge patch, as somebody else does."""
        self._put(kind, name, _merged(self.get(kind, name), change))

    def fail(self, status: int, pattern: str = "", times: int = 1) -> None:
        """Let the next requests that `pattern` is found in be answered with a status."""

        def refuse() -> None:
            raise Refusal(status, f"told to answer {status}")

        self._order(pattern, times, refuse)

    def hang(self, pattern: str = "", times: int = 1) -> None:
        """Let the next requests that `pattern` is found in never be answered."""

        def wait() -> None:
            self._closing.wait()
            raise Refusal(500, "closed")

        self._order(pattern, times, wait)

    def before(self, pattern: str, hook: Callable[[], object], times: int = 1) -> None:
        """Do something before the next requests that `pattern` is found in take effect."""
        self._order(pattern, times, hook)

    def count(self, pattern: str) -> int:
        return sum(1 for line in self.requests if re.search(pattern, line))

    def _order(self, pattern: str, times: int, action: Callable[[], object]) -> None:
        with self._lock:
            self._orders.append(_Order(re.compile(pattern), times, action))

    # For the server

    def answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Object:
        """What a request gets. Raises Refusal."""
        self._obey(f"{method} {target} {body}".strip())
        if headers.get("authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized")
        url = urllib.parse.urlsplit(target)
        found = _PATH.fullmatch(urllib.parse.unquote(url.path))
        if found is None or KINDS.get(found["kind"]) != found["api"]:
            raise Refusal(404, "the server could not find the requested resource")
        kind, name = found["kind"], found["name"]
        with self._lock:
            if found["namespace"] != NAMESPACE:
                raise Refusal(403, f"{kind} is forbidden in the namespace {found['namespace']}")
            if name is None:
                return self._list(kind, dict(urllib.parse.parse_qsl(url.query)), headers["accept"])
            if method == "PATCH":
                form = headers["content-type"]
                change = json.loads(body)
                patched = _merged if form == "application/merge-patch+json" else _patched_by_steps
                return self._put(kind, name, patched(self.get(kind, name), change))
            if method == "DELETE":
                return self._delete(kind, name)
            return self.get(kind, name)

    def _obey(self, line: str) -> None:
        with self._lock:
            self.requests.append(line)
            due = [order for order in self._orders if order.times > 0 and order.pattern.search(line)]
            for order in due[:1]:
                order.times -= 1
        # Beside the lock: it may ask the server itself.
        for order in due[:1]:
            order.action()

    def _list(self, kind: str, query: dict[str, str], accept: str) -> Object:
        wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        found = [
            self.get(kind, name)
            for name in self.names(kind)
            if name > query.get("continue", "")
            and wanted.items() <= (self._objects[kind][name]["metadata"].get("labels") or {}).items()
        ]
        most = int(query.get("limit", len(found)))
        metadata = {"resourceVersion": str(next(self._versions))}
        if len(found) > most:
            metadata["continue"] = found[most - 1]["metadata"]["name"]
        if "as=PartialObjectMetadataList" in accept:
            found = [{"metadata": document["metadata"]} for document in found]
        return {"metadata": metadata, "items": found[:most] or None}

    def _put(self, kind: str, name: str, document: Object) -> Object:
        with self._lock:
            old = self.get(kind, name)
            new = document["metadata"]
            for field in ("resourceVersion", "uid"):
                if new.get(field) != old["metadata"][field]:
                    raise Refusal(409, f"{field} is not as it was: the object has been modified")
            added = set(new.get("finalizers") or []) - set(old["metadata"].get("finalizers") or [])
            if added and "deletionTimestamp" in old["metadata"]:
                raise Refusal(422, "no new finalizers can be added if the object is being deleted")
            if not new.get("finalizers"):
                new.pop("finalizers", None)
            if document != old:
                new["resourceVersion"] = str(next(self._versions))
            self._objects[kind][name] = document
            self._vanish_if_due(kind, name)
            return copy.deepcopy(document)

    def _delete(self, kind: str, name: str) -> Object:
        document = self.get(kind, name)
        document["metadata"].setdefault("deletionTimestamp", CREATED)
        return self._put(kind, name, document)

    def _vanish_if_due(self, kind: str, name: str) -> None:
        metadata = self._objects[kind][name]["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            del self._objects[kind][name]


def _merged(document: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    merged = copy.deepcopy(document) if isinstance(document, dict) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _patched_by_steps(document: Object, steps: list[Object]) -> Object:
    """RFC 6902, of which `test`, `add` and `replace` of a field."""
    for step in steps:
        *parents, last = step["path"].removeprefix("/").split("/")
        holder = document
        for parent in parents:
            holder = holder.get(parent, {})
        differs = holder.get(last) != step["value"] if step["op"] == "test" else last not in holder
        if differs and step["op"] != "add":
            raise Refusal(422, f"the server rejected our request: {step['op']} of {step['path']}")
        if step["op"] != "test":
            holder[last] = copy.deepcopy(step["value"])
    return document


def add_run(
    api: KubernetesApi, message_id: str, *, phase: str = "", shutdown: str = "", message: str = "",
    finalizers: tuple[str, ...] = (FINALIZER,), body: str = TASK, spec: Any = None, **metadata: Any,
) -> str:  # fmt: skip
    """Make the Workflow of a message as Argo has it in a phase; gives its name. Any `spec` goes instead."""
    labels = {ORIGIN_LABEL: FROM_MESSAGE, **_labels(phase)}
    parameters = {"message_id": message_id, "body": base64.b64encode(body.encode()).decode()}
    given = {"arguments": {"parameters": [{"name": name, "value": value} for name, value in parameters.items()]}}
    if shutdown:
        given["shutdown"] = shutdown
    status = {"phase": phase, "message": message, "startedAt": CREATED} if phase else {}
    about = {"labels": labels, **({"finalizers": list(finalizers)} if finalizers else {}), **metadata}
    name = NAME_START + message_id
    api.add("workflows", name, metadata=about, spec=spec["spec"] if spec else given, status=status)
    return name


def set_phase(api: KubernetesApi, name: str, phase: str, **status: Any) -> None:
    """As Argo does."""
    change = {"metadata": {"labels": _labels(phase)}, "status": {"startedAt": CREATED, **status, "phase": phase}}
    api.change("workflows", name, change)


def _labels(phase: str) -> dict[str, str]:
    labels = {PHASE_LABEL: phase} if phase else {}
    return {**labels, COMPLETED_LABEL: "true"} if phase in ENDED else labels


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are what the tests are about."""


def _handler(api: KubernetesApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one piece: the second would wait until the first is acknowledged.
        wbufsize = -1

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = 200
            try:
                answer = api.answer(self.command, self.path, headers, body)
            except Refusal as refusal:
                status = refusal.status
                reason = _REASONS.get(status, "InternalError")
                answer = {"kind": "Status", "status": "Failure", "code": status, "reason": reason}
                answer["message"] = str(refusal)
            content = json.dumps(answer).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PATCH = do_DELETE = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output clean."""

    return Handler


def write_kubeconfig(path: Path, url: str, token: str = TOKEN) -> Path:
    """Of a cluster with one namespace."""
    place = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
    document = {
        "current-context": "tests",
        "contexts": [{"name": "tests", "context": place}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """An empty namespace, to which KUBECONFIG leads."""
    with KubernetesApi() as made:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", made.url)))
        yield made

"""TensorFlow Serving's REST interface for one model, for people with curl. Programs use gRPC.

Paths, formats and statuses are those of TensorFlow Serving's model_servers/http_rest_api_handler.cc,
http_rest_api_util.cc and util/json_tensor.cc.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import MessageToDict
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Request, Response

from local.serving.admission import Caller
from local.serving.backends import Arrays, TensorSpec
from local.serving.model import METADATA_FIELD, SIGNATURE_NAME, ServedModel
from local.serving.shutdown import finish_within
from local.serving.status import ServingError, invalid_argument
from steps.stubs import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    PredictRequest,
    SignatureDefMap,
    array_from_tensor,
    tensor_from_array,
)

MAX_BODY_BYTES = 32 << 20
"""Largest request body. As JSON, a frame of 640x640 takes 5 MB."""
PREDICT_TIMEOUT_SECONDS = 30
"""How long a request waits for its turn (rest_api_timeout_in_ms of TensorFlow Serving)."""

_CONNECTIONS = 4  # worked on at once; a large body takes ten times its size while it is parsed
_SOCKET_TIMEOUT_SECONDS = 30
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT_PATH = re.compile(rf"(?i)/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)")
_MODEL_PATH = re.compile(rf"(?i)/v1/models/(?P<name>[^/:]+){_VERSION}(?P<metadata>/metadata)?")
_MAX_VERSION = (1 << 63) - 1

_log = logging.getLogger(__name__)


class RestApplication:
    """The WSGI application.

    Args:
        model: What is served.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answers one request. Every refusal is `{"error": "..."}`."""
        try:
            status, answer = HTTPStatus.OK, self._answer(Request(environ))
        except ServingError as refusal:
            status, answer = refusal.http_status, {"error": refusal.message}
        except HTTPException as refusal:
            status, answer = HTTPStatus(refusal.code or 500), {"error": refusal.description or refusal.name}
        body = json.dumps(answer) + "\n"
        return Response(body, status, mimetype="application/json")(environ, start_response)

    def _answer(self, request: Request) -> dict[str, Any]:
        if not request.path.lower().startswith("/v1/"):
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"nothing at {request.path}: paths begin with /v1/models/")
        if request.method == "POST" and (match := _PREDICT_PATH.fullmatch(request.path)):
            if match["method"].lower() != "predict":
                raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f":{match['method']} is not served, only :predict")
            return self._predict(_spec(match), _body(request))
        if request.method == "GET" and (match := _MODEL_PATH.fullmatch(request.path)):
            return self._metadata(_spec(match)) if match["metadata"] else self._status(_spec(match))
        raise invalid_argument(f"Malformed request: {request.method} {request.path}")

    def _status(self, spec: ModelSpec) -> dict[str, Any]:
        response = self._model.status(GetModelStatusRequest(model_spec=spec))
        return MessageToDict(response, always_print_fields_with_no_presence=True)

    def _metadata(self, spec: ModelSpec) -> dict[str, Any]:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=[METADATA_FIELD])
        response = self._model.metadata(request)
        definitions = SignatureDefMap()
        response.metadata[METADATA_FIELD].Unpack(definitions)

        def as_dict(message: Any) -> dict[str, Any]:
            return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

        return {
            "model_spec": as_dict(response.model_spec),
            "metadata": {METADATA_FIELD: as_dict(definitions)},
        }

    def _predict(self, spec: ModelSpec, body: dict[str, Any]) -> dict[str, Any]:
        name = body.get("signature_name", "")
        if not isinstance(name, str):
            raise invalid_argument("'signature_name' key must be a string value.")
        signature = self._model.available(spec).signature
        if name not in ("", SIGNATURE_NAME):
            raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
        if "instances" in body and "inputs" in body:
            raise invalid_argument("Expecting only one of 'inputs' or 'instances' keys to exist")
        if "instances" in body:
            arrays = _from_rows(signature.inputs, body["instances"])
        elif "inputs" in body:
            arrays = _from_columns(signature.inputs, body["inputs"])
        else:
            raise invalid_argument("Missing 'inputs' or 'instances' key")
        inputs = {input_name: tensor_from_array(array) for input_name, array in arrays.items()}
        response = self._model.predict(PredictRequest(model_spec=spec, inputs=inputs), Caller(PREDICT_TIMEOUT_SECONDS))
        outputs = {output: _as_json(array_from_tensor(tensor)) for output, tensor in sorted(response.outputs.items())}
        if "inputs" in body:
            return {"outputs": _alone_or_named(outputs)}
        rows = zip(*outputs.values(), strict=True)
        return {"predictions": [_alone_or_named(dict(zip(outputs, row, strict=True))) for row in rows]}


def _spec(match: re.Match[str]) -> ModelSpec:
    spec = ModelSpec(name=match["name"])
    if match["version"]:
        version = int(match["version"])
        if version > _MAX_VERSION:
            raise invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = version
    elif match["label"]:
        spec.version_label = match["label"]
    return spec


def _body(request: Request) -> dict[str, Any]:
    request.max_content_length = MAX_BODY_BYTES
    try:
        data = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise RequestEntityTooLarge(
            f"the body is over {MAX_BODY_BYTES} bytes: send fewer frames, or use gRPC"
        ) from None
    except OSError as problem:
        raise invalid_argument(f"the body could not be read: {problem}") from None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise invalid_argument(f"JSON Parse error: {problem}") from None
    if not isinstance(body, dict):
        raise invalid_argument("JSON Value: Is not object")
    return body


def _from_rows(specs: Any, instances: Any) -> Arrays:
    """Arrays from `instances`: an element per frame, each the value of the one input, or an object."""
    if not isinstance(instances, list):
        raise invalid_argument("Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid_argument("No values in 'instances' array")
    if not isinstance(instances[0], dict):
        return _from_columns(specs, instances)
    for position, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != set(specs):
            raise invalid_argument(
                f"Failed to process element: {position} of 'instances' list. "
                f"JSON object keys must be equal to: {','.join(sorted(specs))}"
            )
    return {name: _array(name, spec, [row[name] for row in instances]) for name, spec in specs.items()}


def _from_columns(specs: Any, values: Any) -> Arrays:
    """Arrays from `inputs`: the value of the one input, or an object with a value per input."""
    if not isinstance(values, dict):
        if len(specs) > 1:
            raise invalid_argument("inputs is a plain value/list, but expecting an object with all input tensors")
        values = dict.fromkeys(specs, values)
    for name in specs:
        if name not in values:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(name, spec, values[name]) for name, spec in specs.items()}


def _array(name: str, spec: TensorSpec, value: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:
        raise invalid_argument(f"{name}: the lists have differing lengths") from None
    is_whole = spec.dtype.kind in "iu"
    if array.dtype.kind not in ("iu" if is_whole else "iuf"):
        raise invalid_argument(f"{name}: JSON Value is not of expected type: {spec.dtype.name}")
    if is_whole and array.size:
        limits = np.iinfo(spec.dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise invalid_argument(f"{name}: values are outside {limits.min} to {limits.max}")
    return array.astype(spec.dtype)


def _as_json(array: npt.NDArray[Any]) -> Any:
    """Nested lists; a float32 as the shortest number that reads back as the same float32."""
    if array.dtype == np.float32:
        array = array.astype(str).astype(np.float64)
    return array.tolist()


def _alone_or_named(outputs: dict[str, Any]) -> Any:
    """One output stands alone, several by name (json_tensor.cc, MakeRowFormatJsonFromTensors)."""
    return outputs if len(outputs) > 1 else next(iter(outputs.values()))


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection a request: none is left open when the server stops
    timeout = _SOCKET_TIMEOUT_SECONDS

    def log(self, type: str, message: str, *args: Any) -> None:
        _log.debug(message, *args)


class RestServer(BaseWSGIServer):
    """Serves the application with a few threads, and ends them all.

    Args:
        model: What is served.
        listener: A listening socket; it is taken over.
    """

    multithread = True

    def __init__(self, model: ServedModel, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="rest")
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        with listener:
            super().__init__(host, port, RestApplication(model), _Handler, fd=listener.fileno())
        self.address = f"{host}:{port}"
        self._acceptor = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="rest-accept")
        self._acceptor.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hands a connection to a thread."""
        with self._lock:
            self._open.add(request)
        self._threads.submit(self._serve, request, client_address)

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:
            _log.debug("a REST connection broke", exc_info=True)
        finally:
            with self._lock:
                self._open.discard(request)
            self.shutdown_request(request)

    def stop(self, grace_seconds: float) -> bool:
        """Accepts no more, lets open requests finish, then cuts them; whether every thread has ended."""
        self.shutdown()
        self._acceptor.join()
        if finish_within(self._threads.shutdown, grace_seconds):
            return True
        with self._lock:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)
        return finish_within(self._threads.shutdown, 1)

"""TensorFlow Serving's REST interface (its g3doc/api_rest.md)."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from local.serving.backends import Signature, TensorSpec
from local.serving.backends.coded import CodedBackend
from local.serving.rest import MAX_BODY_BYTES
from local.serving.server import ModelServer
from tests.local.serving.gated import DEADLINE_SECONDS, GatedBackend


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(CodedBackend(), model_version=7, rest_port=0) as server:
        yield server


def send(server: ModelServer, path: str, body: Any = None, method: str | None = None) -> tuple[int, Any]:
    """HTTP status and decoded JSON. A body that is not bytes is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{server.rest_address}{path}", data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


FRAME = np.zeros((4, 8, 3), np.uint8).tolist()
PREDICT = "/v1/models/ssd:predict"


@pytest.mark.parametrize("path", ["/v1/models/ssd", "/v1/models/ssd/versions/7", "/V1/Models/ssd"])
def test_status_of_the_model(server: ModelServer, path: str) -> None:
    status = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert send(server, path) == (200, {"model_version_status": [status]})


def test_metadata_of_the_model(server: ModelServer) -> None:
    status, answer = send(server, "/v1/models/ssd/metadata")
    assert (status, answer["model_spec"]) == (200, {"name": "ssd", "signature_name": "", "version": "7"})
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["input_tensor"]["dtype"] == "DT_UINT8"
    assert signature["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/ssd/versions/7:predict"])
@pytest.mark.parametrize("instances", [[FRAME, FRAME], [{"input_tensor": FRAME}] * 2])
def test_rows_in_rows_out(server: ModelServer, path: str, instances: list[Any]) -> None:
    status, answer = send(server, path, {"instances": instances, "signature_name": "serving_default"})
    assert status == 200
    assert [row["num_detections"] for row in answer["predictions"]] == [
        row["num_detections"] for row in answer["predictions"][:1]
    ] * 2
    assert len(answer["predictions"][0]["detection_boxes"]) == 64


@pytest.mark.parametrize("inputs", [[FRAME], {"input_tensor": [FRAME]}])
def test_columns_in_columns_out(server: ModelServer, inputs: Any) -> None:
    status, answer = send(server, PREDICT, {"inputs": inputs})
    assert status == 200
    assert np.shape(answer["outputs"]["detection_boxes"]) == (1, 64, 4)


def test_rest_answers_the_same_as_grpc_of_the_same_frame(server: ModelServer) -> None:
    frame = np.random.default_rng(3).integers(0, 256, (1, 8, 16, 3), dtype=np.uint8)
    expected = CodedBackend().predict({"input_tensor": frame})
    _, answer = send(server, PREDICT, {"inputs": frame.tolist()})
    assert set(answer["outputs"]) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(answer["outputs"][name], np.float32), array)


class Doubling:
    """Two inputs, one output."""

    description = "doubling"
    max_batch = None
    signature = Signature(
        {"a": TensorSpec(np.dtype("f4"), (-1, 1)), "b": TensorSpec(np.dtype("i8"), (-1, 1))},
        {"sum": TensorSpec(np.dtype("f4"), (-1, 1))},
    )

    def predict(self, inputs):
        return {"sum": (inputs["a"] + inputs["b"]).astype("<f4")}

    def close(self) -> None:
        pass


def test_several_inputs_go_by_name_and_one_output_stands_alone() -> None:
    with ModelServer(Doubling(), rest_port=0) as server:
        rows = [{"a": [0.1], "b": [0]}, {"a": [1], "b": [2]}]
        assert send(server, PREDICT, {"instances": rows}) == (200, {"predictions": [[0.1], [3.0]]})
        columns = {"a": [[0.1], [1]], "b": [[0], [2]]}
        assert send(server, PREDICT, {"inputs": columns}) == (200, {"outputs": [[0.1], [3.0]]})
        for body in ({"instances": [[1]]}, {"inputs": [[1]]}, {"inputs": {"a": [[1]]}}):
            assert send(server, PREDICT, body)[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (PREDICT, b"", 400, "JSON Parse error"),
        (PREDICT, b"{", 400, "JSON Parse error"),
        (PREDICT, b"\xff", 400, "JSON Parse error"),
        (PREDICT, b"[" * 100_000, 400, "JSON Parse error"),  # deeper than the parser goes
        (PREDICT, [], 400, "Is not object"),
        (PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, {"inputs": [FRAME], "instances": [FRAME]}, 400, "only one of 'inputs' or 'instances'"),
        (PREDICT, {"instances": FRAME[0][0][0]}, 400, "list/array"),
        (PREDICT, {"instances": []}, 400, "No values"),
        (PREDICT, {"instances": [{"input_tensor": FRAME}, FRAME]}, 400, "element: 1"),
        (PREDICT, {"instances": [{"nope": FRAME}]}, 400, "keys must be equal to: input_tensor"),
        (PREDICT, {"inputs": {"nope": FRAME}}, 400, "Missing named input: input_tensor"),
        (PREDICT, {"instances": [[[[1, 2, 3], [1, 2]]]]}, 400, "differing lengths"),
        (PREDICT, {"instances": [[[[1, 2, "3"]]]]}, 400, "not of expected type: uint8"),
        (PREDICT, {"instances": [[[[1, 2, 0.5]]]]}, 400, "not of expected type: uint8"),
        (PREDICT, {"instances": [[[[1, 2, None]]]]}, 400, "not of expected type: uint8"),
        (PREDICT, {"instances": [[[[1, 2, 256]]]]}, 400, "outside 0 to 255"),
        (PREDICT, {"instances": [[[[1, 2, 10**30]]]]}, 400, "not of expected type: uint8"),
        (PREDICT, {"instances": [[[1, 2, 3]]]}, 400, "expects shape"),
        (PREDICT, {"instances": [FRAME], "signature_name": "nope"}, 400, 'signature name: "nope" not found'),
        (PREDICT, {"instances": [FRAME], "signature_name": 1}, 400, "must be a string"),
        ("/v1/models/half:predict", {"instances": [FRAME]}, 404, "Servable not found for request: Latest(half)"),
        ("/v1/models/ssd/versions/8:predict", {"instances": [FRAME]}, 404, "Specific(ssd, 8)"),
        ("/v1/models/ssd/labels/new:predict", {"instances": [FRAME]}, 400, "version label: new"),
        (f"/v1/models/ssd/versions/{1 << 64}:predict", {"instances": [FRAME]}, 400, "Failed to convert version"),
        ("/v1/models/ssd:classify", {"examples": []}, 501, ":classify is not served"),
        ("/v1/models/half", None, 404, "Could not find any versions of model half"),
        ("/v1/models/ssd/versions/8", None, 404, "Could not find version 8 of model ssd"),
        ("/v1/models/half/metadata", None, 404, "Servable not found"),
        ("/v1/nothing", None, 400, "Malformed request: GET /v1/nothing"),
        (PREDICT, None, 400, "Malformed request: GET"),
        ("/", None, 404, "paths begin with /v1/models/"),
    ],
)
def test_refusals_have_the_status_of_tensorflow_serving_and_one_error(
    server: ModelServer, path: str, body: Any, status: int, words: str
) -> None:
    got, answer = send(server, path, body)
    assert (got, list(answer)) == (status, ["error"])
    assert words in answer["error"]


def test_other_http_methods_are_malformed(server: ModelServer) -> None:
    assert send(server, PREDICT, {"instances": [FRAME]}, method="PUT")[0] == 400


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: ModelServer) -> None:
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port)), DEADLINE_SECONDS) as connection:
        head = f"POST {PREDICT} HTTP/1.0\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.makefile("rb").read()
    assert b" 413 " in answer.splitlines()[0]
    assert b'"error": "the body is over' in answer


def test_a_full_queue_is_service_unavailable(gated: GatedBackend) -> None:
    with ModelServer(gated, rest_port=0, queue_size=0, workers=1) as server:
        host, port = server.rest_address.split(":")
        body = json.dumps({"instances": [FRAME]}).encode()
        with socket.create_connection((host, int(port)), DEADLINE_SECONDS) as busy:
            busy.sendall(f"POST {PREDICT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            assert gated.entered.acquire(timeout=DEADLINE_SECONDS)
            status, answer = send(server, PREDICT, body)
            assert (status, list(answer)) == (503, ["error"])
            gated.gate.set()
            assert b" 200 " in busy.makefile("rb").readline()


def test_stop_cuts_off_a_client_that_never_ends_its_request() -> None:
    server = ModelServer(CodedBackend(), rest_port=0)
    host, port = server.rest_address.split(":")
    with socket.create_connection((host, int(port)), DEADLINE_SECONDS) as idle:
        idle.sendall(f"POST {PREDICT} HTTP/1.0\r\nContent-Length: 10\r\n\r\n".encode())
        assert server.stop(grace_seconds=0.1)

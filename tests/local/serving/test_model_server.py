"""What the embedded server adds to TensorFlow Serving's answers, which tests/conformance looks at."""

from __future__ import annotations

import socket
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from local.serving.backends.detections import INPUT
from local.serving.backends.null import NullBackend
from local.serving.server import ModelServer
from local.serving.status import MAX_MESSAGE_CHARACTERS
from steps.errors import ModelMismatchError, UsageError
from steps.stubs import ModelVersionStatus, PredictRequest, array_from_tensor, tensor_from_array
from tests.conformance.target import Target, connected
from tests.local.serving.gated import DEADLINE_SECONDS, GatedBackend

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

# gRPC answers CANCELLED to what comes in the moment of the stop, and UNAVAILABLE afterwards.
ENDED = {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


def frame(mark: int) -> dict[str, np.ndarray]:
    """A batch of one small frame that the gated model knows again."""
    return {INPUT: np.full((1, 2, 2, 3), mark, np.uint8)}


def start(target: Target, mark: int, timeout: float = DEADLINE_SECONDS) -> grpc.Future:
    return target.prediction.Predict.future(target.request(frame(mark)), timeout=timeout)


def until(condition) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_SECONDS).status


def accepts(target: Target) -> bool:
    """Whether the server takes requests."""
    try:
        return bool(target.status(target.spec()))
    except grpc.RpcError as refusal:
        assert refusal.code() in ENDED  # noqa: PT017 (anything else is a failure)
        return False


def occupy(gated: GatedBackend, server: ModelServer, target: Target, waiting: int) -> list[grpc.Future]:
    """One request that computes, and so many that wait; their frames are marked 0, 1, 2..."""
    calls = [start(target, 0)]
    assert gated.entered.acquire(timeout=DEADLINE_SECONDS)
    for mark in range(1, waiting + 1):
        calls.append(start(target, mark))
        until(lambda mark=mark: server.waiting == mark)
    return calls


def test_a_full_queue_answers_unavailable(gated: GatedBackend, gated_server) -> None:
    server, target = gated_server
    calls = occupy(gated, server, target, waiting=2)
    refused = start(target, 9)
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    gated.gate.set()
    assert [call.code() for call in calls] == [grpc.StatusCode.OK] * 3
    assert gated.seen == [0, 1, 2]


def test_a_full_queue_still_says_what_is_wrong_with_a_request(gated: GatedBackend, gated_server) -> None:
    server, target = gated_server
    occupy(gated, server, target, waiting=2)
    wrong = target.request({"no_such_input": np.zeros((1, 2, 2, 3), np.uint8)})
    call = target.prediction.Predict.future(wrong, timeout=DEADLINE_SECONDS)
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert target.status(target.spec())[0].state == ModelVersionStatus.AVAILABLE


def test_a_cancelled_request_is_not_computed(gated: GatedBackend, gated_server) -> None:
    server, target = gated_server
    calls = occupy(gated, server, target, waiting=2)
    calls[1].cancel()
    until(lambda: server.waiting == 1)
    gated.gate.set()
    assert calls[2].code() is grpc.StatusCode.OK
    assert gated.seen == [0, 2]


def test_a_request_past_its_deadline_is_not_computed(gated: GatedBackend, gated_server) -> None:
    server, target = gated_server
    calls = occupy(gated, server, target, waiting=1)
    late = start(target, 7, timeout=0.1)
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: server.waiting == 1)
    gated.gate.set()
    assert [call.code() for call in calls] == [grpc.StatusCode.OK] * 2
    assert gated.seen == [0, 1]


def test_stop_finishes_what_is_in_flight_and_takes_no_more(gated: GatedBackend) -> None:
    with ModelServer(gated, queue_size=2, workers=1) as server, connected(server.address, "ssd") as target:
        calls = occupy(gated, server, target, waiting=1)
        ended: list[bool] = []
        stopping = threading.Thread(target=lambda: ended.append(server.stop(DEADLINE_SECONDS)))
        stopping.start()
        until(lambda: not accepts(target))
        assert start(target, 9).code() in ENDED
        gated.gate.set()
        assert [call.code() for call in calls] == [grpc.StatusCode.OK] * 2
        stopping.join(DEADLINE_SECONDS)
    assert ended == [True]
    assert gated.is_closed


def test_stop_cuts_off_what_does_not_finish_in_the_grace(gated: GatedBackend) -> None:
    server = ModelServer(gated, queue_size=2, workers=1)
    with connected(server.address, "ssd") as target:
        calls = occupy(gated, server, target, waiting=1)
        assert not server.stop(grace_seconds=0.05)
        assert {call.code() for call in calls} <= ENDED
    gated.gate.set()
    assert server.stop(DEADLINE_SECONDS)
    assert gated.seen == [0]


def test_no_thread_is_left_after_stop() -> None:
    before = set(threading.enumerate())
    with (
        ModelServer(NullBackend(), rest_port=0) as server,
        connected(server.address, "ssd") as target,
    ):
        target.predict(target.request(frame(1)))
    until(lambda: set(threading.enumerate()) <= before)


def test_the_model_is_loading_until_it_is_loaded_and_health_follows(gated: GatedBackend) -> None:
    def load() -> GatedBackend:
        assert gated.gate.wait(DEADLINE_SECONDS)
        return gated

    with ModelServer(load) as server, connected(server.address, "ssd") as target:
        assert target.status(target.spec())[0].state == ModelVersionStatus.LOADING
        assert health(server.address) == NOT_SERVING
        assert (server.description, server.wait_until_available(0)) == ("loading", False)
        gated.gate.set()
        assert server.wait_until_available(DEADLINE_SECONDS)
        assert target.status(target.spec())[0].state == ModelVersionStatus.AVAILABLE
        until(lambda: health(server.address) == SERVING)
        assert health(server.address, "PredictionService") == health(server.address, "ModelService") == SERVING
        assert server.description == "gated"


def test_a_failed_load_is_raised_and_ends_the_version() -> None:
    def fail() -> NullBackend:
        raise ModelMismatchError("the file is broken")

    with ModelServer(fail) as server, connected(server.address, "ssd") as target:
        with pytest.raises(ModelMismatchError, match="the file is broken"):
            server.wait_until_available(DEADLINE_SECONDS)
        (status,) = target.status(target.spec())
        assert (status.state, status.status.error_message) == (ModelVersionStatus.END, "the file is broken")
        assert health(server.address) == NOT_SERVING


def test_a_port_in_use_is_a_usage_error_for_grpc_and_rest() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ports in ({"port": port}, {"rest_port": port}):
            with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1:{port}"):
                ModelServer(NullBackend(), **ports)


def test_two_servers_never_share_a_port() -> None:
    with ModelServer(NullBackend()) as server, pytest.raises(UsageError):
        ModelServer(NullBackend(), port=int(server.address.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("boom"), grpc.StatusCode.INTERNAL),  # a defect of the model
        (MemoryError(), grpc.StatusCode.RESOURCE_EXHAUSTED),  # a smaller batch may fit
    ],
)
def test_a_failing_model_fails_the_request_and_not_the_server(error: Exception, code: grpc.StatusCode) -> None:
    class Failing(NullBackend):
        def predict(self, inputs):
            if inputs[INPUT].flat[0]:
                raise error
            return super().predict(inputs)

    with ModelServer(Failing()) as server, connected(server.address, "ssd") as target:
        assert start(target, 1).code() is code
        assert start(target, 0).code() is grpc.StatusCode.OK


def test_long_messages_are_cut_as_tensorflow_serving_does() -> None:
    with ModelServer(NullBackend()) as server, connected(server.address, "ssd") as target:
        call = target.prediction.Predict.future(
            target.request(frame(0), target.spec(name="x" * 5000)), timeout=DEADLINE_SECONDS
        )
        assert len(call.details()) == MAX_MESSAGE_CHARACTERS + len("...TRUNCATED")


def test_an_empty_batch_and_a_vast_shape_without_bytes_are_invalid_arguments() -> None:
    with ModelServer(NullBackend()) as server, connected(server.address, "ssd") as target:
        vast = tensor_from_array(np.zeros((1, 1, 1, 3), np.uint8))
        vast.ClearField("tensor_content")
        vast.tensor_shape.dim[0].size = 1 << 40
        empty = tensor_from_array(np.zeros((0, 2, 2, 3), np.uint8))
        for tensor in (vast, empty):
            request = PredictRequest(model_spec=target.spec(), inputs={INPUT: tensor})
            call = target.prediction.Predict.future(request, timeout=DEADLINE_SECONDS)
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_other_methods_are_unimplemented() -> None:
    with ModelServer(NullBackend()) as server, grpc.insecure_channel(server.address) as channel:
        for method in (
            "PredictionService/Classify",
            "PredictionService/Regress",
            "PredictionService/MultiInference",
            "ModelService/HandleReloadConfigRequest",
        ):
            call = channel.unary_unary(f"/tensorflow.serving.{method}")
            assert call.future(b"", timeout=DEADLINE_SECONDS).code() is grpc.StatusCode.UNIMPLEMENTED


def test_answers_come_as_tensor_content() -> None:
    with ModelServer(NullBackend()) as server, connected(server.address, "ssd") as target:
        outputs = target.predict(target.request(frame(0))).outputs
        assert all(tensor.tensor_content for tensor in outputs.values())
        assert array_from_tensor(outputs["num_detections"]).tolist() == [0]

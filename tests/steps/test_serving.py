"""The client keeps order and deadlines, and gives every fault of a server its own clear end."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from steps import stubs
from steps.errors import ModelMismatchError, ModelUnavailableError, OutsideError, UsageError
from steps.profile import ModelProfile
from steps.serving import Batch, OutOfMemoryOnServer, ServingClient
from steps.signature import InputSpec

SPEC = InputSpec("input_tensor", 4, 2, np.dtype(np.uint8), None, ("boxes", "scores"), False)
PROFILE = ModelProfile.model_validate(
    {
        "input": {"name": "input_tensor"},
        "outputs": {"boxes": "boxes", "scores": "scores", "classes": "classes"},
        "box_format": "ymin_xmin_ymax_xmax_normalized",
    }
)
PATIENCE_SECONDS = 30
AVAILABLE = stubs.ModelVersionStatus.AVAILABLE
LOADING = stubs.ModelVersionStatus.LOADING
END = stubs.ModelVersionStatus.END

Fault = Callable[[grpc.ServicerContext], None]


def fails(code: str, words: str = "") -> Fault:
    return lambda context: context.abort(grpc.StatusCode[code], words)


class FaultyServer(stubs.PredictionServiceServicer, stubs.ModelServiceServicer):
    """A server that answers with the first byte of each picture, after the faults that it is given."""

    def __init__(self, port: int = 0) -> None:
        self.faults: Iterator[Fault] = iter(())
        self.states: Iterator[Fault | dict[int, int]] = itertools.repeat({1: AVAILABLE})
        self.error_message = ""
        self.signatures = {"serving_default": stubs.SignatureDef()}
        self.answer = self._answer
        self.requests: list = []
        self.released = threading.Event()
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        stubs.add_PredictionServiceServicer_to_server(self, self._server)
        stubs.add_ModelServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        self.released.set()
        self._server.stop(0).wait()

    def Predict(self, request, context):
        with self._lock:
            self.requests.append(request)
            fault = next(self.faults, None)
        if fault is not None:
            fault(context)
        return self.answer(request, context)

    def _answer(self, request, _context):
        frames = stubs.array_from_tensor(request.inputs["input_tensor"])
        firsts = frames.reshape(len(frames), -1)[:, 0].astype(np.float32)
        return stubs.PredictResponse(
            outputs={
                "boxes": stubs.tensor_from_array(np.tile(firsts[:, None, None], (1, 2, 4))),
                "scores": stubs.tensor_from_array(np.tile(firsts[:, None], (1, 2))),
            }
        )

    def GetModelStatus(self, request, context):
        with self._lock:
            self.requests.append(request)
            state = next(self.states)
        if callable(state):
            state(context)
        statuses = [stubs.ModelVersionStatus(version=version, state=number) for version, number in state.items()]
        for status in statuses:
            status.status.error_message = self.error_message
        return stubs.GetModelStatusResponse(model_version_status=statuses)

    def GetModelMetadata(self, request, context):
        fault = next(self.faults, None)
        if fault is not None:
            fault(context)
        self.requests.append(request)
        response = stubs.GetModelMetadataResponse(model_spec=request.model_spec)
        response.metadata["signature_def"].Pack(stubs.SignatureDefMap(signature_def=self.signatures))
        return response


@pytest.fixture
def server():
    server = FaultyServer()
    yield server
    server.stop()


@pytest.fixture
def client(server):
    with client_of(server) as client:
        yield client


def client_of(server: FaultyServer, version: int | None = 1, **settings: float) -> ServingClient:
    chosen = {
        "rpc_timeout_seconds": PATIENCE_SECONDS,
        "unavailable_timeout_seconds": PATIENCE_SECONDS,
    } | settings
    return ServingClient(f"127.0.0.1:{server.port}", "ssd", version, **chosen)


def batches(number: int, size: int = 2, last: int | None = None) -> Iterator[Batch]:
    """So many batches; the first byte of each picture is its place in the stream."""
    for index in range(number):
        array = np.zeros((size, SPEC.height, SPEC.width, 3), np.uint8)
        array.reshape(size, -1)[:, 0] = np.arange(index * size, (index + 1) * size)
        yield Batch(array, last if last and index == number - 1 else size, tag=index)


def stream(client: ServingClient, number: int = 1, in_flight: int = 1) -> list[float]:
    """First bytes of the pictures, as they came back."""
    return [
        float(score)
        for _, outputs in client.predict_stream(SPEC, batches(number), in_flight)
        for score in outputs["scores"][:, 0]
    ]


# Waiting


def test_waiting_ends_when_the_model_is_available(server, client):
    server.states = iter(
        [fails("UNAVAILABLE", "starting"), fails("NOT_FOUND", "no model"), {}, {1: LOADING}, {1: AVAILABLE}]
    )
    assert client.wait_until_available() == 1
    assert len(server.requests) == 5
    assert server.requests[0].model_spec.name == "ssd"


def test_without_a_version_the_newest_available_one_is_taken_and_asked_for(server):
    server.states = iter([{1: END, 2: LOADING}, {2: AVAILABLE, 3: AVAILABLE, 4: LOADING}])
    with client_of(server, None) as client:
        assert client.wait_until_available() == 3
        stream(client)
    assert server.requests[-1].model_spec.version.value == 3


def test_the_version_asked_for_is_awaited_while_an_older_one_is_served(server):
    server.states = iter([{1: AVAILABLE, 2: LOADING}, {1: AVAILABLE, 2: AVAILABLE}])
    with client_of(server, 2) as client:
        assert client.wait_until_available() == 2


def test_another_version_than_the_deployments_is_a_misfit_that_names_what_is_served(server):
    server.states = iter([{3: AVAILABLE, 4: AVAILABLE, 2: END}])
    with (
        client_of(server, 1) as client,
        pytest.raises(ModelMismatchError, match="has version 3, 4; ") as raised,
    ):
        client.wait_until_available()
    assert "'ssd' version 1" in str(raised.value)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({1: END}, r"version 1 is END \(out of disk\)"),
        ({1: LOADING}, "version 1 is LOADING"),
        ({}, "lists no version"),
        (
            fails("NOT_FOUND", "Could not find\nany versions of model ssd"),
            "NOT_FOUND: Could not find any versions",
        ),
    ],
)
def test_a_model_that_does_not_come_is_unavailable_after_the_deadline(server, state, words):
    server.states = itertools.repeat(state)
    server.error_message = "out of disk"
    with (
        client_of(server, ready_timeout_seconds=0.3) as client,
        pytest.raises(ModelUnavailableError, match=words) as raised,
    ):
        client.wait_until_available()
    assert f"'ssd' version 1 at 127.0.0.1:{server.port} was not available within 0.3 s" in str(raised.value)


def test_no_server_is_unavailable_after_the_deadline():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with (
            ServingClient(f"127.0.0.1:{port}", "ssd", ready_timeout_seconds=0.3) as client,
            pytest.raises(ModelUnavailableError, match=f"127.0.0.1:{port}.*UNAVAILABLE.*refused"),
        ):
            client.wait_until_available()


def test_a_server_that_accepts_and_says_nothing_is_unavailable_after_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with (
            ServingClient(f"127.0.0.1:{port}", "ssd", ready_timeout_seconds=0.3) as client,
            pytest.raises(ModelUnavailableError, match="DEADLINE_EXCEEDED"),
        ):
            client.wait_until_available()


def test_a_grpc_server_of_another_kind_is_a_misfit():
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        with (
            ServingClient(f"127.0.0.1:{port}", "ssd") as client,
            pytest.raises(ModelMismatchError, match="no TensorFlow Serving server"),
        ):
            client.wait_until_available()
    finally:
        other.stop(0).wait()


@pytest.mark.parametrize(
    "address", ["", "localhost", "http://localhost:8500", "host:port", "a b:1", ":8500", "h:0", "h:65536"]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(UsageError, match="HOST:PORT"):
        ServingClient(address, "ssd")


def test_a_vanished_peer_is_noticed_by_the_kernel(server, client):
    client.wait_until_available()
    timeouts = []
    for descriptor in range(3, 256):
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            continue
        try:
            if connection.getpeername()[1] == server.port:
                timeouts.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        except OSError:
            continue
        finally:
            connection.detach()
    assert timeouts == [20_000]


# Signature


def signature() -> stubs.SignatureDef:
    def info(*sizes: int, dtype: int = stubs.DT_FLOAT) -> stubs.TensorInfo:
        shape = stubs.TensorShapeProto(dim=[stubs.TensorShapeProto.Dim(size=size) for size in sizes])
        return stubs.TensorInfo(dtype=dtype, tensor_shape=shape)

    return stubs.SignatureDef(
        inputs={"input_tensor": info(-1, 2, 4, 3, dtype=stubs.DT_UINT8)},
        outputs={"boxes": info(-1, 2, 4), "scores": info(-1, 2), "classes": info(-1, 2)},
    )


def test_the_signature_is_read_from_the_server(server, client):
    server.signatures = {"serving_default": signature()}
    server.faults = iter([fails("UNAVAILABLE", "restarting")])
    spec = client.signature(PROFILE)
    assert (spec.name, spec.width, spec.height, spec.dtype) == ("input_tensor", 4, 2, np.uint8)
    (request,) = server.requests
    assert (request.model_spec.name, request.model_spec.version.value) == ("ssd", 1)
    assert list(request.metadata_field) == ["signature_def"]


def test_a_model_without_the_default_signature_is_a_misfit(server, client):
    server.signatures = {"detect": signature(), "train": signature()}
    with pytest.raises(ModelMismatchError, match="no signature 'serving_default', only detect, train"):
        client.signature(PROFILE)


def test_a_signature_that_does_not_fit_names_the_model_and_the_server(server, client):
    with pytest.raises(ModelMismatchError, match=f"'ssd' version 1 at 127.0.0.1:{server.port}: .*inputs are none"):
        client.signature(PROFILE)


# Streaming


def test_every_frame_comes_back_in_order_with_its_own_outputs(client):
    found = list(client.predict_stream(SPEC, batches(40, size=3, last=2), in_flight=4))
    assert [batch.tag for batch, _ in found] == list(range(40))
    assert sum(len(outputs["scores"]) for _, outputs in found) == 119
    for batch, outputs in found:
        assert outputs["boxes"].shape == (batch.count, 2, 4)
        np.testing.assert_array_equal(outputs["boxes"][:, 0, 0], batch.array.reshape(3, -1)[: batch.count, 0])


def test_a_request_names_model_version_signature_and_the_outputs_used(server, client):
    (batch,) = batches(1)
    list(client.predict_stream(SPEC, [batch], 1))
    (request,) = server.requests
    assert (request.model_spec.name, request.model_spec.version.value) == ("ssd", 1)
    assert request.model_spec.signature_name == "serving_default"
    assert list(request.output_filter) == ["boxes", "scores"]
    assert list(request.inputs) == ["input_tensor"]
    np.testing.assert_array_equal(stubs.array_from_tensor(request.inputs["input_tensor"]), batch.array)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("value", [0, 255])
def test_pictures_arrive_byte_for_byte_in_both_types(server, client, dtype, value):
    spec = InputSpec("input_tensor", 1, 1, np.dtype(dtype), None, ("boxes",), False)
    arrays = [np.full((1, 1, 1, 3), value, dtype), np.arange(3).reshape(1, 1, 1, 3).astype(dtype)]
    assert len(list(client.predict_stream(spec, (Batch(array, 1) for array in arrays), 1))) == 2
    for request, array in zip(server.requests, arrays, strict=True):
        sent = stubs.array_from_tensor(request.inputs["input_tensor"])
        assert sent.dtype == dtype
        np.testing.assert_array_equal(sent, array)


def test_a_buffer_may_be_used_again_once_its_batch_was_yielded(client):
    buffers = [np.zeros((1, SPEC.height, SPEC.width, 3), np.uint8) for _ in range(3)]
    free = list(buffers)

    def source() -> Iterator[Batch]:
        for index in range(30):
            buffer = free.pop()
            buffer[:] = index
            yield Batch(buffer, 1)

    found = []
    for batch, outputs in client.predict_stream(SPEC, source(), in_flight=3):
        found.append(outputs["scores"][0, 0])
        batch.array[:] = 99
        free.append(batch.array)
    assert found == list(range(30))


def test_so_many_requests_are_under_way_at_once_and_no_more(server, client):
    together = threading.Barrier(3, timeout=PATIENCE_SECONDS)
    server.faults = itertools.repeat(lambda _: together.wait())
    pulled = itertools.count()
    pulled_so_far = 0

    def source() -> Iterator[Batch]:
        nonlocal pulled_so_far
        for batch in batches(6):
            pulled_so_far = next(pulled) + 1
            yield batch

    for done, _ in enumerate(client.predict_stream(SPEC, source(), in_flight=3)):
        assert pulled_so_far - done <= 3
    assert pulled_so_far == 6


def test_nothing_to_send_sends_nothing(server, client):
    assert stream(client, number=0) == []
    assert server.requests == []


def test_a_batch_of_another_shape_is_a_defect(client):
    odd = [*batches(1, size=2), *batches(1, size=3)]
    with pytest.raises(ValueError, match="after uint8"):
        list(client.predict_stream(SPEC, odd, 1))


def test_closing_the_stream_cancels_what_is_under_way(server, client):
    cancelled = threading.Event()
    arrived = threading.Event()
    answer = server.answer

    def hang_on_the_second(request, context):
        if stubs.array_from_tensor(request.inputs["input_tensor"]).flat[0] == 0:
            assert arrived.wait(PATIENCE_SECONDS)
        else:
            context.add_callback(cancelled.set)
            arrived.set()
            server.released.wait(PATIENCE_SECONDS)
        return answer(request, context)

    server.answer = hang_on_the_second
    stream = client.predict_stream(SPEC, batches(2), in_flight=2)
    next(stream)
    assert not cancelled.is_set()
    stream.close()
    assert cancelled.wait(PATIENCE_SECONDS)


def test_a_broken_source_ends_the_stream_with_its_own_error(client):
    def source() -> Iterator[Batch]:
        yield from batches(3)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(client.predict_stream(SPEC, source(), in_flight=2))


# Faults


@pytest.mark.parametrize("code", ["UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED"])
def test_a_busy_server_is_asked_again(server, client, code):
    server.faults = iter([fails(code, "The batch scheduling queue is full")] * 3)
    assert stream(client, number=4, in_flight=2) == list(range(8))
    assert len(server.requests) == 4 + 3


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "CANCELLED", "DATA_LOSS"])
def test_a_server_that_stumbles_once_is_asked_again(server, client, code):
    server.faults = iter([fails(code)])
    assert stream(client) == [0, 1]


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "CANCELLED", "DATA_LOSS"])
def test_a_server_that_stumbles_twice_is_unavailable(server, client, code):
    server.faults = itertools.repeat(fails(code, "Session was\nclosed"))
    with pytest.raises(ModelUnavailableError, match=f"failed again with {code}: Session was closed"):
        stream(client)
    assert len(server.requests) == 2


def test_a_server_that_stays_unavailable_is_given_up_after_the_total_deadline(server):
    server.faults = itertools.repeat(fails("UNAVAILABLE", "queue is full"))
    with (
        client_of(server, unavailable_timeout_seconds=0.3) as client,
        pytest.raises(ModelUnavailableError, match=r"stayed UNAVAILABLE for 0\.3 s: queue is full"),
    ):
        stream(client)
    assert len(server.requests) > 1


def test_a_lost_connection_goes_on_with_the_server_that_comes_back(server, client):
    replacement: list[FaultyServer] = []

    def die(_: grpc.ServicerContext) -> None:
        def restart() -> None:
            server.stop()
            replacement.append(FaultyServer(server.port))

        thread = threading.Thread(target=restart)
        thread.start()
        server.released.wait(PATIENCE_SECONDS)

    server.faults = iter([lambda _: None, die])
    try:
        assert stream(client, number=6, in_flight=2) == list(range(12))
        assert replacement[0].requests
    finally:
        for one in replacement:
            one.stop()


def test_a_server_that_does_not_answer_is_unavailable_after_a_few_deadlines(server):
    server.faults = itertools.repeat(lambda _: server.released.wait(PATIENCE_SECONDS))
    with (
        client_of(server, rpc_timeout_seconds=0.2) as client,
        pytest.raises(ModelUnavailableError, match=r"not answer within 0\.2 s, 3 times over; raise REELSCAN_RPC"),
    ):
        stream(client)


def test_one_missed_deadline_is_asked_again(server):
    server.faults = iter([lambda _: server.released.wait(PATIENCE_SECONDS)])
    with client_of(server, rpc_timeout_seconds=2) as client:
        assert stream(client) == [0, 1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("RESOURCE_EXHAUSTED", "OOM when allocating tensor with shape[8,64,150,150] and type float"),
        ("RESOURCE_EXHAUSTED", "Out of memory while trying to allocate 1073741824 bytes"),
        ("RESOURCE_EXHAUSTED", "Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.00GiB"),
        ("RESOURCE_EXHAUSTED", "Failed to allocate memory for convolution redzone checking"),
        ("INTERNAL", "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ],
)
def test_out_of_memory_is_told_at_once_so_that_the_batch_can_be_halved(server, client, code, words):
    server.faults = iter([fails(code, words)])
    with pytest.raises(OutOfMemoryOnServer, match="ran out of memory") as raised:
        stream(client)
    assert isinstance(raised.value, OutsideError)
    assert raised.value.code == "model_unavailable"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9830504 vs. 4194304)"),
        ("INVALID_ARGUMENT", "input size does not match signature:\n1!=2 len({a}) != len({b})"),
        ("NOT_FOUND", "Servable not found for request: Specific(ssd, 1)"),
        ("FAILED_PRECONDITION", "Serving signature name: x not found in signature def"),
        ("UNIMPLEMENTED", "unknown service"),
        ("PERMISSION_DENIED", "not you"),
    ],
)
def test_a_refusal_is_a_misfit_with_the_servers_words_at_once(server, client, code, words):
    server.faults = iter([fails(code, words)])
    with pytest.raises(ModelMismatchError) as raised:
        stream(client)
    assert " ".join(words.split()) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(server.requests) == 1


def test_a_real_message_limit_is_a_misfit():
    small = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", 100)])
    stubs.add_PredictionServiceServicer_to_server(stubs.PredictionServiceServicer(), small)
    port = small.add_insecure_port("127.0.0.1:0")
    small.start()
    try:
        with (
            ServingClient(f"127.0.0.1:{port}", "ssd", 1) as client,
            pytest.raises(ModelMismatchError, match=r"size of a message.*REELSCAN_BATCH_SIZE"),
        ):
            stream(client)
    finally:
        small.stop(0).wait()


def response_of(**outputs: np.ndarray) -> stubs.PredictResponse:
    return stubs.PredictResponse(
        outputs={name: stubs.tensor_from_array(np.asarray(value, np.float32)) for name, value in outputs.items()}
    )


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (response_of(boxes=np.zeros((2, 1, 4))), "lacks the output 'scores'"),
        (response_of(boxes=np.zeros((1, 1, 4)), scores=np.zeros((1, 1))), r"shape \[1, 1, 4\], not \[2, 1, 4\]"),
        (response_of(boxes=np.zeros((2, 8)), scores=np.zeros((2, 2))), r"shape \[2, 8\], not \[2, N, 4\]"),
        (response_of(boxes=np.zeros((2, 3, 4)), scores=np.zeros((2, 2))), r"shape \[2, 2\], not \[2, 3\]"),
        (response_of(boxes=np.zeros((2, 3, 4)), scores=np.zeros(())), r"shape \[\], not \[2, 3\]"),
        (
            stubs.PredictResponse(outputs={"boxes": stubs.TensorProto(dtype=7)}),
            "'boxes' cannot be read: elements are DT_STRING",
        ),
    ],
)
def test_an_answer_that_does_not_fit_is_a_misfit(server, client, response, words):
    server.answer = lambda *_: response
    with pytest.raises(ModelMismatchError, match=words):
        stream(client)

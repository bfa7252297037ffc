"""Client of a TensorFlow Serving server: waits for the model, reads its signature, streams frames through it.

A request of eight 640x640 frames is 10 MB. What makes it slow is page faults, not copying: processes that
send or serve such requests are started with `MALLOC_MMAP_THRESHOLD_=1073741824`,
`MALLOC_TRIM_THRESHOLD_=2147483648` and `MALLOC_TOP_PAD_=67108864`, so that glibc keeps the memory of one
request for the next.
"""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from steps.errors import ModelMismatchError, ModelUnavailableError, OutsideError, UsageError
from steps.profile import ModelProfile
from steps.signature import SIGNATURE_NAME, InputSpec, check_signature
from steps.stubs import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    ModelSpec,
    ModelVersionStatus,
    PredictionServiceStub,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
    array_from_tensor,
    tensor_from_array,
)

_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC sets TCP_USER_TIMEOUT to the keepalive timeout, so the kernel notices a peer that vanished while
    # bytes are on their way. Pings are rarer: servers end connections that ping more than every five minutes.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A server that starts beside this process is found soon after it listens.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # The server is a neighbour; a proxy of the environment is meant for S3.
    ("grpc.enable_http_proxy", 0),
)
_POLL_SECONDS = 0.25
_LONGEST_STATUS_SECONDS = 5.0
_SHORTEST_STATUS_SECONDS = 1.0  # enough to learn why, also when the deadline is near
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_DEADLINE_RETRIES = 2
_OTHER_RETRIES = 1

_OUT_OF_MEMORY = re.compile(r"\bOOM\b|out[ _]of[ _]memory|failed to allocate|CUDNN_STATUS_ALLOC_FAILED", re.IGNORECASE)
_MESSAGE_TOO_LARGE = re.compile(r"larger than max|message (size|length)|too large", re.IGNORECASE)


class OutOfMemoryOnServer(OutsideError):
    """The server ran out of memory on a batch: the caller starts the chunk again with a smaller one."""

    code = "model_unavailable"


@dataclass(slots=True)
class Batch:
    """Frames of one request. The array may be used again once the batch has been yielded with its outputs."""

    array: npt.NDArray[Any]
    """[B, height, width, 3], uint8 or float32, contiguous; one shape in all batches (the last is padded)."""
    count: int
    """How many of the B are frames; the rest is padding."""
    tag: object = None
    """The caller's own."""


def check_address(address: str) -> None:
    """Raise UsageError unless it is HOST:PORT, or `unix:PATH`."""
    found = re.fullmatch(r"unix:.+|[^/\s]+:(\d{1,5})", address)
    if found is None or (found[1] is not None and not 1 <= int(found[1]) <= 65535):
        raise UsageError(f"serving address {address[:200]!r} is not HOST:PORT of a gRPC port, such as 127.0.0.1:8500")


class ServingClient:
    """One model at one TensorFlow Serving server. Every wait has a deadline. A context manager."""

    def __init__(
        self,
        address: str,
        model_name: str,
        model_version: int | None = None,
        *,
        rpc_timeout_seconds: float = 60.0,
        ready_timeout_seconds: float = 300.0,
        unavailable_timeout_seconds: float = 300.0,
    ) -> None:
        """Connects to nothing yet.

        Args:
            address: HOST:PORT of the server's gRPC port, or `unix:PATH`.
            model_name: The model's name at the server.
            model_version: The only version accepted; None takes the newest that is available.
            rpc_timeout_seconds: Deadline of one request.
            ready_timeout_seconds: How long `wait_until_available` waits.
            unavailable_timeout_seconds: How long a request is tried again while the server says UNAVAILABLE.

        Raises:
            UsageError: the address is not HOST:PORT.
        """
        check_address(address)
        self.address = address
        self.model_name = model_name
        self.model_version = model_version
        self.rpc_timeout_seconds = rpc_timeout_seconds
        self.ready_timeout_seconds = ready_timeout_seconds
        self.unavailable_timeout_seconds = unavailable_timeout_seconds
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._models = ModelServiceStub(self._channel)
        self._predictions = PredictionServiceStub(self._channel)
        # As PredictionServiceStub.Predict, but taking the request's bytes: see _RequestBytes.
        self._predict = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=None,
            response_deserializer=PredictResponse.FromString,
        )

    def __enter__(self) -> ServingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and what is under way on it."""
        self._channel.close()

    @property
    def model(self) -> str:
        """The model in words, for messages."""
        version = "" if self.model_version is None else f" version {self.model_version}"
        return f"model {self.model_name!r}{version} at {self.address}"

    def wait_until_available(self) -> int:
        """Waits until the server is there and the model is AVAILABLE; returns its version.

        Raises:
            ModelUnavailableError: not within `ready_timeout_seconds`; the last state is named.
            ModelMismatchError: the server has other versions of the model only, or is no TensorFlow Serving.
        """
        deadline = time.monotonic() + self.ready_timeout_seconds
        while True:
            left = deadline - time.monotonic()
            version, state = self._look(min(_LONGEST_STATUS_SECONDS, max(left, _SHORTEST_STATUS_SECONDS)))
            if version is not None:
                self.model_version = version
                return version
            if left <= 0:
                raise ModelUnavailableError(
                    f"{self.model} was not available within {self.ready_timeout_seconds:g} s: {state}; check "
                    f"the server's log and the model's name, or raise REELSCAN_READY_TIMEOUT_SECONDS"
                )
            time.sleep(min(_POLL_SECONDS, max(left, 0.0)))

    def _look(self, timeout_seconds: float) -> tuple[int | None, str]:
        """The version if it is AVAILABLE, and the state in words."""
        # Without a version the server answers for all, which tells a wrong version from one still to come.
        request = GetModelStatusRequest(model_spec=ModelSpec(name=self.model_name))
        try:
            answer = self._models.GetModelStatus(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise ModelMismatchError(
                    f"{self.address} speaks gRPC but is no TensorFlow Serving server ({_words(error)}); "
                    f"give the address of the model server's gRPC port"
                ) from None
            return None, f"{error.code().name}: {_words(error)}"
        statuses = {status.version: status for status in answer.model_version_status}
        available = [version for version, status in statuses.items() if status.state == ModelVersionStatus.AVAILABLE]
        if self.model_version is None:
            if available:
                return max(available), "AVAILABLE"
        elif self.model_version in available:
            return self.model_version, "AVAILABLE"
        elif available and self.model_version not in statuses:
            served = ", ".join(str(version) for version in sorted(available))
            raise ModelMismatchError(
                f"{self.model} is not served: the server has version {served}; "
                f"serve the deployment's version, or change REELSCAN_MODEL_VERSION"
            )
        states = [
            f"version {version} is {_state_name(status.state)}"
            + (f" ({_one_line(status.status.error_message)})" if status.status.error_message else "")
            for version, status in sorted(statuses.items())
        ]
        return None, ", ".join(states) or "the server lists no version"

    def signature(self, profile: ModelProfile) -> InputSpec:
        """What the model takes and gives, from its `serving_default` signature and the profile.

        Raises:
            ModelMismatchError: the signature and the profile do not fit; both are quoted.
            ModelUnavailableError: the server stopped answering.
        """
        request = GetModelMetadataRequest(model_spec=self._spec(), metadata_field=["signature_def"])

        def send() -> Any:
            return self._predictions.GetModelMetadata.future(request, timeout=self.rpc_timeout_seconds)

        metadata = self._result(send(), send).metadata
        signatures = SignatureDefMap()
        if "signature_def" not in metadata or not metadata["signature_def"].Unpack(signatures):
            raise ModelMismatchError(f"{self.model}: the server states no signatures; export the model with one")
        if SIGNATURE_NAME not in signatures.signature_def:
            named = ", ".join(sorted(signatures.signature_def)) or "none"
            raise ModelMismatchError(
                f"{self.model} has no signature {SIGNATURE_NAME!r}, only {named}; export the model with it"
            )
        return check_signature(signatures.signature_def[SIGNATURE_NAME], profile, self.model)

    def predict_stream(
        self, spec: InputSpec, batches: Iterable[Batch], in_flight: int = 3
    ) -> Iterator[tuple[Batch, dict[str, npt.NDArray[Any]]]]:
        """Sends batches, several at once, and yields each with its outputs, in the order of `batches`.

        Up to `in_flight` batches are held at a time; closing the iterator cancels what is under way.

        Args:
            spec: From `signature`.
            batches: All of one shape, [B, spec.height, spec.width, 3] of spec.dtype.
            in_flight: Requests under way at once, at least 1.

        Yields:
            The batch, and the outputs by name, without the padding: [count, ...].

        Raises:
            ModelUnavailableError: the server stayed unavailable, slow or broken through all retries.
            ModelMismatchError: the server refuses the requests, or its answers do not fit.
            OutOfMemoryOnServer: a batch is too large for the server's memory.
        """
        under_way: deque[tuple[Batch, Any]] = deque()
        source = iter(batches)
        payload: _RequestBytes | None = None
        try:
            while True:
                while len(under_way) < in_flight:
                    batch = next(source, None)
                    if batch is None:
                        break
                    if payload is None:
                        payload = _RequestBytes(self._spec(), spec, batch.array)
                    under_way.append((batch, self._send(payload, batch)))
                if payload is None or not under_way:
                    return
                batch, call = under_way[0]
                response = self._result(call, lambda: self._send(payload, under_way[0][0]))  # noqa: B023
                outputs = self._outputs(response, spec, batch)
                under_way.popleft()
                yield batch, outputs
        finally:
            for _, call in under_way:
                call.cancel()

    def _spec(self) -> Any:
        spec = ModelSpec(name=self.model_name, signature_name=SIGNATURE_NAME)
        if self.model_version is not None:
            spec.version.value = self.model_version
        return spec

    def _send(self, payload: _RequestBytes, batch: Batch) -> Any:
        return self._predict.future(payload.of(batch.array), timeout=self.rpc_timeout_seconds)

    def _result(self, call: Any, send_again: Callable[[], Any]) -> Any:
        """The answer of a call; failing that, of as many further ones as patience allows."""
        patience: _Patience | None = None
        while True:
            try:
                return call.result()
            except grpc.RpcError as error:
                patience = patience or _Patience(self)
                patience.wait_after(error)
            call = send_again()

    def _outputs(self, response: Any, spec: InputSpec, batch: Batch) -> dict[str, npt.NDArray[Any]]:
        """The outputs of a response, checked against the batch, without the padding."""
        size = len(batch.array)
        outputs = {}
        rows = -1
        for position, name in enumerate(spec.outputs):
            if name not in response.outputs:
                raise ModelMismatchError(f"{self.model}: the answer lacks the output {name!r}")
            try:
                array = array_from_tensor(response.outputs[name])
            except ValueError as error:
                raise ModelMismatchError(f"{self.model}: output {name!r} cannot be read: {error}") from None
            shape = array.shape
            if position == 0 and len(shape) == 3:
                rows = shape[1]
            expected = ((size, rows, 4), (size, rows), (size, rows), (size,))[position]
            # A count of [batch, 1] is as good as one of [batch].
            if shape != expected and not (position == 3 and shape == (size, 1)):
                wanted = ", ".join("N" if length < 0 else str(length) for length in expected)
                raise ModelMismatchError(
                    f"{self.model}: output {name!r} has shape {list(shape)}, not [{wanted}], for {size} frames; "
                    f"name other outputs in the model profile (reelscan.json), or export the model anew"
                )
            outputs[name] = array[: batch.count]
        return outputs


class _RequestBytes:
    """The bytes of PredictRequests that differ only in the bytes of their one tensor.

    The request is serialized once, with a tensor of the same shape; each batch then costs one copy of its
    bytes, where building and serializing a message takes three.
    """

    def __init__(self, model_spec: Any, spec: InputSpec, array: npt.NDArray[Any]) -> None:
        self._shape = array.shape
        self._dtype = array.dtype
        # Any bytes that cannot stand elsewhere in the request by chance show where the tensor's begin.
        marker = np.frombuffer(random.Random(0).randbytes(array.nbytes), np.uint8)  # noqa: S311
        message = PredictRequest(model_spec=model_spec, output_filter=spec.outputs)
        message.inputs[spec.name].CopyFrom(tensor_from_array(marker.view(array.dtype).reshape(array.shape)))
        self._before, found, self._after = message.SerializeToString().partition(marker.tobytes())
        if not found:
            raise AssertionError("the tensor's bytes do not stand in the serialized request")

    def of(self, array: npt.NDArray[Any]) -> bytes:
        """The serialized request with this array."""
        if array.shape != self._shape or array.dtype != self._dtype:
            raise ValueError(f"a batch is {array.dtype} {array.shape} after {self._dtype} {self._shape}")
        return b"".join((self._before, array.data, self._after))


class _Patience:
    """How often, and after which waits, one request is tried again."""

    def __init__(self, client: ServingClient) -> None:
        self._client = client
        self._deadline = time.monotonic() + client.unavailable_timeout_seconds
        self._waits = 0
        self._deadlines = 0
        self._others = 0

    def wait_after(self, error: grpc.RpcError) -> None:
        """Returns when the request is to be sent again; raises what the user is to see otherwise."""
        code, words, model = error.code(), _words(error), self._client.model
        exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED
        broken = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
        if (exhausted or broken) and _OUT_OF_MEMORY.search(words):
            raise OutOfMemoryOnServer(f"{model} ran out of memory: {words}; lower REELSCAN_BATCH_SIZE") from None
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._deadlines += 1
            if self._deadlines > _DEADLINE_RETRIES:
                raise ModelUnavailableError(
                    f"{model} did not answer within {self._client.rpc_timeout_seconds:g} s, "
                    f"{self._deadlines} times over; raise REELSCAN_RPC_TIMEOUT_SECONDS, or lower "
                    f"REELSCAN_BATCH_SIZE or REELSCAN_REQUESTS_IN_FLIGHT"
                ) from None
            return
        if broken or code is grpc.StatusCode.DATA_LOSS:
            self._others += 1
            if self._others > _OTHER_RETRIES:
                raise ModelUnavailableError(f"{model} failed again with {code.name}: {words}") from None
        elif exhausted and _MESSAGE_TOO_LARGE.search(words):
            raise ModelMismatchError(
                f"{model} refuses the size of a message: {words}; lower REELSCAN_BATCH_SIZE, or raise the "
                f"server's grpc.max_receive_message_length"
            ) from None
        elif not exhausted and code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
            raise ModelMismatchError(f"{model} refuses the request with {code.name}: {words}") from None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ModelUnavailableError(
                f"{model} stayed {code.name} for {self._client.unavailable_timeout_seconds:g} s: {words}; "
                f"check the server, or raise REELSCAN_UNAVAILABLE_TIMEOUT_SECONDS"
            ) from None
        longest = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**self._waits)
        self._waits += 1
        # Jitter, so that the pods of a run do not come back to a server all at once.
        time.sleep(min(left, random.uniform(longest / 2, longest)))  # noqa: S311


def _state_name(state: int) -> str:
    """TensorFlow Serving's name of a state; the number where this version has none."""
    return str(ModelVersionStatus.State.Name(state)) if state in ModelVersionStatus.State.values() else str(state)


def _words(error: grpc.RpcError) -> str:
    """The server's words on an error, on one line."""
    return _one_line(error.details() or "no details")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."

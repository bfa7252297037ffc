"""The model server in one object: gRPC, REST, health, loading and stopping."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from local.serving import DEFAULT_QUEUE_SIZE
from local.serving.admission import Admission, Caller
from local.serving.backends import Backend, Loader
from local.serving.model import ServedModel
from local.serving.rest import RestServer
from local.serving.shutdown import finish_within
from local.serving.status import ServingError
from steps.errors import UsageError
from steps.stubs import add_ModelServiceServicer_to_server, add_PredictionServiceServicer_to_server

GRACE_SECONDS = 8.0
"""How long `stop` lets requests finish."""

_OTHER_THREADS = 16  # for status, metadata and health, however many requests wait
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # 8 frames of 640x640 are 9.8 MB; gRPC's default is 4 MB
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # else a second server on the port takes half of the requests
]
# What TensorFlow Serving reports health for (model_servers/server.cc, BuildAndStart), and the whole.
_HEALTH_SERVICES = ("", "ModelService", "PredictionService")

ResponseT = TypeVar("ResponseT")


class ModelServer:
    """A running server for one model. Serves from its construction on, until `stop` or the end of a `with`.

    Args:
        backend: The model, which `stop` closes; or what loads it, called in a thread of its own while the
            status is LOADING.
        model_name: Name under which it is served.
        model_version: Version under which it is served.
        host: Address to listen at.
        port: Port of gRPC; 0 takes a free one.
        rest_port: Port of REST; 0 takes a free one, None serves none.
        queue_size: Requests that wait at most; one more is answered UNAVAILABLE.
        workers: Requests computed at once; default is one per core and at least two, so that one is computed
            while another is decoded.

    Raises:
        UsageError: a port cannot be listened at.
    """

    def __init__(
        self,
        backend: Backend | Loader,
        model_name: str = "ssd",
        model_version: int = 1,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rest_port: int | None = None,
        queue_size: int = DEFAULT_QUEUE_SIZE,
        workers: int | None = None,
    ) -> None:
        workers = workers or max(2, os.cpu_count() or 1)
        self._admission = Admission(workers, queue_size)
        self._model = ServedModel(model_name, model_version, self._admission)
        self._health = health.HealthServicer()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._threads = ThreadPoolExecutor(workers + queue_size + _OTHER_THREADS, thread_name_prefix="grpc-request")
        self._rest: RestServer | None = None
        rest_listener = None if rest_port is None else _listen(host, rest_port)
        try:
            _listen(host, port).close()  # says why it cannot; gRPC only logs lines of its own
            self._grpc = grpc.server(self._threads, options=_OPTIONS)
            self.address = f"{host}:{_add_port(self._grpc, host, port)}"
        except BaseException:
            if rest_listener is not None:
                rest_listener.close()
            raise
        add_PredictionServiceServicer_to_server(_PredictionService(self._model, self._admission), self._grpc)
        add_ModelServiceServicer_to_server(_ModelService(self._model), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._loading = threading.Thread(target=self._load, args=[_as_loader(backend)], name="model-load", daemon=True)
        self._grpc.start()
        if rest_listener is not None:
            self._rest = RestServer(self._model, rest_listener)
        self._loading.start()
        if not callable(backend):
            self._loading.join()

    @property
    def rest_address(self) -> str | None:
        """HOST:PORT of REST, or None."""
        return None if self._rest is None else self._rest.address

    @property
    def description(self) -> str:
        """What is served; "loading" until then."""
        return self._model.description

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn now."""
        return self._admission.waiting

    def wait_until_available(self, timeout_seconds: float) -> bool:
        """Whether the model is available within the time.

        Raises:
            Exception: what the load failed with.
        """
        return self._model.wait_until_loaded(timeout_seconds)

    def _load(self, loader: Loader) -> None:
        if self._model.load(loader):
            self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def _set_health(self, status: Any) -> None:
        for service in _HEALTH_SERVICES:
            self._health.set(service, status)

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Accepts no more requests, lets those in flight finish, cuts them off after the grace.

        Returns:
            Whether everything has ended. If not, a model is still computing or loading.
        """
        deadline = time.monotonic() + grace_seconds

        def left() -> float:
            return max(0.0, deadline - time.monotonic())

        self._health.enter_graceful_shutdown()
        stopped = self._grpc.stop(grace_seconds)
        has_ended = self._rest is None or self._rest.stop(left())
        stopped.wait(left() + 1)
        has_ended &= finish_within(self._threads.shutdown, left() + 1)
        self._loading.join(left())
        has_ended &= not self._loading.is_alive()
        if has_ended:
            self._model.close()
        return has_ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _as_loader(backend: Backend | Loader) -> Loader:
    return backend if callable(backend) else lambda: backend


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as problem:
        # The text of the error itself says the address again.
        reason = os.strerror(problem.errno) if problem.errno else str(problem)
        raise UsageError(
            f"cannot listen at {host}:{port} ({reason}): choose another port, or 0 for a free one"
        ) from None
    except OverflowError as problem:
        raise UsageError(f"cannot listen at {host}:{port} ({problem}): choose another port") from None


def _add_port(server: grpc.Server, host: str, port: int) -> int:
    try:
        return server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as problem:
        raise UsageError(f"gRPC cannot listen at {host}:{port} ({problem}): choose another port") from None


class _PredictionService:
    """tensorflow.serving.PredictionService. Of its inference methods, Predict alone is served."""

    def __init__(self, model: ServedModel, admission: Admission) -> None:
        self._model = model
        self._admission = admission

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        caller = Caller()
        if not context.add_callback(lambda: self._admission.leave(caller)):
            caller.gone.set()
        return _answer(context, lambda: self._model.predict(request, caller))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answer(context, lambda: self._model.metadata(request))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Classify is not served, only Predict")

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Regress is not served, only Predict")

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "MultiInference is not served, only Predict")


class _ModelService:
    """tensorflow.serving.ModelService. The one model is given at the start and stays."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        return _answer(context, lambda: self._model.status(request))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the model is set when the server starts")


def _answer(context: grpc.ServicerContext, work: Callable[[], ResponseT]) -> ResponseT:
    try:
        return work()
    except ServingError as refusal:
        context.abort(refusal.code, refusal.message)

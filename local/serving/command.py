"""`reelscan serve`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from local.serving import DEFAULT_QUEUE_SIZE
from local.serving.backends import default_model, find_loader, find_profile
from steps.errors import EXIT_OK
from steps.profile import FILE_NAME

if TYPE_CHECKING:
    from local.serving.server import ModelServer

_INTERRUPTED = 130
_POLL_SECONDS = 0.5
# <malloc.h>: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD; in bytes.
_MALLOC_PARAMETERS = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 26))


class _TerminatedError(BaseException):
    """SIGTERM arrived."""


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command()
@click.option("--model", help="A .tflite file, a SavedModel folder, hog, null or coded. Default: the sample model.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 is all of this machine's."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8500, show_default=True, help="gRPC; 0: a free one.")
@click.option(
    "--rest-port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="REST; 0: a free one."
)
@click.option("--model-name", default="ssd", show_default=True, help="Name under which the model is served.")
@click.option("--model-version", type=click.IntRange(0), default=1, show_default=True, help="Its version.")
@click.option(
    "--threads", type=click.IntRange(1, 256), default=_cores, help="Frames worked on at once. Default: cores."
)
@click.option(
    "--queue-size",
    type=click.IntRange(0, 1024),
    default=DEFAULT_QUEUE_SIZE,
    show_default=True,
    help="Requests that may wait.",
)
def serve(
    *,
    model: str | None,
    host: str,
    port: int,
    rest_port: int,
    model_name: str,
    model_version: int,
    threads: int,
    queue_size: int,
) -> None:
    """Serve a model as TensorFlow Serving does; by default to this machine alone.

    SIGTERM stops it cleanly with status 0, Ctrl-C with 130.
    """
    status = EXIT_OK
    server = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Before gRPC is imported. What it would log, such as of a port that is taken, is told in one line here.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        loader = find_loader(str(default_model()) if model is None else model, threads)
        # Only now: the server imports TensorFlow's message types, which TensorFlow itself has to bring first.
        from local.serving.server import ModelServer

        _keep_freed_memory()
        server = ModelServer(
            loader,
            model_name,
            model_version,
            host=host,
            port=port,
            rest_port=rest_port,
            queue_size=queue_size,
            workers=threads + 1,  # one more than can compute, so that its request is decoded meanwhile
        )
        while not server.wait_until_available(_POLL_SECONDS):
            pass
        if find_profile(model) is None:
            click.echo(
                f"reelscan: there is no model profile ({FILE_NAME}) beside {model}, so clients assume the labels and "
                "class numbers of the TensorFlow Object Detection API unless --model-profile names another",
                err=True,
            )
        _serve_until_signal(server, f"serving {model_name} version {model_version}")
    except _TerminatedError:
        pass
    except KeyboardInterrupt:
        status = _INTERRUPTED
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        if server is not None and not server.stop():
            os._exit(status)  # the model still computes after the grace, and would be waited for without end
        for number, handler in handlers.items():
            signal.signal(number, handler)
    sys.exit(status)


def _keep_freed_memory() -> None:
    """Has glibc reuse the memory of requests; by default it returns 10 MB blocks and takes them page by page.

    Serving uint8 batches of 8x640x640 it makes up to half as many requests again. As MALLOC_MMAP_THRESHOLD_,
    MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ do; other C libraries have no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _MALLOC_PARAMETERS:
            mallopt(parameter, value)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _TerminatedError


def _serve_until_signal(server: ModelServer, what: str) -> NoReturn:
    click.echo(f"{what} ({server.description}) on grpc {server.address}, rest {server.rest_address}")
    while True:  # not signal.pause(): a signal just before it would be slept over
        time.sleep(_POLL_SECONDS)

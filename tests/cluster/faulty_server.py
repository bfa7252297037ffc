"""A model server with faults: the source of this file runs in the container beside detect, by `python -c`.

The model reads the number painted into each picture, and so costs nothing; variables of the environment say what is
wrong with it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc

from local.serving.backends import Arrays
from local.serving.backends.coded import CodedBackend, read_frame_number
from local.serving.backends.detections import INPUT
from local.serving.server import ModelServer
from local.serving.status import ServingError


class FaultyBackend(CodedBackend):
    """Reads frame numbers.

    `DELAY_SECONDS` is what each request takes. `BROKEN` and `REFUSED` are `FIRST-LAST`, frames on which it fails as if
    that could pass by, and as if it could not. `MEMORY_HOG` is a file: the third request takes memory without end,
    unless the file is there.
    """

    def __init__(self) -> None:
        self._delay_seconds = float(os.environ.get("DELAY_SECONDS", "0"))
        self._broken = frames_of("BROKEN")
        self._refused = frames_of("REFUSED")
        self._memory_hog = os.environ.get("MEMORY_HOG")
        self._requests = 0

    def predict(self, inputs: Arrays) -> Arrays:
        self._requests += 1
        time.sleep(self._delay_seconds)
        if self._memory_hog and self._requests == 3 and not Path(self._memory_hog).exists():
            Path(self._memory_hog).touch()
            hoard: list[Any] = []
            while True:
                hoard.append(b"x" * (1 << 24))
        numbers = {read_frame_number(frame) for frame in inputs[INPUT]}
        if numbers & self._refused:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "this picture is refused")
        if numbers & self._broken:
            raise ServingError(grpc.StatusCode.INTERNAL, "this picture breaks the model")
        return super().predict(inputs)


def frames_of(name: str) -> set[int | None]:
    """The frames that a variable names."""
    first, _, last = os.environ.get(name, "").partition("-")
    return set(range(int(first), int(last) + 1)) if last else set()


def main() -> None:
    """Serve until SIGTERM. With `NEVER_READY` it does not even listen."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    server = None if os.environ.get("NEVER_READY") else ModelServer(FaultyBackend(), "coded", host="0.0.0.0", port=8500)
    while not stopped:
        time.sleep(0.2)
    if server is not None:
        server.stop(0)
    # A request that is being delayed would be waited for.
    os._exit(0)


if __name__ == "__main__":
    main()

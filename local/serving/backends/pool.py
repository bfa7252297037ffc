"""Threads that each hold an engine of their own, for engines that must not be shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy.typing as npt

EngineT = TypeVar("EngineT")
ResultT = TypeVar("ResultT")


class FramePool(Generic[EngineT]):
    """Works through the frames of batches, one frame per engine at a time.

    Args:
        engines: As many frames are worked on at once.
    """

    def __init__(self, engines: Sequence[EngineT]) -> None:
        self._idle: SimpleQueue[EngineT] = SimpleQueue()
        for engine in engines:
            self._idle.put(engine)
        self._threads = ThreadPoolExecutor(len(engines), thread_name_prefix="frame")

    def map(self, work: Callable[[EngineT, npt.NDArray[Any]], ResultT], frames: npt.NDArray[Any]) -> list[ResultT]:
        """The results of `work(engine, frame)` in the order of the frames. Several threads may call it."""

        def one(frame: npt.NDArray[Any]) -> ResultT:
            engine = self._idle.get()
            try:
                return work(engine, frame)
            finally:
                self._idle.put(engine)

        return list(self._threads.map(one, frames))

    def close(self) -> None:
        """Ends the threads once they have finished their frames."""
        self._threads.shutdown()

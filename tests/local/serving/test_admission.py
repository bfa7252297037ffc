"""Who computes, who waits, who is sent away."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest

from local.serving.admission import Admission, Caller
from local.serving.status import ServingError

DEADLINE_SECONDS = 60


class Held:
    """Requests that take turns in threads and hold them until released."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[str] = []
        self.release = threading.Event()
        self.threads = ThreadPoolExecutor(16)

    def start(self, name: str, caller: Caller | None = None) -> Future[None]:
        """Sends a request; returns once it runs, waits or has been refused."""
        before = self.admission.waiting
        future = self.threads.submit(self._take, name, caller or Caller())
        until(lambda: name in self.order or self.admission.waiting > before or future.done())
        return future

    def _take(self, name: str, caller: Caller) -> None:
        with self.admission.turn(caller):
            self.order.append(name)
            assert self.release.wait(DEADLINE_SECONDS)


def until(condition) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def held():
    """One runs, two wait."""
    held = Held(Admission(workers=1, queue_size=2))
    yield held
    held.release.set()
    held.threads.shutdown()


def status_of(future: Future[None]) -> grpc.StatusCode:
    error = future.exception(DEADLINE_SECONDS)
    assert isinstance(error, ServingError)
    return error.code


def test_requests_run_in_the_order_in_which_they_came(held: Held) -> None:
    futures = [held.start(name) for name in ("first", "second", "third")]
    assert (held.order, held.admission.waiting) == (["first"], 2)
    held.release.set()
    for future in futures:
        future.result(DEADLINE_SECONDS)
    assert held.order == ["first", "second", "third"]
    assert held.admission.waiting == 0


def test_one_more_than_the_queue_holds_is_unavailable_at_once(held: Held) -> None:
    for name in ("runs", "waits", "waits too"):
        held.start(name)
    refused = held.start("refused")
    assert status_of(refused) is grpc.StatusCode.UNAVAILABLE
    assert "full" in str(refused.exception())
    assert held.admission.waiting == 2


def test_a_queue_of_nothing_refuses_whatever_cannot_run_now() -> None:
    admission = Admission(workers=1, queue_size=0)
    with admission.turn(Caller()), pytest.raises(ServingError, match="full"), admission.turn(Caller()):
        pytest.fail("the second must not run")
    with admission.turn(Caller()):
        assert admission.waiting == 0


def test_a_caller_that_goes_leaves_its_place_and_never_runs(held: Held) -> None:
    gone = Caller()
    held.start("runs")
    waits = held.start("goes", gone)
    held.admission.leave(gone)
    assert status_of(waits) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert held.admission.waiting == 0
    after = held.start("after")
    held.release.set()
    after.result(DEADLINE_SECONDS)
    assert held.order == ["runs", "after"]


def test_a_caller_that_went_before_its_turn_never_runs_on_a_free_worker() -> None:
    admission, gone = Admission(workers=1, queue_size=1), Caller()
    admission.leave(gone)
    with pytest.raises(ServingError), admission.turn(gone):
        pytest.fail("must not run")
    with admission.turn(Caller()):
        pass


def test_a_caller_waits_no_longer_than_its_timeout(held: Held) -> None:
    held.start("runs")
    assert status_of(held.start("times out", Caller(timeout_seconds=0.02))) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert held.order == ["runs"]


def test_a_worker_is_free_again_after_a_failure() -> None:
    admission = Admission(workers=1, queue_size=0)
    with pytest.raises(RuntimeError), admission.turn(Caller()):
        raise RuntimeError
    with admission.turn(Caller()):
        pass

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from steps.errors import StoppedError, StorageError, TimeLimitError
from steps.lease import LEASE_KEY, Lease
from steps.settings import Settings
from steps.store import FolderStore, Store, open_store
from tests.conftest import Aws
from tests.faults import FaultProxy

MakeLease = Callable[[Store, float], Lease]

LONG_SECONDS = 600.0
DEADLINE_SECONDS = 30.0


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "run")
    aws: Aws = request.getfixturevalue("aws")
    return open_store(f"s3://{aws.bucket}/run", Settings())


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "run")


@pytest.fixture
def make_lease() -> Iterator[MakeLease]:
    """Makes leases that are released at the test's end."""
    made: list[Lease] = []

    def make(store: Store, seconds: float) -> Lease:
        made.append(Lease(store, seconds))
        return made[-1]

    yield make
    for lease in made:
        lease.release()


def content(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.get(LEASE_KEY).data)
    return found


def write_lease(store: Store, **fields: Any) -> None:
    """A lease of somebody on another machine."""
    holder = {"owner": "other", "machine": "elsewhere", "pid": 1, "seconds": LONG_SECONDS, "released": False}
    store.put(LEASE_KEY, json.dumps({**holder, **fields}).encode())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


class TestAcquiring:
    def test_the_first_one_holds_it(self, make_lease: MakeLease, store: Store) -> None:
        lease = make_lease(store, LONG_SECONDS)

        assert lease.acquire(0)
        assert not lease.lost
        lease.check()
        lease.release()

    def test_another_one_waits_until_it_is_released(self, make_lease: MakeLease, store: Store) -> None:
        first, second = make_lease(store, LONG_SECONDS), make_lease(store, LONG_SECONDS)
        assert first.acquire(0)

        def release() -> bool:
            first.release()
            return False

        assert second.acquire(DEADLINE_SECONDS, until=release)
        second.release()

    def test_of_many_at_once_one_holds_it_at_a_time(self, make_lease: MakeLease, store: Store) -> None:
        holders, most, guard = 0, 0, threading.Lock()
        gate = threading.Barrier(4)

        def compute(_: int) -> None:
            nonlocal holders, most
            gate.wait()
            with make_lease(store, LONG_SECONDS):
                with guard:
                    holders += 1
                    most = max(most, holders)
                with guard:
                    holders -= 1

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(compute, range(4)))

        assert most == 1

    def test_waiting_ends_when_the_work_is_done(self, make_lease: MakeLease, folder: FolderStore) -> None:
        write_lease(folder)
        done = iter([False, True])
        lease = make_lease(folder, 0.4)
        folder.put(LEASE_KEY, json.dumps({"machine": "elsewhere", "pid": 1, "seconds": 2.0}).encode())

        assert not lease.acquire(DEADLINE_SECONDS, until=lambda: next(done))
        assert lease.lost
        lease.release()
        assert content(folder)["machine"] == "elsewhere"

    def test_waiting_can_be_stopped(self, make_lease: MakeLease, folder: FolderStore) -> None:
        write_lease(folder)

        with pytest.raises(StoppedError, match=LEASE_KEY):
            make_lease(folder, LONG_SECONDS).acquire(DEADLINE_SECONDS, cancelled=lambda: True)

    def test_waiting_has_an_end_and_names_the_holder(self, make_lease: MakeLease, folder: FolderStore) -> None:
        write_lease(folder, pid=4711)

        with pytest.raises(TimeLimitError, match="process 4711 on elsewhere has computed this run for 0 s"):
            make_lease(folder, LONG_SECONDS).acquire(0)

    def test_with_releases_it_also_after_an_error(self, make_lease: MakeLease, store: Store) -> None:
        with pytest.raises(ZeroDivisionError), make_lease(store, LONG_SECONDS):
            raise ZeroDivisionError

        assert make_lease(store, LONG_SECONDS).acquire(0)


class TestTakingOver:
    def test_a_lease_that_is_not_renewed_is_taken_over_after_its_own_time(
        self, make_lease: MakeLease, store: Store
    ) -> None:
        write_lease(store, seconds=1.0)
        started = time.monotonic()
        lease = make_lease(store, LONG_SECONDS)

        assert lease.acquire(DEADLINE_SECONDS)
        assert time.monotonic() - started >= 1.0
        assert content(store)["pid"] == os.getpid()
        lease.release()

    def test_a_lease_that_is_renewed_is_not_taken_over(self, make_lease: MakeLease, folder: FolderStore) -> None:
        writes = 0
        write_lease(folder, seconds=1.0)

        def other_renews() -> bool:
            nonlocal writes
            writes += 1
            write_lease(folder, seconds=1.0, renewals=writes)
            return writes == 12

        # The other one writes before each look, for three times as long as its lease lasts.
        assert not make_lease(folder, LONG_SECONDS).acquire(DEADLINE_SECONDS, until=other_renews)
        assert content(folder)["machine"] == "elsewhere"

    @pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
    def test_the_clocks_of_machines_do_not_matter(
        self, make_lease: MakeLease, folder: FolderStore, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        clock = time.time
        monkeypatch.setattr(time, "time", lambda: clock() + seconds)
        write_lease(folder, seconds=LONG_SECONDS)
        os.utime(folder.folder / LEASE_KEY, (0, 0))

        with pytest.raises(TimeLimitError):
            make_lease(folder, LONG_SECONDS).acquire(0.5)

    @pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{}", b'{"seconds": -1}', b'{"seconds": "x"}'])
    def test_a_lease_that_cannot_be_read_lasts_as_long_as_the_reader_s_own(
        self, make_lease: MakeLease, folder: FolderStore, data: bytes
    ) -> None:
        folder.put(LEASE_KEY, data)
        started = time.monotonic()

        assert make_lease(folder, 0.5).acquire(DEADLINE_SECONDS)
        assert time.monotonic() - started >= 0.5

    def test_a_holder_that_died_on_this_machine_is_not_waited_for(
        self, make_lease: MakeLease, folder: FolderStore
    ) -> None:
        die = (
            "import os, sys, pathlib\n"
            "from steps.lease import Lease\n"
            "from steps.store import FolderStore\n"
            f"Lease(FolderStore(pathlib.Path(sys.argv[1])), {LONG_SECONDS}).acquire(0)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        assert subprocess.run([sys.executable, "-c", die, str(folder.folder)], check=False).returncode == -9
        assert content(folder)["pid"] != os.getpid()

        assert make_lease(folder, LONG_SECONDS).acquire(0)

    @pytest.mark.parametrize("pid", [0, -1, 10**30, "1", None, True])
    def test_a_holder_whose_process_id_makes_no_sense_is_waited_for(
        self, make_lease: MakeLease, folder: FolderStore, pid: Any
    ) -> None:
        with make_lease(folder, LONG_SECONDS):
            machine = content(folder)["machine"]
        write_lease(folder, machine=machine, pid=pid)

        with pytest.raises(TimeLimitError):
            make_lease(folder, LONG_SECONDS).acquire(0)

    def test_a_living_holder_on_this_machine_is_waited_for(self, make_lease: MakeLease, folder: FolderStore) -> None:
        with make_lease(folder, LONG_SECONDS), pytest.raises(TimeLimitError):
            make_lease(folder, LONG_SECONDS).acquire(0)


class TestHolding:
    def test_it_is_renewed_while_it_is_held_and_not_after(
        self, make_lease: MakeLease, aws: Aws, faults: FaultProxy
    ) -> None:
        store = open_store(f"s3://{aws.bucket}/run", Settings())
        lease = make_lease(store, 3)
        assert lease.acquire(0)
        first = content(store)["renewals"]
        wait_for(lambda: content(store)["renewals"] >= first + 4)
        assert not lease.lost
        lease.release()

        assert content(store)["released"]
        assert [thread for thread in threading.enumerate() if thread.name == "lease"] == []

    def test_one_whose_lease_was_taken_over_notices(self, make_lease: MakeLease, store: Store) -> None:
        lease = make_lease(store, 3)
        assert lease.acquire(0)
        write_lease(store)
        wait_for(lambda: lease.lost)

        with pytest.raises(StorageError, match="the lease was lost"):
            lease.check()
        lease.release()
        assert content(store)["machine"] == "elsewhere"

    def test_one_who_cannot_renew_notices_before_others_may_take_over(
        self, make_lease: MakeLease, aws: Aws, faults: FaultProxy
    ) -> None:
        store = open_store(f"s3://{aws.bucket}/run", Settings(storage_timeout_seconds=1))
        lease = make_lease(store, 1.5)
        assert lease.acquire(0)
        faults.inject("hang", "PUT", times=1000)
        faults.inject("hang", "GET", times=1000)
        wait_for(lambda: lease.lost)

        with pytest.raises(StorageError, match="could not be renewed"):
            lease.check()
        lease.release()

    @pytest.mark.parametrize("kind", ["throttle", "lose_request", "lose_answer"])
    def test_a_passing_fault_does_not_lose_it(
        self, make_lease: MakeLease, aws: Aws, faults: FaultProxy, kind: str
    ) -> None:
        store = open_store(f"s3://{aws.bucket}/run", Settings(storage_timeout_seconds=3))
        faults.inject(kind, "PUT", times=1)  # type: ignore[arg-type]
        lease = make_lease(store, 6)
        assert lease.acquire(0)
        first = content(store)["renewals"]
        faults.inject(kind, "PUT", times=1)  # type: ignore[arg-type]
        wait_for(lambda: lease.lost or content(store)["renewals"] > first)

        assert not lease.lost
        lease.release()
        assert content(store)["released"]

    def test_a_store_that_fails_at_the_release_does_not_matter(
        self, make_lease: MakeLease, aws: Aws, faults: FaultProxy
    ) -> None:
        lease = make_lease(open_store(f"s3://{aws.bucket}/run", Settings(storage_timeout_seconds=1)), LONG_SECONDS)
        assert lease.acquire(0)
        faults.inject("throttle", times=1000)

        lease.release()

    def test_nothing_of_a_message_is_in_it(self, make_lease: MakeLease, folder: FolderStore) -> None:
        with make_lease(folder, LONG_SECONDS):
            assert set(content(folder)) == {"owner", "machine", "pid", "seconds", "renewals", "released"}


def test_those_who_name_the_same_owner_share_it(store: Store) -> None:
    first, second, stranger = (Lease(store, LONG_SECONDS, owner) for owner in ("workflow-1", "workflow-1", "other"))
    try:
        assert first.acquire(DEADLINE_SECONDS)
        assert second.acquire(DEADLINE_SECONDS)
        with pytest.raises(TimeLimitError, match="workflow-1"):
            stranger.acquire(0.1)
    finally:
        for lease in (first, second, stranger):
            lease.release()


def test_one_who_leaves_a_shared_lease_lets_nobody_else_in(store: Store) -> None:
    first, stranger = Lease(store, LONG_SECONDS, "workflow-1"), Lease(store, LONG_SECONDS, "other")
    first.acquire(DEADLINE_SECONDS)
    first.leave()
    with pytest.raises(TimeLimitError):
        stranger.acquire(0.1)

    last = Lease(store, LONG_SECONDS, "workflow-1")
    last.acquire(DEADLINE_SECONDS)
    last.release()
    assert stranger.acquire(DEADLINE_SECONDS)
    stranger.release()


def test_a_shared_lease_is_renewed_by_each_and_lost_by_none(folder: FolderStore) -> None:
    seconds = 0.6
    sharing = [Lease(folder, seconds, "workflow-1") for _ in range(3)]
    for lease in sharing:
        lease.acquire(DEADLINE_SECONDS)
    try:
        renewed = threading.Event()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while content(folder)["renewals"] < 8 and time.monotonic() < deadline:
            renewed.wait(0.05)
        assert content(folder)["renewals"] >= 8
        for lease in sharing:
            lease.check()
    finally:
        for lease in sharing:
            lease.release()


def test_a_shared_lease_that_another_took_over_is_lost_by_all(folder: FolderStore) -> None:
    sharing = [Lease(folder, 0.3, "workflow-1") for _ in range(2)]
    for lease in sharing:
        lease.acquire(DEADLINE_SECONDS)
    folder.put(LEASE_KEY, json.dumps({"owner": "other", "seconds": LONG_SECONDS, "released": False}).encode())
    try:
        for lease in sharing:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not lease.lost and time.monotonic() < deadline:
                threading.Event().wait(0.02)
            assert lease.lost
    finally:
        for lease in sharing:
            lease.release()
    assert content(folder)["owner"] == "other"

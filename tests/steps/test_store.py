from __future__ import annotations

import errno
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from steps.errors import AccessDeniedError, NotFoundError, StorageError, UsageError
from steps.settings import Settings
from steps.store import FolderStore, S3Store, Store, open_store
from steps.store import folder as folder_module
from steps.store.s3 import PART_BYTES
from tests.conftest import Aws
from tests.faults import FaultProxy

SHORT = Settings(storage_timeout_seconds=3)
LARGE = os.urandom(PART_BYTES + PART_BYTES // 2)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "results"), Settings())
    aws: Aws = request.getfixturevalue("aws")
    return open_store(f"s3://{aws.bucket}/some/prefix", Settings())


@pytest.fixture
def s3_store(aws: Aws, faults: FaultProxy) -> Store:
    return open_store(f"s3://{aws.bucket}/run", SHORT)


def write(store: Store, key: str, *parts: bytes) -> None:
    with store.open_writer(key) as file:
        for part in parts:
            file.write(part)


def read(store: Store, key: str) -> bytes:
    with store.open_reader(key) as file:
        return file.read()


class TestBothKinds:
    def test_what_is_put_can_be_read_whole_in_ranges_and_forward(self, store: Store) -> None:
        store.put("a/b.txt", b"0123456789")

        assert store.get("a/b.txt").data == b"0123456789"
        assert store.get_range("a/b.txt", 3, 4) == b"3456"
        with store.open_reader("a/b.txt") as file:
            assert [file.read(4), file.read(4), file.read(4), file.read(4)] == [b"0123", b"4567", b"89", b""]

    def test_put_replaces_what_was_there(self, store: Store) -> None:
        store.put("key", b"one")
        store.put("key", b"two")

        assert store.get("key").data == b"two"

    def test_create_writes_only_the_first_time(self, store: Store) -> None:
        assert store.create("key", b"one") == store.get("key").etag
        assert store.create("key", b"two") is None
        assert store.get("key").data == b"one"

    def test_create_of_the_same_bytes_again_counts_as_written(self, store: Store) -> None:
        tag = store.create("key", b"mine")

        assert store.create("key", b"mine") == tag

    def test_replace_writes_only_over_the_version_that_was_seen(self, store: Store) -> None:
        first = store.put("key", b"one")
        second = store.replace("key", b"two", first)

        assert second == store.get("key").etag
        assert store.replace("key", b"three", first) is None
        assert store.get("key").data == b"two"

    def test_replace_of_what_is_gone_writes_nothing(self, store: Store) -> None:
        tag = store.put("key", b"one")
        store.delete("key")

        assert store.replace("key", b"two", tag) is None
        assert not store.exists("key")

    def test_of_many_who_create_at_once_one_wins(self, store: Store) -> None:
        gate = threading.Barrier(8)

        def create(number: int) -> bool:
            gate.wait()
            return store.create("key", b"%d" % number) is not None

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))

        assert won.count(True) == 1
        assert store.get("key").data == b"%d" % won.index(True)

    def test_of_many_who_replace_at_once_one_wins(self, store: Store) -> None:
        tag = store.put("key", b"start")
        gate = threading.Barrier(8)

        def replace(number: int) -> bool:
            gate.wait()
            return store.replace("key", b"%d" % number, tag) is not None

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(replace, range(8)))

        assert won.count(True) == 1
        assert store.get("key").data == b"%d" % won.index(True)

    @pytest.mark.parametrize(
        "access",
        [
            lambda store: store.get("absent"),
            lambda store: store.get_range("absent", 0, 1),
            lambda store: store.written_at("absent"),
            lambda store: read(store, "absent"),
        ],
        ids=["get", "get_range", "written_at", "open_reader"],
    )
    def test_what_is_absent_is_not_found_by_name(self, store: Store, access: Callable[[Store], object]) -> None:
        with pytest.raises(NotFoundError, match="absent"):
            access(store)

    def test_delete_removes_and_does_not_mind_absence(self, store: Store) -> None:
        store.put("key", b"")
        store.delete("key")
        store.delete("key")

        assert not store.exists("key")

    def test_list_gives_exactly_the_keys_that_start_with_the_prefix(self, store: Store) -> None:
        keys = {"a", "ab", "ab.1", "ab.2/c", "abd/d", "ac", "b/a", "Z"}
        for key in keys:
            store.put(key, b"")

        for prefix in ("", "a", "ab", "ab.", "abd/", "ab.2/", "b/", "x", "x/y"):
            assert set(store.list(prefix)) == {key for key in keys if key.startswith(prefix)}, prefix

    def test_list_of_more_than_a_page_is_complete(self, store: Store) -> None:
        keys = {f"part.{number:04}" for number in range(1100)}
        for key in keys:
            store.put(key, b"")
        store.put("part", b"")
        store.put("party", b"")

        assert set(store.list("part.")) == keys

    def test_below_is_a_store_of_its_own_inside(self, store: Store) -> None:
        inner = store.below("deep/er")
        inner.put("key", b"x")

        assert store.get("deep/er/key").data == b"x"
        assert list(inner.list("")) == ["key"]
        assert inner.url == store.url + "deep/er/"

    def test_written_at_is_the_moment_of_the_last_write(self, store: Store) -> None:
        before = datetime.now(UTC)
        store.put("key", b"x")

        assert before - timedelta(seconds=2) <= store.written_at("key") <= datetime.now(UTC) + timedelta(seconds=2)

    @pytest.mark.parametrize("size", [0, 10, len(LARGE)])
    def test_a_writer_s_object_appears_whole_when_its_block_ends(self, store: Store, size: int) -> None:
        with store.open_writer("key") as file:
            file.write(LARGE[: size // 2])
            file.write(memoryview(LARGE)[size // 2 : size])
            assert not store.exists("key")
            assert list(store.list("")) == []

        assert read(store, "key") == LARGE[:size]

    @pytest.mark.parametrize("size", [10, len(LARGE)])
    def test_a_writer_s_object_does_not_appear_after_an_error(self, store: Store, size: int) -> None:
        store.put("key", b"as before")

        def fail_after(data: bytes) -> None:
            with store.open_writer("key") as file:
                file.write(data)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_after(LARGE[:size])
        gc.collect()

        assert store.get("key").data == b"as before"
        assert list(store.list("")) == ["key"]

    def test_an_error_of_the_block_itself_is_not_taken_for_the_store_s(self, store: Store) -> None:
        with pytest.raises(BrokenPipeError), store.open_writer("key"):
            raise BrokenPipeError

    def test_several_objects_can_be_written_at_once(self, store: Store) -> None:
        with store.open_writer("one") as one, store.open_writer("two") as two:
            for _ in range(3):
                one.write(b"1")
                two.write(b"2")

        assert (read(store, "one"), read(store, "two")) == (b"111", b"222")

    @pytest.mark.parametrize("key", ["a b+c%20&?#.txt", "ümlaut/日本.txt", "{{x}}", "quote'\"", "x" * 200])
    def test_any_key_is_written_as_it_is(self, store: Store, key: str) -> None:
        store.put(key, b"x")

        assert store.get(key).data == b"x"
        assert list(store.list("")) == [key]


class TestFolder:
    @pytest.mark.parametrize("key", ["../out", "a/../../out", "/etc/passwd", ".."])
    def test_a_key_never_leads_out_of_the_folder(self, tmp_path: Path, key: str) -> None:
        with pytest.raises(ValueError, match="leads out"):
            FolderStore(tmp_path).put(key, b"x")

    def test_a_folder_without_permission_is_access_denied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path, *_: object, **__: object) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(AccessDeniedError, match=r"key: Permission denied; change its permissions"):
            FolderStore(tmp_path).get("key")

    def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(AccessDeniedError, match="Permission denied"):
            list(FolderStore(tmp_path).list("a"))

    def test_who_wins_does_not_depend_on_how_deep_a_store_begins(self, tmp_path: Path) -> None:
        top, below = FolderStore(tmp_path), FolderStore(tmp_path).below("a/b")
        with ThreadPoolExecutor(1) as pool:
            with top._locked(tmp_path / "a/b"):
                creation = pool.submit(below.create, "key", b"x")
                assert not wait([creation], timeout=0.3).done
            assert creation.result() is not None

    def test_a_full_disk_is_a_storage_error_and_leaves_nothing(self, tmp_path: Path) -> None:
        # Every write to this device fails as on a full disk.
        store = FolderStore(tmp_path)

        def write_to_full_disk() -> None:
            with Path("/dev/full").open("wb", buffering=0) as full, store.open_writer("key") as file:
                file._write = full.write  # type: ignore[attr-defined]
                file.write(b"x")

        with pytest.raises(StorageError, match="No space left on device"):
            write_to_full_disk()

        assert list(tmp_path.iterdir()) == []

    def test_a_process_that_is_killed_while_it_writes_leaves_nothing(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path / "results")
        store.put("old", b"as before")
        script = (
            "import os, pathlib, signal; from steps.store import FolderStore\n"
            f"store = FolderStore(pathlib.Path({str(store.folder)!r}))\n"
            "with store.open_writer('new') as new, store.open_writer('old') as old:\n"
            "    new.write(b'x' * 100000); old.write(b'x' * 100000)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL

        assert [path.name for path in store.folder.iterdir()] == ["old"]
        assert store.get("old").data == b"as before"

    @pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR])
    def test_a_file_system_without_nameless_files_does_as_well(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        opened = os.open

        def refuse_nameless(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(code, os.strerror(code))
            return opened(path, flags, *arguments, **named)

        monkeypatch.setattr(os, "open", refuse_nameless)
        store = FolderStore(tmp_path)
        for data in (b"one", b"two"):
            with store.open_writer("key") as file:
                file.write(data)
                assert len([path for path in tmp_path.iterdir() if path.name.startswith(".key.")]) == 1
            assert [path.name for path in tmp_path.iterdir()] == ["key"]
            assert store.get("key").data == data
        with pytest.raises(ZeroDivisionError), store.open_writer("key"):
            raise ZeroDivisionError
        assert [path.name for path in tmp_path.iterdir()] == ["key"]

    def test_what_is_written_can_be_read_by_others(self, tmp_path: Path) -> None:
        FolderStore(tmp_path).put("key", b"x")
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o644

    def test_a_lock_that_another_holds_for_ever_ends_in_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folder_module, "LOCK_TIMEOUT_SECONDS", 0.0)
        store = FolderStore(tmp_path)
        with store._locked(tmp_path), pytest.raises(StorageError, match="another process had its lock"):
            store.create("key", b"x")


class TestS3:
    def test_throttling_is_waited_out(self, s3_store: Store, faults: FaultProxy) -> None:
        faults.inject("throttle", times=2)
        s3_store.put("key", b"x")
        faults.inject("throttle", times=2)

        assert s3_store.get("key").data == b"x"
        assert faults.count("PUT") == 3
        assert faults.count("GET") == 3

    def test_conditional_writes_are_throttled_and_go_on(self, s3_store: Store, faults: FaultProxy) -> None:
        faults.inject("throttle", "PUT", times=2)
        tag = s3_store.create("key", b"x")
        faults.inject("throttle", "PUT", times=2)

        assert tag is not None
        assert s3_store.replace("key", b"y", tag) is not None

    def test_a_server_that_stays_overloaded_is_a_storage_error(self, s3_store: Store, faults: FaultProxy) -> None:
        faults.inject("throttle", times=1000)

        for access in (lambda: s3_store.get("key"), lambda: s3_store.create("key", b"x")):
            with pytest.raises(StorageError, match="SlowDown"):
                access()

    def test_a_server_that_hangs_is_a_storage_error(self, s3_store: Store, faults: FaultProxy) -> None:
        faults.inject("hang", times=1000)

        for access in (lambda: s3_store.get("key"), lambda: s3_store.create("key", b"x")):
            with pytest.raises(StorageError, match=r"s3://.*/run/key"):
                access()

    def test_a_refusal_is_access_denied(self, s3_store: Store, faults: FaultProxy) -> None:
        faults.inject("deny", times=1000)

        for access in (lambda: s3_store.get("key"), lambda: s3_store.create("key", b"x")):
            with pytest.raises(AccessDeniedError, match=r"run/key: access is denied"):
                access()

    @pytest.mark.parametrize("kind", ["lose_request", "lose_answer"])
    def test_a_lost_connection_does_not_change_who_created(
        self, s3_store: Store, faults: FaultProxy, kind: str
    ) -> None:
        faults.inject(kind, "PUT")  # type: ignore[arg-type]

        assert s3_store.create("key", b"mine") == s3_store.get("key").etag
        assert s3_store.create("key", b"other's") is None
        assert s3_store.get("key").data == b"mine"

    @pytest.mark.parametrize("kind", ["lose_request", "lose_answer"])
    def test_a_lost_connection_does_not_change_who_replaced(
        self, s3_store: Store, faults: FaultProxy, kind: str
    ) -> None:
        first = s3_store.put("key", b"one")
        faults.inject(kind, "PUT")  # type: ignore[arg-type]

        assert s3_store.replace("key", b"mine", first) == s3_store.get("key").etag
        assert s3_store.replace("key", b"other's", first) is None

    def test_one_whose_request_was_lost_sees_that_another_created(
        self, s3_store: Store, aws: Aws, faults: FaultProxy
    ) -> None:
        aws.s3.put_object(Bucket=aws.bucket, Key="run/key", Body=b"other's")
        faults.inject("lose_request", "PUT")

        assert s3_store.create("key", b"mine") is None

    def test_a_bucket_that_does_not_exist_is_not_taken_for_another_s_object(self, aws: Aws) -> None:
        store = open_store("s3://no-such-bucket-anywhere/run", SHORT)

        with pytest.raises(NotFoundError, match="no-such-bucket-anywhere"):
            store.create("key", b"x")

    @pytest.mark.parametrize(
        "access",
        [
            lambda store: store.get("key").data,
            lambda store: store.get_range("key", 0, len(LARGE)),
            lambda store: read(store, "key"),
        ],
        ids=["get", "get_range", "open_reader"],
    )
    @pytest.mark.parametrize("kind", ["cut_answer", "lose_answer"])
    def test_a_reset_in_mid_read_is_mended(
        self, s3_store: Store, faults: FaultProxy, access: Callable[[Store], bytes], kind: str
    ) -> None:
        s3_store.put("key", LARGE)
        faults.inject(kind, "GET")  # type: ignore[arg-type]

        assert access(s3_store) == LARGE

    def test_a_reader_whose_connection_always_breaks_ends_in_a_storage_error(
        self, s3_store: Store, faults: FaultProxy
    ) -> None:
        s3_store.put("key", LARGE)
        faults.inject("lose_answer", "GET", times=1000)

        with pytest.raises(StorageError, match="run/key"):
            read(s3_store, "key")

    @pytest.mark.parametrize(
        "pattern", ["POST .*uploads", "PUT .*partNumber=1", "PUT .*partNumber=2", "POST .*uploadId="]
    )
    @pytest.mark.parametrize("kind", ["throttle", "lose_request"])
    def test_an_object_in_parts_survives_a_fault_at_any_step(
        self, s3_store: Store, faults: FaultProxy, pattern: str, kind: str
    ) -> None:
        faults.inject(kind, pattern)  # type: ignore[arg-type]
        write(s3_store, "key", LARGE)

        assert read(s3_store, "key") == LARGE

    def test_an_object_in_parts_survives_the_loss_of_the_last_answer(self, s3_store: Store, faults: FaultProxy) -> None:
        faults.inject("lose_answer", "POST .*uploadId=")
        write(s3_store, "key", LARGE)

        assert read(s3_store, "key") == LARGE

    def test_a_writer_that_cannot_write_is_a_storage_error_and_leaves_no_parts(
        self, s3_store: Store, aws: Aws, faults: FaultProxy
    ) -> None:
        faults.inject("throttle", "PUT .*partNumber", times=1000)
        with pytest.raises(StorageError, match="SlowDown"):
            write(s3_store, "key", LARGE, LARGE, LARGE)

        assert not s3_store.exists("key")
        assert "Uploads" not in aws.s3.list_multipart_uploads(Bucket=aws.bucket)

    def test_listing_one_task_among_many_asks_once(self, s3_store: Store, faults: FaultProxy) -> None:
        for number in range(120):
            s3_store.put(f"{number:03}.1.completed.json", b"")
        faults.requests.clear()

        assert list(s3_store.list("001.")) == ["001.1.completed.json"]
        assert len(faults.requests) == 1


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "gs://bucket/prefix", "http://127.0.0.1/x"])
def test_a_url_that_cannot_hold_results_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX"):
        open_store(url, Settings())


def test_a_url_decides_the_kind_of_store(tmp_path: Path, aws: Aws) -> None:
    assert isinstance(open_store(str(tmp_path), Settings()), FolderStore)
    assert isinstance(open_store(f"s3://{aws.bucket}", Settings()), S3Store)
    assert open_store(f"s3://{aws.bucket}", Settings()).url == f"s3://{aws.bucket}/"
    assert open_store(f"s3://{aws.bucket}/a/", Settings()).url == f"s3://{aws.bucket}/a/"

"""Bytes of a video come from one version of it, through faults, under limits, and in blocks that fit the reading."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.errors import (
    AccessDeniedError,
    BadInputError,
    NotAVideoError,
    NotFoundError,
    ObjectChangedError,
    ReelscanError,
    StorageError,
    TimeLimitError,
    TooLargeError,
)
from steps.plan import SourceIdentity
from steps.settings import Settings
from steps.source import FIRST_BLOCK_BYTES, KEPT_BYTES, LARGEST_BLOCK_BYTES, Source, SourceReader, open_source
from tests.conftest import Aws
from tests.faults import FaultProxy
from tests.media.library import ClipLibrary
from tests.steps.analysis import Analyst

SHORT_SECONDS = 2.0
SHORT = Settings(storage_timeout_seconds=SHORT_SECONDS)
PATIENT = Settings(storage_timeout_seconds=30)
FAR_SECONDS = 600
DATA = os.urandom(3 << 20)

PLAIN, AWKWARD = "folder/video.mp4", "folder//video.mp4"
"""The one is read by object_store, the other by botocore: object_store would ask for another object."""

KEYS = {
    "plain": PLAIN,
    "empty segment": AWKWARD,
    "leading slash": "/a",
    "trailing slash": "a/",
    "dots before": "../a",
    "dots within": "a/../b",
    "dot": "./a",
    "unicode": "Füße/🚦 été.mp4",
    "decomposed unicode": "e\u0301te\u0301.mp4",
    "quotes": 'it\'s "quoted" `so`.mp4',
    "template": "{{workflow.name}}/{{=1+1}}.mp4",
    "URL's own letters": "a b+c%2Fd%20e?f=g&h#i;j:k@l.mp4",
    "backslash": "a\\b..\\c",
    "angle brackets": "<a>|^~*[b].mp4",
    "1,024 bytes": "k" * 1020 + ".mp4",
    "1,024 bytes of several letters each": "🚦" * 256,
    "1,024 bytes with an empty segment": "a//" + "ü" * 510 + "k",
}


@pytest.fixture(params=[PLAIN, AWKWARD], ids=["object_store", "botocore"])
def key(request: pytest.FixtureRequest, aws: Aws) -> str:
    """An object with DATA, by a key that the one or the other client library reads."""
    key: str = request.param
    aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=DATA)
    return key


class CountingSource:
    """Notes every read of another source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.identity = source.identity
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self._source.read(offset, length)


class MadeSource:
    """As large as it is told to be; byte n is n modulo 251."""

    def __init__(self, size: int) -> None:
        self.identity = SourceIdentity(bucket=None, key="/made", size=size, etag="made")

    def read(self, offset: int, length: int) -> bytes:
        return made_bytes(offset, min(length, self.identity.size - offset))


class BlankSource(MadeSource):
    """All zeros, which take no more memory to make than to hold."""

    def read(self, offset: int, length: int) -> bytes:
        return bytes(min(length, self.identity.size - offset))


def made_bytes(offset: int, length: int) -> bytes:
    first = offset % 251
    return (bytes(range(251)) * (length // 251 + 2))[first : first + length]


def reader_of(source: Source, *, limit_bytes: int = 1 << 40, end: int | None = None) -> SourceReader:
    return SourceReader(source, limit_bytes=limit_bytes, deadline=time.monotonic() + FAR_SECONDS, end=end)


def read_all(reader: SourceReader, length: int = 32 << 10) -> bytes:
    return b"".join(iter(lambda: reader.read(length), b""))


class TestObjects:
    def test_any_range_is_read_and_what_lies_behind_the_end_is_empty(self, aws: Aws, key: str) -> None:
        source = open_source(aws.bucket, key, PATIENT)
        size = len(DATA)

        assert source.identity.size == size
        assert source.identity.url == f"s3://{aws.bucket}/{key}"
        assert source.read(0, size) == DATA
        for offset, length in [(0, 1), (1, 1), (1000, 70_000), (size - 1, 1), (size - 5, 100), (0, size + 1)]:
            assert source.read(offset, length) == DATA[offset : offset + length]
        for offset, length in [(size, 1), (size + 10, 100), (5, 0)]:
            assert source.read(offset, length) == b""

    @pytest.mark.parametrize("name", KEYS)
    def test_every_key_that_s3_allows_names_its_own_object(self, aws: Aws, name: str) -> None:
        key, content = KEYS[name], f"of {name}".encode()
        for other, other_key in KEYS.items():
            aws.s3.put_object(Bucket=aws.bucket, Key=other_key, Body=f"of {other}".encode())

        source = open_source(aws.bucket, key, PATIENT)

        assert source.identity.key == key
        assert source.identity.size == len(content)
        assert source.read(0, 100) == content
        assert source.read(3, 4) == content[3:7]

    @pytest.mark.parametrize("name", KEYS)
    def test_an_object_that_is_not_there_is_not_found_by_any_key(self, aws: Aws, name: str) -> None:
        with pytest.raises(NotFoundError, match="does not exist") as raised:
            open_source(aws.bucket, KEYS[name], PATIENT)

        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("key", [PLAIN, AWKWARD])
    def test_a_bucket_that_is_not_there_is_not_found(self, aws: Aws, key: str) -> None:
        with pytest.raises(NotFoundError, match="s3://no-such-bucket-of-tests/folder/"):
            open_source("no-such-bucket-of-tests", key, PATIENT)

    def test_an_object_that_was_deleted_while_it_was_read_is_not_found(self, aws: Aws, key: str) -> None:
        source = open_source(aws.bucket, key, PATIENT)
        aws.s3.delete_object(Bucket=aws.bucket, Key=key)

        with pytest.raises(BadInputError) as raised:
            source.read(0, 100)

        assert raised.value.code in ("not_found", "object_changed")

    @pytest.mark.parametrize("method", ["HEAD", "GET"])
    def test_a_denied_request_is_access_denied(self, aws: Aws, key: str, faults: FaultProxy, method: str) -> None:
        faults.inject("deny", f"^{method} ", times=100)

        with pytest.raises(AccessDeniedError, match="access is denied") as raised:
            open_source(aws.bucket, key, PATIENT).read(0, 100)

        assert (raised.value.exit_status, raised.value.code) == (3, "access_denied")
        assert faults.count(f"^{method} ") == 1, "what is denied is asked for again"

    def test_an_object_replaced_between_two_reads_is_object_changed(self, aws: Aws, key: str) -> None:
        source = open_source(aws.bucket, key, PATIENT)
        assert source.read(0, 100) == DATA[:100]
        aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=DATA[::-1])

        with pytest.raises(ObjectChangedError, match="replaced while it was read") as raised:
            source.read(100, 100)

        assert (raised.value.exit_status, raised.value.code) == (3, "object_changed")

    def test_an_object_replaced_between_plan_and_detect_is_object_changed(
        self, aws: Aws, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        aws.s3.put_object(Bucket=aws.bucket, Key=PLAIN, Body=clips.path("h264_closed_gop.mp4").read_bytes())
        source = analyst.open(PLAIN, aws.bucket)
        plan = analyst.plan(source, chunk_seconds=2.0)
        aws.s3.put_object(Bucket=aws.bucket, Key=PLAIN, Body=clips.path("h264_open_gop.mp4").read_bytes())

        for seen in (source, analyst.open(PLAIN, aws.bucket)):
            with pytest.raises(ObjectChangedError) as raised:
                analyst.detect(plan, seen)
            assert (raised.value.exit_status, raised.value.code) == (3, "object_changed")

    def test_the_same_bytes_put_again_are_the_same_version_where_the_bucket_keeps_none(
        self, aws: Aws, key: str
    ) -> None:
        source = open_source(aws.bucket, key, PATIENT)
        aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=DATA)

        assert source.read(0, 100) == DATA[:100]
        assert open_source(aws.bucket, key, PATIENT).identity == source.identity

    @pytest.mark.parametrize("kind", ["throttle", "lose_request", "lose_answer", "cut_answer"])
    def test_a_read_survives_what_goes_wrong_thrice(self, aws: Aws, key: str, faults: FaultProxy, kind: str) -> None:
        source = open_source(aws.bucket, key, PATIENT)
        faults.inject(kind, "^GET ", times=3)  # type: ignore[arg-type]

        assert source.read(1000, 2 << 20) == DATA[1000 : 1000 + (2 << 20)]
        assert faults.count("^GET ") >= 4

    @pytest.mark.parametrize("kind", ["throttle", "lose_request"])
    def test_opening_survives_what_goes_wrong_thrice(self, aws: Aws, key: str, faults: FaultProxy, kind: str) -> None:
        faults.inject(kind, "^HEAD ", times=3)  # type: ignore[arg-type]

        assert open_source(aws.bucket, key, PATIENT).identity.size == len(DATA)
        assert faults.count("^HEAD ") == 4

    def test_an_answer_cut_off_is_not_completed_with_the_bytes_of_a_later_version(
        self, aws: Aws, key: str, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = open_source(aws.bucket, key, PATIENT)
        choose_fault = faults.next_fault

        def replace_before_the_second(line: str) -> str | None:
            if faults.count("^GET ") == 1:
                aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=DATA[::-1])
            return choose_fault(line)

        monkeypatch.setattr(faults, "next_fault", replace_before_the_second)
        faults.inject("cut_answer", "^GET ")

        with pytest.raises(ObjectChangedError):
            source.read(0, 1 << 20)
        assert faults.count("^GET ") >= 2

    @pytest.mark.parametrize("method", ["HEAD", "GET"])
    @pytest.mark.parametrize("kind", ["hang", "throttle", "lose_request"])
    def test_what_goes_wrong_for_ever_ends_as_a_storage_error_in_time(
        self, aws: Aws, key: str, faults: FaultProxy, kind: str, method: str
    ) -> None:
        faults.inject(kind, f"^{method} ", times=10_000)  # type: ignore[arg-type]
        began = time.monotonic()

        with pytest.raises(StorageError, match=f"^s3://{aws.bucket}/{key}: ") as raised:
            open_source(aws.bucket, key, SHORT).read(0, 100)

        assert raised.value.exit_status == 4
        assert "\n" not in str(raised.value)
        # The last attempt may have begun just before the time was up.
        assert time.monotonic() - began < 2 * SHORT_SECONDS + 4

    @pytest.mark.parametrize("key", [PLAIN, AWKWARD])
    def test_an_address_where_nobody_listens_is_a_storage_error(
        self, aws: Aws, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

        with pytest.raises(StorageError, match=f"^s3://{aws.bucket}/folder/"):
            open_source(aws.bucket, key, SHORT)

    @pytest.mark.parametrize("key", [PLAIN, AWKWARD])
    def test_an_object_without_bytes_is_no_video(self, aws: Aws, key: str) -> None:
        aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=b"")

        with pytest.raises(NotAVideoError, match="0 bytes"):
            open_source(aws.bucket, key, PATIENT)

    def test_an_object_over_the_limit_is_too_large_before_a_byte_is_read(
        self, aws: Aws, key: str, faults: FaultProxy
    ) -> None:
        limit = PATIENT.model_copy(update={"max_object_bytes": len(DATA) - 1})

        with pytest.raises(TooLargeError, match=f"{len(DATA)} bytes, allowed are {len(DATA) - 1}"):
            open_source(aws.bucket, key, limit)

        assert faults.count("^GET ") == 0

    def test_the_version_of_a_bucket_that_keeps_versions_is_part_of_the_identity(self, aws: Aws, key: str) -> None:
        aws.s3.put_bucket_versioning(Bucket=aws.bucket, VersioningConfiguration={"Status": "Enabled"})
        version = aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=DATA)["VersionId"]

        assert open_source(aws.bucket, key, PATIENT).identity.version == version


class TestFiles:
    def test_any_range_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "video.mp4"
        path.write_bytes(DATA)
        source = open_source(None, str(path), PATIENT)

        assert (source.identity.bucket, source.identity.key) == (None, str(path))
        assert source.read(1000, 500) == DATA[1000:1500]
        assert source.read(len(DATA) - 5, 100) == DATA[-5:]
        assert source.read(len(DATA), 1) == b""

    def test_a_relative_path_is_known_by_its_absolute_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "video.mp4").write_bytes(DATA)
        monkeypatch.chdir(tmp_path)

        assert open_source(None, "video.mp4", PATIENT).identity.key == str(tmp_path / "video.mp4")

    def test_a_missing_file_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"absent\.mp4: does not exist"):
            open_source(None, str(tmp_path / "absent.mp4"), PATIENT)

    def test_a_file_below_a_file_is_refused_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "video.mp4").write_bytes(DATA)

        with pytest.raises(ReelscanError, match=r"video\.mp4/part"):
            open_source(None, str(tmp_path / "video.mp4" / "part"), PATIENT)

    def test_a_name_that_no_file_can_have_is_refused_in_one_line(self) -> None:
        with pytest.raises(ReelscanError):
            open_source(None, "k" * 5000, PATIENT)

    def test_a_folder_is_no_video(self, tmp_path: Path) -> None:
        with pytest.raises(NotAVideoError, match="is a folder"):
            open_source(None, str(tmp_path), PATIENT)

    def test_an_empty_file_is_no_video(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()

        with pytest.raises(NotAVideoError, match="0 bytes"):
            open_source(None, str(tmp_path / "empty.mp4"), PATIENT)

    def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe.mp4"
        os.mkfifo(pipe)
        ended: list[BaseException] = []

        def open_it() -> None:
            try:
                open_source(None, str(pipe), PATIENT)
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=open_it)
        thread.start()
        thread.join(FAR_SECONDS / 60)
        hung = thread.is_alive()
        # Whoever still waits for a writer gets one.
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        thread.join(FAR_SECONDS)

        assert not hung
        assert [type(error) for error in ended] == [NotAVideoError]

    def test_a_file_that_may_not_be_read_is_access_denied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "video.mp4"
        path.write_bytes(DATA)
        plain_open = os.open

        def deny(name: os.PathLike[str] | str, *arguments: int) -> int:
            # The owner of the tests may be root, whom no permissions hold back.
            if Path(name) == path:
                raise PermissionError(13, "Permission denied", str(path))
            return plain_open(name, *arguments)

        monkeypatch.setattr(os, "open", deny)

        with pytest.raises(AccessDeniedError, match="may not be read"):
            open_source(None, str(path), PATIENT)

    @pytest.mark.parametrize(
        "change",
        [
            lambda path: path.write_bytes(DATA + b"more"),
            lambda path: os.truncate(path, 50),
            lambda path: os.utime(path, ns=(0, 0)),
        ],
        ids=["longer", "shorter", "written again"],
    )
    def test_a_file_changed_while_it_is_read_is_object_changed(
        self, tmp_path: Path, change: Callable[[Path], object]
    ) -> None:
        path = tmp_path / "video.mp4"
        path.write_bytes(DATA)
        source = open_source(None, str(path), PATIENT)
        assert source.read(0, 100) == DATA[:100]
        change(path)

        with pytest.raises(ObjectChangedError, match="changed while it was read"):
            source.read(100, 100)

    def test_a_file_replaced_by_another_goes_on_being_the_one_that_was_opened(self, tmp_path: Path) -> None:
        path, other = tmp_path / "video.mp4", tmp_path / "other.mp4"
        path.write_bytes(DATA)
        other.write_bytes(DATA[::-1])
        source = open_source(None, str(path), PATIENT)
        other.replace(path)

        assert source.read(0, 100) == DATA[:100]
        assert open_source(None, str(path), PATIENT).identity != source.identity

    def test_a_source_that_is_no_longer_used_holds_no_file_open(self, tmp_path: Path) -> None:
        path = tmp_path / "video.mp4"
        path.write_bytes(DATA)
        source = open_source(None, str(path), PATIENT)
        assert path in open_files()

        del source

        assert path not in open_files()


def open_files() -> list[Path]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(link.readlink())
        except FileNotFoundError:
            continue
    return found


class TestReader:
    def test_what_is_read_forward_is_the_object(self, aws: Aws, key: str) -> None:
        assert read_all(reader_of(open_source(aws.bucket, key, PATIENT))) == DATA

    def test_blocks_grow_while_reading_goes_forward(self) -> None:
        source = CountingSource(MadeSource(20 << 20))
        reader = reader_of(source)

        assert read_all(reader) == made_bytes(0, 20 << 20)

        lengths = [length for _, length in source.reads]
        assert lengths[0] == FIRST_BLOCK_BYTES
        assert lengths[:-1] == sorted(lengths[:-1])
        assert max(lengths) == LARGEST_BLOCK_BYTES
        assert len(lengths) < 20
        assert [offset for offset, _ in source.reads] == [sum(lengths[:number]) for number in range(len(lengths))]
        assert reader.bytes_read == sum(lengths) == 20 << 20

    @pytest.mark.parametrize("place", [30 << 20, 0], ids=["ahead", "back"])
    def test_blocks_start_small_after_a_jump(self, place: int) -> None:
        source = CountingSource(MadeSource(40 << 20))
        reader = reader_of(source)
        while reader.tell() < 16 << 20:
            reader.read(32 << 10)

        reader.seek(place)
        assert reader.read(10) == made_bytes(place, 10)

        assert source.reads[-2][1] == LARGEST_BLOCK_BYTES
        assert source.reads[-1] == (place, FIRST_BLOCK_BYTES)

    def test_a_step_over_what_is_not_needed_counts_as_forward(self) -> None:
        source = CountingSource(MadeSource(40 << 20))
        reader = reader_of(source)
        reader.read(10)
        reader.seek(FIRST_BLOCK_BYTES + 1000)
        reader.read(10)

        assert source.reads[-1] == (FIRST_BLOCK_BYTES + 1000, 2 * FIRST_BLOCK_BYTES)

    def test_what_was_just_read_is_not_fetched_again(self) -> None:
        source = CountingSource(MadeSource(40 << 20))
        reader = reader_of(source)
        for _ in range(10):
            reader.seek(0)
            reader.read(FIRST_BLOCK_BYTES)
            reader.seek(20 << 20)
            reader.read(FIRST_BLOCK_BYTES)

        assert len(source.reads) == 2

    def test_only_so_many_bytes_are_kept(self) -> None:
        source = CountingSource(MadeSource(40 << 20))
        reader = reader_of(source)
        for number in range(3):
            reader.seek(number * (10 << 20))
            reader.read(KEPT_BYTES // 2)
        reader.seek(0)
        reader.read(1)

        assert len(source.reads) == 4

    def test_what_is_kept_does_not_grow_with_what_was_read(self) -> None:
        reader = reader_of(BlankSource(200 << 20))
        tracemalloc.start()
        try:
            while reader.read(1 << 20):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert reader.bytes_read == 200 << 20
        assert peak <= KEPT_BYTES + LARGEST_BLOCK_BYTES + (2 << 20)

    @pytest.mark.parametrize("end", [1, 1000, FIRST_BLOCK_BYTES, 100_000, 5 << 20])
    def test_reading_does_not_go_past_the_end_on_its_own_account(self, end: int) -> None:
        source = CountingSource(MadeSource(20 << 20))
        reader = reader_of(source, end=end)
        while reader.tell() < end:
            reader.read(min(4096, end - reader.tell()))

        assert max(offset + length for offset, length in source.reads) == end
        assert reader.bytes_read == end

    def test_what_is_asked_for_past_the_end_is_read(self) -> None:
        source = CountingSource(MadeSource(20 << 20))
        reader = reader_of(source, end=100_000)
        reader.seek(99_000)

        assert reader.read(4096) == made_bytes(99_000, 4096)
        assert read_all(reader) == made_bytes(99_000 + 4096, (20 << 20) - 99_000 - 4096)

    def test_what_is_asked_for_past_the_end_comes_in_small_blocks_however_large_they_had_grown(self) -> None:
        source = CountingSource(MadeSource(20 << 20))
        end = 10 << 20
        reader = reader_of(source, end=end)
        while reader.tell() < end:
            reader.read(32 << 10)
        reader.read(32 << 10)

        assert source.reads[-2][1] > FIRST_BLOCK_BYTES
        assert sum(source.reads[-1]) <= end + FIRST_BLOCK_BYTES

    def test_a_request_larger_than_a_block_is_one_read(self) -> None:
        source = CountingSource(MadeSource(20 << 20))

        assert reader_of(source).read(9 << 20) == made_bytes(0, 9 << 20)
        assert source.reads == [(0, 9 << 20)]

    def test_seeking_moves_as_in_a_file_and_the_end_of_the_file_is_empty(self) -> None:
        reader = reader_of(MadeSource(1000))

        assert reader.seek(-10, os.SEEK_END) == reader.tell() == 990
        assert reader.read(100) == made_bytes(990, 10)
        assert reader.read(100) == b""
        assert reader.seek(-20, os.SEEK_CUR) == 980
        assert reader.seek(5) == 5
        assert reader.seek(-5) == 0
        assert reader.seek(5000) == 5000
        assert reader.read(1) == b""
        reader.raise_error()

    def test_the_first_bytes_do_not_move_the_position(self) -> None:
        reader = reader_of(MadeSource(1 << 20))
        reader.seek(500_000)

        assert reader.first_bytes() == made_bytes(0, 4096)
        assert reader.tell() == 500_000
        assert reader.read(10) == made_bytes(500_000, 10)

    def test_reading_to_and_fro_ends_at_the_limit_and_the_error_is_kept(self) -> None:
        size = 10 << 20
        source = CountingSource(MadeSource(size))
        reader = reader_of(source, limit_bytes=3 * size)

        def read_to_and_fro() -> None:
            while True:
                for place in range(0, size, 64 << 10):
                    reader.seek(size - 1 - place)
                    reader.read(1)

        with pytest.raises(TooLargeError, match="to and fro"):
            read_to_and_fro()
        with pytest.raises(TooLargeError, match="to and fro"):
            reader.raise_error()
        assert sum(length for _, length in source.reads) == reader.bytes_read <= 3 * size

    def test_exactly_the_limit_may_be_read(self) -> None:
        size = 10 << 20

        assert read_all(reader_of(MadeSource(size), limit_bytes=size)) == made_bytes(0, size)

    def test_after_the_deadline_nothing_is_fetched_and_the_error_is_kept(self) -> None:
        source = CountingSource(MadeSource(10 << 20))
        reader = SourceReader(source, limit_bytes=1 << 40, deadline=time.monotonic() - 1)

        with pytest.raises(TimeLimitError, match="time limit") as raised:
            reader.read(1)

        assert (raised.value.exit_status, raised.value.code) == (4, "timeout")
        with pytest.raises(TimeLimitError):
            reader.raise_error()
        assert source.reads == []

    def test_what_made_a_read_fail_is_kept(self, aws: Aws, key: str) -> None:
        reader = reader_of(open_source(aws.bucket, key, PATIENT))
        aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=b"another")

        with pytest.raises(ObjectChangedError):
            reader.read(1)
        with pytest.raises(ObjectChangedError):
            reader.raise_error()

    def test_a_source_of_another_version_is_refused_before_a_byte_is_read(
        self, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        source = analyst.open(clips.path("h264_closed_gop.mp4"))
        plan = analyst.plan(source, chunk_seconds=5.0)
        other = CountingSource(source)
        other.identity = source.identity.model_copy(update={"etag": "another"})

        with pytest.raises(ObjectChangedError, match="planned"):
            analyst.detect(plan, other)
        assert other.reads == []

"""The bytes of a video, from S3 or a file: read by range, never copied, always the same version."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from steps.errors import (
    AccessDeniedError,
    NotAVideoError,
    NotFoundError,
    ObjectChangedError,
    ReelscanError,
    StorageError,
    TimeLimitError,
    TooLargeError,
)
from steps.plan import SourceIdentity
from steps.transport_stream import PACKET_BYTES, Grid, packet_grid

if TYPE_CHECKING:
    from steps.settings import Settings

T = TypeVar("T")

FIRST_BLOCK_BYTES = 64 << 10
LARGEST_BLOCK_BYTES = 4 << 20
KEPT_BYTES = 2 * LARGEST_BLOCK_BYTES


class Source(Protocol):
    """Bytes that do not change under the reader."""

    identity: SourceIdentity

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end.

        Raises:
            ObjectChangedError: they are no longer the bytes of `identity`.
            NotFoundError, AccessDeniedError, StorageError: they cannot be read.
        """
        ...


def open_source(bucket: str | None, key: str, settings: Settings) -> Source:
    """A video in S3, or with `bucket` None a local file.

    Raises:
        NotFoundError, AccessDeniedError, StorageError: it cannot be opened.
        NotAVideoError: it is empty, or a folder.
        TooLargeError: it is over `max_object_bytes`.
    """
    source: Source = FileSource(Path(key)) if bucket is None else S3Source(bucket, key, settings)
    size = source.identity.size
    if size == 0:
        raise NotAVideoError(f"{source.identity.url}: holds 0 bytes, which is no video")
    if size > settings.max_object_bytes:
        raise TooLargeError(
            f"{source.identity.url}: holds {size} bytes, allowed are {settings.max_object_bytes} "
            "(REELSCAN_MAX_OBJECT_BYTES)"
        )
    return source


class FileSource:
    """A local file. Its size and time of change stand for its version."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        with self._reporting():
            # Opening a pipe would otherwise wait until somebody writes to it.
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            weakref.finalize(self, os.close, self._descriptor)
            mode = os.fstat(self._descriptor).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
                raise NotAVideoError(f"{self._path}: is {kind}; name a video file")
            self.identity = self._identify()

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        with self._reporting():
            data = os.pread(self._descriptor, length, offset)
            if self._identify() != self.identity:
                raise ObjectChangedError(f"{self._path}: was changed while it was read; run again")
        return data

    def _identify(self) -> SourceIdentity:
        status = os.fstat(self._descriptor)
        return SourceIdentity(
            bucket=None,
            key=str(self._path),
            size=status.st_size,
            etag=f"{status.st_size}-{status.st_mtime_ns}",
        )

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{self._path}: does not exist") from error
        except PermissionError as error:
            raise AccessDeniedError(f"{self._path}: may not be read; change its permissions") from error
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}") from error


class S3Source:
    """An object of S3, every read under `If-Match` of the version first seen."""

    def __init__(self, bucket: str, key: str, settings: Settings) -> None:
        self._url = f"s3://{bucket}/{key}"
        self._object: _Object = _plain_object(bucket, key, settings)
        with self._reporting():
            size, etag, version = self._object.head()
        self.identity = SourceIdentity(bucket=bucket, key=key, size=size, etag=etag, version=version)

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        end = min(offset + length, self.identity.size)
        if end <= offset:
            return b""
        with self._reporting():
            return self._object.read(offset, end, self.identity.etag)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except ReelscanError:
            raise
        except Exception as error:
            if self._object.has_changed(error):
                raise ObjectChangedError(f"{self._url}: was replaced while it was read; send the task again") from error
            raise self._object.translate(error, self._url) from error


class _Object(Protocol):
    """One object as a client library shows it."""

    def head(self) -> tuple[int, str, str | None]: ...

    def read(self, start: int, end: int, etag: str) -> bytes: ...

    def has_changed(self, error: Exception) -> bool: ...

    def translate(self, error: Exception, url: str) -> ReelscanError: ...


def _plain_object(bucket: str, key: str, settings: Settings) -> _Object:
    if not key.isprintable() or any(segment in ("", ".", "..") for segment in key.split("/")):
        return _BotocoreObject(bucket, key, settings)
    return _ObstoreObject(bucket, key, settings)


class _ObstoreObject:
    def __init__(self, bucket: str, key: str, settings: Settings) -> None:
        from steps.s3 import open_bucket

        self._bucket = open_bucket(bucket, settings)
        self._key = key

    def head(self) -> tuple[int, str, str | None]:
        meta = self._bucket.head(self._key)
        return meta["size"], meta["e_tag"] or "", meta["version"]

    def read(self, start: int, end: int, etag: str) -> bytes:
        result = self._bucket.get(self._key, options={"range": (start, end), "if_match": etag})
        return bytes(result.bytes())

    def has_changed(self, error: Exception) -> bool:
        from obstore.exceptions import PreconditionError

        # A read that is cut off is resumed, and when that is refused the error is of the general kind.
        return isinstance(error, PreconditionError) or "412 Precondition" in str(error)

    def translate(self, error: Exception, url: str) -> ReelscanError:
        from steps.s3 import translate

        return translate(error, url)


class _BotocoreObject:
    """For the keys that S3 allows and object_store does not: `a//b`, `../a`, `a/`, control characters."""

    def __init__(self, bucket: str, key: str, settings: Settings) -> None:
        import boto3
        from botocore.config import Config

        timeout = min(30.0, settings.storage_timeout_seconds)
        # Tried again below and not in botocore, whose count of attempts knows no time limit.
        config = Config(connect_timeout=min(10.0, timeout), read_timeout=timeout, retries={"total_max_attempts": 1})
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or boto3.Session().region_name
        self._client = boto3.client("s3", region_name=region or "us-east-1", config=config)
        self._bucket = bucket
        self._key = key
        self._timeout_seconds = settings.storage_timeout_seconds

    def head(self) -> tuple[int, str, str | None]:
        answer = self._patiently(lambda: self._client.head_object(Bucket=self._bucket, Key=self._key))
        return answer["ContentLength"], answer["ETag"], answer.get("VersionId")

    def read(self, start: int, end: int, etag: str) -> bytes:
        def get() -> bytes:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{end - 1}", IfMatch=etag
            )
            return answer["Body"].read()

        return self._patiently(get)

    def _patiently(self, ask: Callable[[], T]) -> T:
        from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

        retrying = Retrying(
            retry=retry_if_exception(self._is_passing),
            wait=wait_random_exponential(0.1, max=5),
            stop=stop_after_delay(self._timeout_seconds),
            reraise=True,
        )
        return retrying(ask)

    def _is_passing(self, error: BaseException) -> bool:
        from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

        if isinstance(error, HTTPClientError | IncompleteReadError | ResponseStreamingError):
            return True
        return isinstance(error, Exception) and self._status(error) in (429, 500, 502, 503, 504)

    def has_changed(self, error: Exception) -> bool:
        return self._status(error) == 412

    def translate(self, error: Exception, url: str) -> ReelscanError:
        status = self._status(error)
        if status == 404:
            return NotFoundError(f"{url}: does not exist; check bucket and key")
        if status in (401, 403):
            return AccessDeniedError(f"{url}: access is denied; check the credentials and the bucket's policy")
        return StorageError(f"{url}: S3 failed after its retries: {error}")

    def _status(self, error: Exception) -> int:
        # Errors of the connection have a response too, which is None.
        response: dict[str, Any] = getattr(error, "response", None) or {}
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


class SourceReader:
    """A file object over a source, as FFmpeg wants it, that asks for growing blocks while reading goes forward.

    Reading never goes past `header_bytes` or `end` on its own account, keeps at most `KEPT_BYTES`, and stops
    with an error at the deadline or after `limit_bytes` (a hostile index can make reading jump for ever). FFmpeg takes
    an exception in `read` for an I/O error and may carry on with what it has: `raise_error` says what it was.
    """

    def __init__(
        self, source: Source, *, limit_bytes: int, deadline: float, end: int | None = None,
        header_bytes: int = 0, first_block_bytes: int = FIRST_BLOCK_BYTES,
    ) -> None:  # fmt: skip
        self._source = source
        self._size = source.identity.size
        self._end = self._size if end is None else end
        self._header_bytes = header_bytes
        self._limit_bytes = limit_bytes
        self._deadline = deadline
        self._first_block_bytes = first_block_bytes
        self._block_bytes = first_block_bytes
        self._blocks: list[tuple[int, bytes]] = []
        self._position = 0
        self._first_bytes = b""
        self._error: ReelscanError | None = None
        self.bytes_read = 0
        self.tap: Callable[[int, bytes], None] | None = None
        """Is given every block that is fetched, with its position."""

    def read(self, length: int) -> bytes:
        """Up to `length` bytes from the position; empty at the end."""
        try:
            data = self._read(length)
        except ReelscanError as error:
            self._error = error
            raise
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, as `io.IOBase.seek`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def first_bytes(self) -> bytes:
        """The file's first 4 KiB, without moving the position."""
        if not self._first_bytes:
            position, self._position = self._position, 0
            self._read(1)
            self._position = position
        return self._first_bytes

    def raise_error(self) -> None:
        """Raise what made a `read` fail, if one did."""
        if self._error is not None:
            raise self._error

    def _read(self, length: int) -> bytes:
        if self._position >= self._size or length <= 0:
            return b""
        for start, block in reversed(self._blocks):
            if start <= self._position < start + len(block):
                offset = self._position - start
                return block[offset : offset + length]
        return self._fetch(length)[:length]

    def _fetch(self, length: int) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeLimitError(f"{self._source.identity.url}: reading it went over the time limit")
        if self._blocks:
            start, block = self._blocks[-1]
            reached = start + len(block)
            forward = reached <= self._position <= reached + self._block_bytes
            self._block_bytes = min(self._block_bytes * 2, LARGEST_BLOCK_BYTES) if forward else self._first_block_bytes
        # Behind the end only what FFmpeg insists on is read, and little of it: the packets needed are all before.
        wanted = self._block_bytes if self._position < self._end else self._first_block_bytes
        for stop in (self._header_bytes, self._end):
            if self._position < stop:
                wanted = min(wanted, stop - self._position)
        wanted = min(max(wanted, length), self._size - self._position)
        if self.bytes_read + wanted > self._limit_bytes:
            raise TooLargeError(
                f"{self._source.identity.url}: its index makes reading jump to and fro: {self.bytes_read} bytes read "
                f"of {self._size}; rewrap it with its packets in order of time"
            )
        # Before the read, so that never more are in memory.
        while self._blocks and sum(len(block) for _, block in self._blocks) + wanted > KEPT_BYTES:
            del self._blocks[0]
        data = self._source.read(self._position, wanted)
        self.bytes_read += len(data)
        if self._position == 0:
            self._first_bytes = data[:4096]
        if self.tap:
            self.tap(self._position, data)
        self._blocks.append((self._position, data))
        return data


class SplicedReader:
    """The start of a file and then, as if it followed at once, the file from `position` on; it cannot seek.

    A transport stream read so gives the same packets with the same times as when read whole: FFmpeg learns the streams
    and the reference of its 33-bit clock from the start, and takes the seam for a disturbance before the key packet.
    The seam lies between two transport packets, or FFmpeg would lose step and with it the key packet's head.
    """

    def __init__(self, reader: SourceReader, start_bytes: int, position: int) -> None:
        self._reader = reader
        grid = packet_grid(reader.first_bytes()) or Grid(PACKET_BYTES, 0)
        self._start_bytes = grid.last_before(start_bytes)
        self._position = position
        self._jumped = position <= start_bytes
        self.first_bytes = reader.first_bytes
        self.raise_error = reader.raise_error

    def read(self, length: int) -> bytes:
        """Up to `length` bytes; empty at the end of the file."""
        if not self._jumped:
            left = self._start_bytes - self._reader.tell()
            if left > 0:
                return self._reader.read(min(length, left))
            self._reader.seek(self._position)
            self._jumped = True
        return self._reader.read(length)

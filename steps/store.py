"""Where results live: a prefix of an S3 bucket or a folder, with the same conditional writes on both."""

# ruff: noqa: D102 - what the methods do is documented once, in the protocol

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from steps.errors import AccessDeniedError, NotFoundError, StorageError, UsageError

if TYPE_CHECKING:
    from steps.settings import Settings

PART_BYTES = 8 << 20
"""Size of the parts in which a growing object is written."""
PARTS_UNDER_WAY = 2
"""Parts that a writer sends at once: with the one being filled, what it holds in memory."""
READ_BYTES = 1 << 20
"""What a reader fetches at once, and holds in memory."""
LOCK_TIMEOUT_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.05
CONFLICT_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Stored:
    """A whole object and the tag of this version of it."""

    data: bytes
    etag: str


class Store(Protocol):
    """Objects below one prefix. Keys are relative, `/`-separated, never start with `/` and never hold `..`.

    Every method raises StorageError when the store cannot be reached, AccessDeniedError when it refuses.

    `create` and `replace` survive a lost answer: an object that holds exactly the bytes to be written counts
    as written by this call. So where it matters who wrote, the bytes must be the writer's own.
    """

    url: str
    """`s3://BUCKET/PREFIX/` or `FOLDER/`, with a slash at the end."""

    def below(self, prefix: str) -> Store:
        """The store of the objects below `prefix`."""
        ...

    def get(self, key: str) -> Stored:
        """Read a whole object. Raises NotFoundError."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset`. Raises NotFoundError."""
        ...

    def put(self, key: str, data: bytes) -> str:
        """Write an object whatever was there; gives its tag."""
        ...

    def create(self, key: str, data: bytes) -> str | None:
        """Write an object only if there is none (`If-None-Match: *`): its tag; None if there was another."""
        ...

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        """Write an object only over the version `etag` (`If-Match`): its tag, or None if that is gone."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        ...

    def written_at(self, key: str) -> datetime:
        """When an object was written, by the store's own clock. Raises NotFoundError."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; none is fine."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, in no promised order. Costs no more when other keys are many."""
        ...

    def open_reader(self, key: str) -> IO[bytes]:
        """Read forward with bounded memory. Raises NotFoundError."""
        ...

    def open_writer(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """Write forward with bounded memory. The object appears whole as the block ends; never on an error."""
        ...


def open_store(url: str, settings: Settings) -> Store:
    """The store at `s3://BUCKET/PREFIX` or in a folder.

    Raises:
        UsageError: the URL has another scheme or no bucket.
    """
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise UsageError(f"{url!r} names no bucket; expected s3://BUCKET/PREFIX")
        return S3Store(bucket, prefix.strip("/"), settings)
    if "://" in url:
        raise UsageError(f"{url!r}: only s3://BUCKET/PREFIX or a folder can hold results")
    return FolderStore(Path(url))


class FolderStore:
    """A folder. Tags are digests of the content; conditional writes hold a lock on the folder that the key is in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.url = f"{self.folder}/"

    def below(self, prefix: str) -> FolderStore:
        return FolderStore(self.folder / prefix.strip("/"))

    def get(self, key: str) -> Stored:
        with self._reporting(key):
            data = self._path(key).read_bytes()
        return Stored(data, _content_tag(data))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._reporting(key), self._path(key).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def put(self, key: str, data: bytes) -> str:
        with self.open_writer(key) as file:
            file.write(data)
        return _content_tag(data)

    def create(self, key: str, data: bytes) -> str | None:
        return self._put_if(key, data, None)

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        return self._put_if(key, data, etag)

    def exists(self, key: str) -> bool:
        with self._reporting(key):
            return self._path(key).is_file()

    def written_at(self, key: str) -> datetime:
        with self._reporting(key):
            return datetime.fromtimestamp(self._path(key).stat().st_mtime, UTC)

    def delete(self, key: str) -> None:
        with self._reporting(key):
            self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        top = self._path(prefix.rpartition("/")[0])
        with self._reporting(prefix):
            for folder, _, names in os.walk(top, onerror=_raise_unless_missing):
                for name in names:
                    key = (Path(folder) / name).relative_to(self.folder).as_posix()
                    if key.startswith(prefix) and not name.startswith("."):
                        yield key

    def open_reader(self, key: str) -> IO[bytes]:
        with self._reporting(key):
            return self._path(key).open("rb", buffering=READ_BYTES)

    @contextlib.contextmanager
    def open_writer(self, key: str) -> Iterator[IO[bytes]]:
        path = self._path(key)
        with self._reporting(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield cast("IO[bytes]", _Sink(file.write, lambda: self._reporting(key)))
                with self._reporting(key):
                    file.flush()
            with self._reporting(key):
                temporary.chmod(0o644)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"{key!r} leads out of the store")
        return self.folder / key

    def _put_if(self, key: str, data: bytes, etag: str | None) -> str | None:
        with self._locked(self._path(key).parent):
            try:
                current = self.get(key).etag
            except NotFoundError:
                current = None
            if current == _content_tag(data):
                return current
            return self.put(key, data) if current == etag else None

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        # The lock is on the folder itself, so that no file for it is left among the results.
        with self._reporting(""):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise StorageError(
                            f"{folder}: another process had its lock for {LOCK_TIMEOUT_SECONDS:g} s; see which hangs"
                        ) from error
                    time.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _reporting(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"{self.folder / key} does not exist") from error
        except PermissionError as error:
            raise AccessDeniedError(f"{self.folder / key}: {error.strerror}; change its permissions") from error
        except OSError as error:
            raise StorageError(f"{self.folder / key}: {error.strerror or error}") from error


class S3Store:
    """A prefix of an S3 bucket. Conditions and ranges are S3's own, retries are the client's."""

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        from steps.s3 import open_bucket

        self._bucket = bucket
        self._prefix = prefix
        self._settings = settings
        self._objects = open_bucket(bucket, settings)
        self.url = f"s3://{bucket}/{prefix}/" if prefix else f"s3://{bucket}/"

    def below(self, prefix: str) -> S3Store:
        return S3Store(self._bucket, self._key(prefix).strip("/"), self._settings)

    def get(self, key: str) -> Stored:
        with self._reporting(key):
            result = self._objects.get(self._key(key))
            return Stored(bytes(result.bytes()), result.meta["e_tag"] or "")

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._reporting(key):
            return bytes(self._objects.get_range(self._key(key), start=offset, length=length))

    def put(self, key: str, data: bytes) -> str:
        with self._reporting(key):
            return self._objects.put(self._key(key), data, use_multipart=False)["e_tag"] or ""

    def create(self, key: str, data: bytes) -> str | None:
        return self._put_if(key, data, None)

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        return self._put_if(key, data, etag)

    def exists(self, key: str) -> bool:
        try:
            with self._reporting(key):
                self._objects.head(self._key(key))
        except NotFoundError:
            return False
        return True

    def written_at(self, key: str) -> datetime:
        with self._reporting(key):
            return cast("datetime", self._objects.head(self._key(key))["last_modified"])

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFoundError), self._reporting(key):
            self._objects.delete(self._key(key))

    def list(self, prefix: str) -> Iterator[str]:
        start = self._key(prefix)
        folder, _, stem = start.rpartition("/")
        # object_store lists by whole folders. Keys come in order: those with the stem are found by starting
        # right before it (a start is exclusive) and stopping behind it.
        offset = start[:-1] if stem else None
        with self._reporting(prefix):
            for page in self._objects.list(folder or None, offset=offset):
                for found in page:
                    if found["path"].startswith(start):
                        yield found["path"].removeprefix(f"{self._prefix}/" if self._prefix else "")
                    elif found["path"] > start:
                        return

    def open_reader(self, key: str) -> IO[bytes]:
        import obstore

        with self._reporting(key):
            file = obstore.open_reader(self._objects, self._key(key), buffer_size=READ_BYTES)
        return io.BufferedReader(_Reader(file.read, lambda: self._reporting(key)), READ_BYTES)

    @contextlib.contextmanager
    def open_writer(self, key: str) -> Iterator[IO[bytes]]:
        import obstore

        with self._reporting(key):
            writer = obstore.open_writer(
                self._objects, self._key(key), buffer_size=PART_BYTES, max_concurrency=PARTS_UNDER_WAY
            )
        sink = _Sink(writer.write, lambda: self._reporting(key))
        try:
            yield cast("IO[bytes]", sink)
        except BaseException as error:
            # Leaving the writer by an error abandons the parts that are already there.
            with contextlib.suppress(Exception):
                writer.__exit__(type(error), error, error.__traceback__)
            raise
        try:
            with self._reporting(key):
                writer.close()
        except NotFoundError as error:
            # The answer to the completion of the parts was lost; asked again, S3 knows them no more.
            if not self._holds(key, sink.tell()):
                raise StorageError(f"{self.url}{key}: S3 lost the parts that were written") from error

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _holds(self, key: str, size: int) -> bool:
        with contextlib.suppress(NotFoundError), self._reporting(key):
            return bool(self._objects.head(self._key(key))["size"] == size)
        return False

    def _put_if(self, key: str, data: bytes, etag: str | None) -> str | None:
        """`put` if the version there is `etag`; None stands for no object.

        object_store does not send a conditional request again when its answer is lost, for it could not know
        whether the condition fails because the first request came through. The bytes that are there tell.
        """
        deadline = time.monotonic() + self._settings.storage_timeout_seconds
        mode: Any = "create" if etag is None else {"e_tag": etag}
        while True:
            failure: StorageError
            try:
                with self._reporting(key):
                    result = self._objects.put(self._key(key), data, mode=mode, use_multipart=False)
                    return result["e_tag"] or ""
            except StorageError as error:
                failure = error
            try:
                current = self.get(key)
            except NotFoundError:
                if etag is not None:
                    return None
            else:
                if current.data == data:
                    return current.etag
                if current.etag != etag:
                    return None
            # All is as before: the request got lost, or was refused because another one was under way.
            if time.monotonic() > deadline:
                raise failure
            time.sleep(CONFLICT_PAUSE_SECONDS)

    @contextlib.contextmanager
    def _reporting(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        from steps.s3 import translate

        try:
            yield
        except (BaseError, OSError) as error:
            raise translate(error, f"s3://{self._bucket}/{self._key(key)}") from error


def _content_tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


_Reporting = Callable[[], AbstractContextManager[None]]


class _Reader(io.RawIOBase):
    """A forward reader whose failures are the store's errors."""

    def __init__(self, read: Callable[[int], Any], reporting: _Reporting) -> None:
        self._read = read
        self._reporting = reporting

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._reporting():
            data = memoryview(self._read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)


class _Sink(io.RawIOBase):
    """A forward writer whose failures are the store's errors. Closing it leaves the object as it is."""

    def __init__(self, write: Callable[[Any], Any], reporting: _Reporting) -> None:
        self._write = write
        self._reporting = reporting
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        with self._reporting():
            self._write(view)
        self._position += len(view)
        return len(view)

"""Where results live: a prefix of an S3 bucket or a folder, with the same conditional writes on both."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from steps.errors import AccessDeniedError, NotFoundError, StorageError, UsageError

if TYPE_CHECKING:
    from steps.settings import Settings

PART_BYTES = 8 << 20
"""Size of the parts in which a growing object is written: what a writer holds in memory."""


@dataclass(frozen=True)
class Stored:
    """A whole object and the tag of this version of it."""

    data: bytes
    etag: str


class Store(Protocol):
    """Objects below one prefix. Keys are relative, `/`-separated and never start with `/`.

    Every method raises StorageError when the store cannot be reached, AccessDeniedError when it refuses.
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
        """Write an object only if there is none (`If-None-Match: *`); None if there was one."""
        ...

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        """Write an object only over the version `etag` (`If-Match`); None if it is another, or gone."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; none is fine."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with `prefix`, in no order that is promised."""
        ...

    def open_reader(self, key: str) -> IO[bytes]:
        """Read forward with bounded memory. Raises NotFoundError."""
        ...

    def open_writer(self, key: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Write forward with bounded memory. The object appears whole when the block ends, and not at all on an error."""
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
    """A folder. Tags are digests of the content; conditional writes hold a lock on the folder."""

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
        with self._locked():
            return None if self.exists(key) else self.put(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        with self._locked():
            try:
                current = self.get(key)
            except NotFoundError:
                return None
            return self.put(key, data) if current.etag == etag else None

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        with self._reporting(key):
            self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        for path in self.folder.rglob("*"):
            key = path.relative_to(self.folder).as_posix()
            if key.startswith(prefix) and path.is_file() and not path.name.startswith("."):
                yield key

    def open_reader(self, key: str) -> IO[bytes]:
        with self._reporting(key):
            return self._path(key).open("rb")

    @contextlib.contextmanager
    def open_writer(self, key: str) -> Iterator[IO[bytes]]:
        path = self._path(key)
        with self._reporting(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
        temporary = Path(name)
        try:
            with self._reporting(key), os.fdopen(handle, "wb") as file:
                yield file
            with self._reporting(key):
                temporary.chmod(0o644)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._reporting(".lock"):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("w")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

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
        return self._put_if(key, data, "create")

    def replace(self, key: str, data: bytes, etag: str) -> str | None:
        return self._put_if(key, data, {"e_tag": etag})

    def exists(self, key: str) -> bool:
        try:
            with self._reporting(key):
                self._objects.head(self._key(key))
        except NotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFoundError), self._reporting(key):
            self._objects.delete(self._key(key))

    def list(self, prefix: str) -> Iterator[str]:
        # object_store lists by whole folders; the rest of the prefix is compared here.
        start = self._key(prefix)
        folder = start.rpartition("/")[0]
        with self._reporting(prefix):
            for page in self._objects.list(folder or None):
                for found in page:
                    if found["path"].startswith(start):
                        yield found["path"].removeprefix(f"{self._prefix}/" if self._prefix else "")

    def open_reader(self, key: str) -> IO[bytes]:
        import obstore

        with self._reporting(key):
            return cast("IO[bytes]", obstore.open_reader(self._objects, self._key(key), buffer_size=1 << 20))

    @contextlib.contextmanager
    def open_writer(self, key: str) -> Iterator[IO[bytes]]:
        import obstore

        with self._reporting(key):
            writer = obstore.open_writer(self._objects, self._key(key), buffer_size=PART_BYTES)
            # Closing completes the object, so an error on the way must not close it.
            yield cast("IO[bytes]", writer)
            writer.close()

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _put_if(self, key: str, data: bytes, mode: Any) -> str | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self._reporting(key):
                return self._objects.put(self._key(key), data, mode=mode, use_multipart=False)["e_tag"] or ""
        except StorageError as error:
            if isinstance(error.__cause__, AlreadyExistsError | PreconditionError):
                return None
            raise
        except NotFoundError:
            return None

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

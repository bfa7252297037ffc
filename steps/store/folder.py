"""A folder as a store."""

# ruff: noqa: D102 - what the methods do is documented once, in the protocol

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

from steps.errors import AccessDeniedError, NotFoundError, StorageError
from steps.store.interface import Stored
from steps.store.newfile import NewFile
from steps.store.streams import READ_BYTES, Sink

LOCK_TIMEOUT_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.05


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
            new = NewFile(path)
        with contextlib.closing(new):
            yield cast("IO[bytes]", Sink(new.file.write, lambda: self._reporting(key)))
            with self._reporting(key):
                new.appear()

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


def _content_tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error

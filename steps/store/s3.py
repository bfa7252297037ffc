"""A prefix of an S3 bucket as a store."""

# ruff: noqa: D102 - what the methods do is documented once, in the protocol

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, cast

from steps.errors import NotFoundError, StorageError
from steps.store.interface import Stored
from steps.store.streams import READ_BYTES, Reader, Sink

if TYPE_CHECKING:
    from steps.settings import Settings

PART_BYTES = 8 << 20
"""Size of the parts in which a growing object is written."""
PARTS_UNDER_WAY = 2
"""Parts that a writer sends at once: with the one being filled, what it holds in memory."""
CONFLICT_PAUSE_SECONDS = 0.2


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
        return io.BufferedReader(Reader(file.read, lambda: self._reporting(key)), READ_BYTES)

    @contextlib.contextmanager
    def open_writer(self, key: str) -> Iterator[IO[bytes]]:
        import obstore

        with self._reporting(key):
            writer = obstore.open_writer(
                self._objects, self._key(key), buffer_size=PART_BYTES, max_concurrency=PARTS_UNDER_WAY
            )
        sink = Sink(writer.write, lambda: self._reporting(key))
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

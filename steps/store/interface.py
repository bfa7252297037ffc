"""What every store can do, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Protocol


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

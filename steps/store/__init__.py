"""Where results live: a prefix of an S3 bucket or a folder, with the same conditional writes on both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.errors import UsageError
from steps.store.folder import FolderStore
from steps.store.interface import Store, Stored
from steps.store.s3 import S3Store

if TYPE_CHECKING:
    from steps.settings import Settings

__all__ = ["FolderStore", "S3Store", "Store", "Stored", "open_store"]


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

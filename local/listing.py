"""The objects below prefixes of S3, for `send --recursive`.

Listed through boto3 and not by a store: object_store refuses a whole listing for one key such as `a//b`, and shows
`/a` and `a/` as `a`. A bucket of videos may hold any key.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from steps.errors import AccessDeniedError, NotFoundError, StorageError, UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from steps.settings import Settings

_ATTEMPTS = 5
_SCHEME = "s3://"


def list_videos(
    videos: Sequence[str], include: Sequence[str], settings: Settings, told: Callable[[int], None]
) -> list[str]:
    """`s3://BUCKET/KEY` of every object below the prefixes among `videos`, each once; a local file is left as it is.

    Objects without a byte and keys that end with a slash, which stand for folders, are left out.

    Args:
        videos: `s3://BUCKET`, `s3://BUCKET/PREFIX`, or files. As in other tools a prefix is a folder: `a` has
            `a/b.mp4` below it, and not `ab.mp4`.
        include: patterns as of a shell. One of them must fit what follows the prefix, or the last part of the key;
            capital and small letters are the same.
        told: is given the number of those found so far, a page after another.

    Raises:
        UsageError: an address names no bucket, or one that cannot exist.
        NotFoundError: a bucket does not exist, or there is nothing to send below a prefix.
        AccessDeniedError: listing is refused.
        StorageError: S3 failed.
    """
    found: dict[str, None] = {}
    client = _client(settings)
    for video in videos:
        if not video.startswith(_SCHEME):
            found[video] = None
            continue
        bucket, prefix = _parse(video)
        objects, before = 0, len(found)
        for keys in _pages(client, bucket, prefix):
            objects += len(keys)
            chosen = [key for key in keys if _is_included(key, prefix, include)]
            found.update(dict.fromkeys(f"{_SCHEME}{bucket}/{key}" for key in chosen))
            told(len(found))
        # What an earlier prefix had found already is there too.
        if len(found) == before and not any(one.startswith(f"{_SCHEME}{bucket}/{prefix}") for one in found):
            raise NotFoundError(_nothing(bucket, prefix, objects, include))
    return list(found)


def _parse(video: str) -> tuple[str, str]:
    bucket, _, prefix = video.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise UsageError(f"{video!r} names no bucket; expected s3://BUCKET/PREFIX")
    return bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _pages(client: S3Client, bucket: str, prefix: str) -> Iterator[list[str]]:
    """Keys of the objects that hold something, as many at a time as S3 gives."""
    with _reporting(bucket, prefix):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield [
                found["Key"]
                for found in page.get("Contents", [])
                if found["Size"] > 0 and not found["Key"].endswith("/")
            ]


def _is_included(key: str, prefix: str, include: Sequence[str]) -> bool:
    texts = (key.removeprefix(prefix).lower(), key.rpartition("/")[2].lower())
    return not include or any(fnmatch.fnmatchcase(text, glob.lower()) for text in texts for glob in include)


def _nothing(bucket: str, prefix: str, objects: int, include: Sequence[str]) -> str:
    where = f"{_SCHEME}{bucket}/{prefix}"
    if objects:
        globs = ", ".join(repr(glob) for glob in include)
        return f"{where}: none of the {objects} objects below it fits --include {globs}; change the pattern"
    hint = f"; to send the object {where[:-1]} leave out --recursive" if prefix else ""
    return f"{where}: there is no object below it that holds anything; check bucket and prefix{hint}"


def _client(settings: Settings) -> S3Client:
    import boto3
    from botocore.config import Config

    session = boto3.Session()
    request_seconds = min(30.0, settings.storage_timeout_seconds)
    return session.client(
        "s3",
        region_name=os.environ.get("AWS_REGION") or session.region_name or "us-east-1",
        config=Config(
            connect_timeout=min(10.0, request_seconds),
            read_timeout=request_seconds,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        ),
    )


@contextlib.contextmanager
def _reporting(bucket: str, prefix: str) -> Iterator[None]:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )

    where = f"{_SCHEME}{bucket}/{prefix}"[:1200]
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status == 404:
            raise NotFoundError(f"{where}: there is no bucket {bucket!r}; check its name") from error
        if status in (401, 403):
            raise AccessDeniedError(
                f"{where}: listing is denied; check the credentials, which need s3:ListBucket"
            ) from error
        raise StorageError(f"{where}: S3 failed after its retries: {error}") from error
    except ParamValidationError as error:
        raise UsageError(f"{where}: no bucket can be named {bucket!r}; expected s3://BUCKET/PREFIX") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDeniedError(f"{where}: {error}; set AWS_ACCESS_KEY_ID or AWS_PROFILE") from error
    except BotoCoreError as error:
        raise StorageError(f"{where}: S3 cannot be reached: {error}") from error

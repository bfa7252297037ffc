"""Opening a bucket, and saying what went wrong with it.

S3 is spoken through obstore (the Rust crate object_store): it starts in a tenth of botocore's time, retries and resumes
on its own, and knows conditional writes. botocore lends its credentials where the plain environment has none.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from steps.errors import AccessDeniedError, NotFoundError, ReelscanError, StorageError

if TYPE_CHECKING:
    from obstore.store import S3Store as Bucket

    from steps.settings import Settings

_REQUEST_URL = re.compile(r"Error performing ([A-Z]+) \S+")
_OWN_CHAIN_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


def open_bucket(bucket: str, settings: Settings) -> Bucket:
    """A client of one bucket, by the usual AWS variables (`AWS_ENDPOINT_URL`, region, keys, profile, pod identity)."""
    return _open_bucket(bucket, settings.storage_timeout_seconds, tuple(sorted(_aws_environment().items())))


@lru_cache(maxsize=32)
def _open_bucket(bucket: str, timeout_seconds: float, environment: tuple[tuple[str, str], ...]) -> Bucket:
    from obstore.store import S3Store as Bucket

    variables = dict(environment)
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    config: dict[str, Any] = {"bucket": bucket}
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    arguments: dict[str, Any] = {}
    if not any(name in variables for name in _OWN_CHAIN_VARIABLES):
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = boto3.Session()
        # Without credentials anywhere object_store goes on to ask the instance's metadata service by itself.
        if session.get_credentials() is not None:
            arguments["credential_provider"] = Boto3CredentialProvider(session)
        region = region or session.region_name
    config["region"] = region or "us-east-1"
    if endpoint:
        config["endpoint"] = endpoint
    return Bucket(
        config=config,
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": "10s",
            "timeout": f"{max(1, round(min(30.0, timeout_seconds)))}s",
        },
        retry_config={
            "max_retries": 10,
            "retry_timeout": timedelta(seconds=timeout_seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        },
        **arguments,
    )


def translate(error: BaseException, url: str) -> ReelscanError:
    """The error of the tree that a failure of obstore means."""
    from obstore import exceptions

    if isinstance(error, ReelscanError):
        return error
    # The request's URL, which can be long, is known from `url`.
    reason = _REQUEST_URL.sub(r"\1", str(error).partition("\n")[0])[:300]
    if isinstance(error, FileNotFoundError | exceptions.NotFoundError):
        return NotFoundError(f"{url[:1200]} does not exist; check bucket and key")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return AccessDeniedError(
            f"{url[:1200]}: access is denied; check the credentials and the bucket's policy ({reason})"
        )
    return StorageError(f"{url[:1200]}: S3 failed after its retries: {reason}")


def _aws_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

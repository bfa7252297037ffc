"""What a deployment fixes: limits, places, names and time limits. Each is a variable `REELSCAN_<NAME>`.

pydantic-settings would read these too, but costs a quarter of a second of CPU at every start of a step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from steps.bounds import allowed, allowed_values
from steps.errors import UsageError

ENVIRONMENT_PREFIX = "REELSCAN_"

GIB = 1 << 30

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MODEL_NAME_ALLOWED = allowed("a letter or digit, then at most 127 letters, digits, dots, underscores or hyphens")


def variable_of(name: str) -> str:
    """The variable of a setting or an option."""
    return ENVIRONMENT_PREFIX + name.upper()


def _split_list(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


TextList = Annotated[tuple[str, ...], BeforeValidator(_split_list)]


class Settings(BaseModel):
    """Settings of a deployment, read from the environment by `Settings.from_environment`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Places
    results: str | None = Field(default=None, description="where results go: s3://BUCKET/PREFIX or a folder")
    task_queue: str | None = Field(default=None, description="name or URL of the task queue")
    completed_queue: str | None = Field(default=None, description="name or URL of the completed queue")
    dead_letter_queue: str | None = Field(default=None, description="name or URL of the dead-letter queue")
    allowed_sources: TextList = Field(
        default=("s3://*",), description="comma-separated s3://BUCKET/PREFIX* that tasks may name; never the results"
    )

    # Model
    serving: str = Field(default="127.0.0.1:8500", description="HOST:PORT of the TensorFlow Serving server")
    model_name: str = Field(
        default="ssd",
        pattern=MODEL_NAME_PATTERN,
        description="model name at the server",
        json_schema_extra=MODEL_NAME_ALLOWED,
    )
    model_version: int = Field(default=1, ge=1, description="model version at the server")
    model_profile: str | None = Field(
        default=None, description="path of a reelscan.json, or the name of a built-in profile"
    )
    batch_size: int = Field(default=8, ge=1, le=256, description="frames a request, where the model's batch is free")
    requests_in_flight: int = Field(default=3, ge=1, le=64, description="requests under way at once")
    decode_threads: int = Field(default=0, ge=0, le=64, description="decoder threads; 0 is one per core")

    # Limits on what comes from outside
    max_message_bytes: int = Field(default=65536, ge=1, le=1 << 20, description="bytes of a message on the task queue")
    max_records: int = Field(default=10, ge=1, le=100, description="records of one S3 event notification")
    max_object_bytes: int = Field(default=200 * GIB, ge=1, description="bytes of a video")
    max_duration_seconds: float = Field(default=172800, gt=0, description="seconds of a video")
    max_pixels: int = Field(default=8192 * 4352, ge=1, description="pixels of a picture")
    max_video_frames: int = Field(default=10_000_000, ge=1, description="frames of a video")
    max_chunks: int = Field(default=300, ge=1, le=1000, description="chunks of a run")
    max_detections: int = Field(default=100, ge=1, le=10_000, description="detections kept of a frame")

    # Time limits, each of which ends a wait
    ready_timeout_seconds: float = Field(default=300, gt=0, description="until the model is AVAILABLE")
    rpc_timeout_seconds: float = Field(default=60, gt=0, description="of one request to the model server")
    unavailable_timeout_seconds: float = Field(
        default=300, gt=0, description="of backing off while the server is UNAVAILABLE"
    )
    storage_timeout_seconds: float = Field(default=120, gt=0, description="of one S3 request with its retries")
    queue_timeout_seconds: float = Field(default=60, gt=0, description="of one SQS request with its retries")
    plan_timeout_seconds: float = Field(default=3600, gt=0, description="of indexing a video")
    chunk_timeout_seconds: float = Field(default=7200, gt=0, description="of analysing one chunk")
    job_timeout_seconds: float = Field(default=21600, gt=0, description="of one task on one machine")
    worker_start_seconds: float = Field(default=10, gt=0, description="what starting the worker of a chunk costs")
    lease_wait_seconds: float = Field(
        default=1800,
        gt=0,
        description="of a step's wait for another computation of its run; then it fails, to be retried",
    )
    lease_seconds: float = Field(
        default=60, gt=0, description="after which the lease of a silent computation is taken over"
    )
    resend_after_seconds: float = Field(
        default=120, ge=0, description="after which an entry of the ledger without .sent is sent by another"
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the settings; `overrides` that are not None win (they come from flags).

        Raises:
            UsageError: a variable has a value that is not allowed, or is not known; it is named with what was allowed.
        """
        from steps.variables import check_variables

        environment = os.environ if environment is None else environment
        check_variables(environment)
        values: dict[str, Any] = {}
        for name in cls.model_fields:
            text = environment.get(variable_of(name))
            if text is not None and text != "":
                values[name] = text
        values.update({name: value for name, value in overrides.items() if value is not None})
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise UsageError(
                f"{variable_of(name)}={first.get('input')!r}: allowed is {allowed_values(cls.model_fields[name])}; "
                f"set it to another value or unset it"
            ) from error

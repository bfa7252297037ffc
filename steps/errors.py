"""Every error that Reelscan raises on purpose, and the exit status of each.

::

    ReelscanError
    ├── UsageError             2    wrong flags or settings; of a service, and so no fault of a task: internal
    ├── BadInputError          3    never worth retrying
    │   ├── InvalidTaskError        invalid_task
    │   ├── NotFoundError           not_found
    │   ├── AccessDeniedError       access_denied
    │   ├── ObjectChangedError      object_changed
    │   ├── NotAVideoError          not_a_video
    │   ├── UnsupportedError        unsupported
    │   ├── TooLargeError           too_large
    │   └── ModelMismatchError      model_mismatch
    ├── OutsideError           4    something outside failed after its own retries: worth retrying
    │   ├── StorageError            internal
    │   ├── QueueError              internal
    │   ├── KubernetesError         internal
    │   ├── ModelUnavailableError   model_unavailable
    │   └── TimeLimitError          timeout
    ├── PartialResultError     5    `run` and `send --wait` only
    └── StoppedError         143    stopped by SIGTERM (130 by Ctrl-C)

A message says what, where, which value, what was allowed and what to change, on one line.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_DEFECT = 1


class ReelscanError(Exception):
    """Base of every error raised on purpose. `code` is what a completed message carries."""

    exit_status: ClassVar[int] = EXIT_DEFECT
    code: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        # Names from outside end up in messages, and must not steer the terminal that shows them.
        one_line = " ".join(message.split())
        super().__init__("".join(letter if letter.isprintable() else "\ufffd" for letter in one_line))


class UsageError(ReelscanError):
    """Wrong flags or settings: the person at the keyboard can mend it."""

    exit_status = 2


class BadInputError(ReelscanError):
    """The task, the video or the model does not fit. The same input fails again."""

    exit_status = 3


class InvalidTaskError(BadInputError):
    """The message is no task, or asks for something outside the limits."""

    code = "invalid_task"


class NotFoundError(BadInputError):
    """The bucket, key or file does not exist."""

    code = "not_found"


class AccessDeniedError(BadInputError):
    """Reading is refused, or the object lies outside `allowed_sources`."""

    code = "access_denied"


class ObjectChangedError(BadInputError):
    """The object was replaced while it was being read."""

    code = "object_changed"


class NotAVideoError(BadInputError):
    """The bytes hold no moving picture that FFmpeg can read."""

    code = "not_a_video"


class UnsupportedError(BadInputError):
    """A video, but of a kind that cannot be decoded here (encrypted, unknown codec)."""

    code = "unsupported"


class TooLargeError(BadInputError):
    """Over one of the limits on bytes, duration, pixels, frames or chunks."""

    code = "too_large"


class ModelMismatchError(BadInputError):
    """The served model is not the one the deployment names, or its signature does not fit the profile."""

    code = "model_mismatch"


class OutsideError(ReelscanError):
    """Something outside failed after its own retries. Worth retrying later."""

    exit_status = 4


class StorageError(OutsideError):
    """S3, or the local disk, could not be read or written."""


class QueueError(OutsideError):
    """SQS could not be reached."""


class KubernetesError(OutsideError):
    """The Kubernetes API could not be reached, or did not take a request."""


class ModelUnavailableError(OutsideError):
    """The model server did not become available, or stopped answering."""

    code = "model_unavailable"


class TimeLimitError(OutsideError):
    """A wait or a step went over its time limit."""

    code = "timeout"


class PartialResultError(ReelscanError):
    """The job is done, but some planned frames could not be analysed."""

    exit_status = 5


class StoppedError(ReelscanError):
    """Told to stop from outside."""

    exit_status = 143
    code = "stopped"


ERROR_CODES: tuple[str, ...] = (
    "invalid_task", "not_found", "access_denied", "object_changed", "not_a_video", "unsupported", "too_large",
    "model_mismatch", "model_unavailable", "timeout", "stopped", "deleted", "internal",
)  # fmt: skip
"""Every code that a completed message may carry, in the order of the contract."""

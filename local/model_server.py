"""The embedded model server as a process beside the job: its model, under which name and profile."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from steps.errors import ModelMismatchError, ModelUnavailableError, OutsideError, UsageError
from steps.job import GivenServer, ModelServer
from steps.processes import SERVING_MALLOC, last_line, reelscan_command, spawn, stop, wait_for_line
from steps.profile import FILE_NAME

if TYPE_CHECKING:
    from steps.plan import ModelIdentity
    from steps.settings import Settings

MAX_RESTARTS = 3

_ADDRESS = re.compile(r" on grpc (\S+?),")


class EmbeddedServer:
    """`reelscan serve` in a process of its own, started when its address is first asked for.

    A context manager.

    Args:
        model: what `reelscan serve --model` takes; None is the sample model.
        settings: name and version of the model, and the time limit for loading it.
    """

    def __init__(self, model: str | None, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = tempfile.NamedTemporaryFile(prefix="reelscan-serve-", suffix=".log")  # noqa: SIM115
        self._address = ""
        self._restarts = 0

    def address(self, model: ModelIdentity) -> str:
        """HOST:PORT of gRPC, once the model is available.

        Raises:
            ModelMismatchError: it is not the one that is served.
            UsageError: it cannot be served.
            OutsideError: the server ended, or was not ready in time.
        """
        served = self._settings
        if (model.name, model.version) != (served.model_name, served.model_version):
            raise ModelMismatchError(
                f"model {model.name!r} version {model.version} is not served here, but {served.model_name!r} version "
                f"{served.model_version}; leave the model out of the task, or run with --serving"
            )
        return self.start()

    def start(self) -> str:
        """Start it if it is not running; gives its address. Errors are those of `address`."""
        if not self._address:
            self._process = self._start("0", subprocess.PIPE)
            limit_seconds = self._settings.ready_timeout_seconds
            try:
                line = wait_for_line(self._process, "serving ", limit_seconds, "the embedded model server")
            except OutsideError:
                self._raise_for_status()
                raise
            found = _ADDRESS.search(line)
            if found is None:
                raise ModelUnavailableError(f"the embedded model server named no address: {line!r}")
            self._address = found[1]
        return self._address

    def ensure_running(self) -> None:
        """Start the server again, at the same address, if it has ended. Clients back off until it is ready.

        Raises:
            ModelUnavailableError: it ended more than `MAX_RESTARTS` times.
        """
        if self._process is None or self._process.poll() is None:
            return
        if self._restarts == MAX_RESTARTS:
            raise ModelUnavailableError(
                f"the embedded model server ended {MAX_RESTARTS + 1} times, "
                f"with status {self._process.returncode} at last: {self._last_message()}"
            )
        self._restarts += 1
        self._process = self._start(self._address.rpartition(":")[2], subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._messages:
            if self._process is not None:
                stop([self._process])

    def _start(self, port: str, stdout: int) -> subprocess.Popen[bytes]:
        arguments = ["serve", "--port", port, "--rest-port", "0"]
        arguments += ["--model-name", self._settings.model_name]
        arguments += ["--model-version", str(self._settings.model_version)]
        if self._model is not None:
            arguments += ["--model", self._model]
        environment = {**os.environ, **SERVING_MALLOC}
        command = reelscan_command(*arguments)
        return spawn(command, environment=environment, stdout=stdout, stderr=self._messages.file)

    def _raise_for_status(self) -> None:
        """Raise what the server's own message says, where it ended because of the model it was given."""
        status = None if self._process is None else self._process.poll()
        if status in (UsageError.exit_status, 3):
            raise UsageError(self._last_message())
        if status is not None:
            raise ModelUnavailableError(f"the embedded model server ended with status {status}: {self._last_message()}")

    def _last_message(self) -> str:
        return last_line(Path(self._messages.name)).removeprefix("reelscan: ")


def choose_server(
    serving: str | None, model: str | None, settings: Settings
) -> tuple[AbstractContextManager[ModelServer], Settings]:
    """The model server of a job, and the settings that fit it.

    Args:
        serving: HOST:PORT of a server that somebody else runs; None is the embedded one.
        model: of the embedded server; None is the sample model.

    Raises:
        UsageError: both are given, the address is none, or the model's file cannot be read.
    """
    if serving is None:
        settings = with_embedded_model(settings, model)
        return EmbeddedServer(model, settings), settings
    from steps.serving import check_address

    check_address(serving)
    if model is not None:
        raise UsageError("--model-path is for the embedded server, and --serving names another: leave one out")
    return nullcontext(GivenServer(serving, settings)), settings


def check_resolves(serving: str) -> None:
    """Raise UsageError if there is no host of the name in HOST:PORT."""
    if serving.startswith("unix:"):
        return
    host = serving.rpartition(":")[0].strip("[]")
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        # A name server that does not answer now may do so while the model server is waited for.
        if not isinstance(error, socket.gaierror) or error.errno != socket.EAI_AGAIN:
            raise UsageError(f"serving address {serving[:200]!r}: there is no such host; check its name") from error


def note_on_labels(settings: Settings) -> str | None:
    """What to tell a user whose labels may be wrong for want of a model profile; None if there is one."""
    if settings.model_profile is not None:
        return None
    return (
        "no model profile is set, so the labels and class numbers of the TensorFlow Object Detection API are assumed; "
        f"if the model has others, name its {FILE_NAME} with --model-profile or REELSCAN_MODEL_PROFILE"
    )


def with_embedded_model(settings: Settings, model: str | None) -> Settings:
    """Settings for the embedded server: its model's profile, and a name that no other model's results have.

    The sample model keeps the name that the settings give.

    Raises:
        UsageError: the model's file cannot be read.
    """
    from local.serving.backends import find_profile

    changes: dict[str, str] = {}
    if settings.model_profile is None:
        profile = find_profile(model)
        if profile is not None:
            changes["model_profile"] = str(profile)
    if model is not None and "model_name" not in settings.model_fields_set:
        changes["model_name"] = _name_of(model)
    return settings.model_copy(update=changes)


def _name_of(model: str) -> str:
    """The model's name and a digest of its content, as another file of the same name is another model."""
    path = Path(model)
    if not path.exists():
        return model
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-")[:100] or "model"
    sha256 = hashlib.sha256()
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            sha256.update(file.relative_to(path).as_posix().encode() + b"\0")
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    sha256.update(block)
    except OSError as error:
        raise UsageError(f"--model-path {model}: {error.strerror or error}") from error
    return f"{stem}-{sha256.hexdigest()[:12]}"

"""Runs images as a cluster would: their own user, a read-only root, a /tmp to write to, nothing allowed besides."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from images.tool import Tool
from tests.images.waiting import DEADLINE_SECONDS, wait_until

# Buildah builds but does not run with a read-only root: its container is entered with the kernel's own means, for
# which the test has to be root. $1 is the container's root, $2 its user, the rest the command.
_ENTER = """
set -eu
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot --userspec="$user" --groups="${user#*:}" "$root" "$@"
"""


class Running:
    """A container that runs. Its output is one stream of lines.

    Args:
        command: What runs it.
        ending: What ends it, if a tool runs it; else the command's first child is its process 1.
    """

    def __init__(self, command: Sequence[str], ending: Sequence[str] | None = None) -> None:
        self._process = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self._ending = ending

    def wait_for_line(self, start: str) -> str:
        """The first line that begins so; fails if the output ends before."""
        assert self._process.stdout is not None
        before = []
        for line in self._process.stdout:
            if line.startswith(start):
                return line
            before.append(line)
        raise AssertionError(f"no line {start!r} in {before}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to process 1 of the container: by the tool, which passes it on, or as what it is outside."""
        os.kill(self._process.pid if self._ending else self._first_child(), number)

    def _first_child(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        wait_until(lambda: children.read_text() != "", "the container starts")
        return int(children.read_text().split()[0])

    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    def wait(self) -> tuple[int, str]:
        """Its status and the rest of its output."""
        rest, _ = self._process.communicate(timeout=DEADLINE_SECONDS)
        return self._process.returncode, rest

    def end(self) -> None:
        """Ends what a test left."""
        if self._process.poll() is None and self._ending:
            subprocess.run(self._ending, capture_output=True, check=False, timeout=DEADLINE_SECONDS)
        elif self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=DEADLINE_SECONDS)


class Containers:
    """Runs images of a container tool."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._roots: dict[str, tuple[str, Path]] = {}
        self._working: list[str] = []

    @contextlib.contextmanager
    def started(
        self, image: str, *arguments: str, entry: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Iterator[Running]:
        """A container that runs while the block does, unless the test ends it."""
        variables = environment or {}
        if self._tool.kind == "buildah":
            running = Running(self._entered(image, arguments, entry, variables))
        else:
            container = f"reelscan-tests-{uuid.uuid4().hex}"
            command = [
                *self._tool.command, "run", "--rm", f"--name={container}", "--network=host", "--read-only",
                "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges",
                *(f"--env={name}={value}" for name, value in variables.items()),
                *([f"--entrypoint={entry}"] if entry else []), image, *arguments,
            ]  # fmt: skip
            running = Running(command, [*self._tool.command, "kill", "--signal=KILL", container])
        try:
            yield running
        finally:
            running.end()

    def run(
        self, image: str, *arguments: str, entry: str | None = None, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Runs one to its end; its status and output."""
        with self.started(image, *arguments, entry=entry, environment=environment) as running:
            return running.wait()

    def _entered(
        self, image: str, arguments: Sequence[str], entry: str | None, variables: Mapping[str, str]
    ) -> list[str]:
        config, root = self._root(image)
        settings = json.loads(config)
        environment = {**dict(text.split("=", 1) for text in settings["Env"]), **variables}
        command = [entry] if entry else settings["Entrypoint"]
        return [
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh", str(root),
            settings["User"], "/usr/bin/env", "-i", f"--chdir={settings['WorkingDir']}",
            *(f"{name}={value}" for name, value in environment.items()), *command, *arguments,
        ]  # fmt: skip

    def _root(self, image: str) -> tuple[str, Path]:
        """The image's settings as JSON, and where a container of it is mounted."""
        if image not in self._roots:
            container = self._buildah("from", "--quiet", image)
            self._working.append(container)
            config = json.dumps(json.loads(self._buildah("inspect", "--type=image", image))["OCIv1"]["config"])
            self._roots[image] = config, Path(self._buildah("mount", container))
        return self._roots[image]

    def _buildah(self, *arguments: str) -> str:
        command = [*self._tool.command, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.strip()

    def close(self) -> None:
        """Removes what it made."""
        if self._working:
            self._buildah("rm", *self._working)

"""Docker, Podman or Buildah, behind the few things that are asked of them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS = ("docker", "podman", "buildah")
"""The tools that are known, in the order in which they are looked for."""


class ToolError(Exception):
    """There is no tool, or it failed. The message says so to the user."""


@dataclass(frozen=True)
class Tool:
    """A container tool.

    Attributes:
        command: The program, with arguments that come before its subcommand.
        build_arguments: More arguments for each build.
    """

    command: tuple[str, ...]
    build_arguments: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`docker`, `podman` or `buildah`."""
        return Path(self.command[0]).name

    def build(
        self,
        image: str,
        dockerfile: Path,
        context: Path,
        *,
        target: str | None = None,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        """Builds an image; `arguments` are its build arguments. Raises ToolError."""
        command = [*self.command, *(["bud", "--layers"] if self.kind == "buildah" else ["build"])]
        command += [*self.build_arguments, f"--file={dockerfile}", f"--tag={image}"]
        command += [f"--target={target}"] if target else []
        command += [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
        self._run([*command, str(context)], f"building {image}")

    def save(self, image: str, archive: Path) -> None:
        """Writes an image to a file that `docker load` would read. Raises ToolError."""
        if self.kind == "buildah":
            arguments = ["push", "--quiet", image, f"docker-archive:{archive}:{image}"]
        elif self.kind == "podman":
            arguments = ["save", "--quiet", "--format=docker-archive", f"--output={archive}", image]
        else:
            arguments = ["save", f"--output={archive}", image]
        self._run([*self.command, *arguments], f"saving {image}")

    def _run(self, command: list[str], what: str) -> None:
        status = subprocess.run(command, check=False).returncode
        if status:
            raise ToolError(f"{what} failed with status {status}: {shlex.join(command)}")


def find_tool(setting: str = "", build_arguments: str = "") -> Tool:
    """The tool that is set, else the first that is installed and works.

    Args:
        setting: A program and its first arguments, such as `buildah --storage-driver overlay`; empty: look for one.
        build_arguments: More arguments for each build, as in a shell.

    Raises:
        ToolError: there is none, or the one that is set is not known.
    """
    words = shlex.split(setting)
    if not words:
        words = [next((kind for kind in KINDS if shutil.which(kind) and _works(kind)), "")]
        if not words[0]:
            raise ToolError(f"no container tool that works: install {' or '.join(KINDS)}, or set CONTAINER_BUILD")
    tool = Tool(tuple(words), tuple(shlex.split(build_arguments)))
    if tool.kind not in KINDS:
        raise ToolError(f"CONTAINER_BUILD is {setting!r}; known are {', '.join(KINDS)}")
    if shutil.which(words[0]) is None:
        raise ToolError(f"CONTAINER_BUILD is {setting!r}, but there is no program {words[0]!r}")
    return tool


def _works(kind: str) -> bool:
    """Whether there is all that it needs; Docker's program alone, without its daemon, can do nothing."""
    if kind != "docker":
        return True
    return subprocess.run([kind, "version"], capture_output=True, check=False, timeout=60).returncode == 0

"""Writes the lock files of images/steps/ from pyproject.toml: exact versions, with the digests of their wheels.

`make lock` keeps the versions that stand there as long as pyproject.toml allows them; `make lock LOCK_ARGS=--upgrade`
takes the newest.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "images" / "steps"
BASE = FOLDER / "requirements.txt"
"""What the step programs and those that speak to Kubernetes need."""
SERVE = FOLDER / "requirements-serve.txt"
"""What the embedded model server needs besides."""
BUILD = FOLDER / "requirements-build.txt"
"""What builds Reelscan's own wheel."""

# The base image's Python and C library. The digests cover every platform; markers are settled for Linux.
_TARGET = ("--python-version=3.11", "--python-platform=linux", "--generate-hashes")
_FORM = ("--no-header", "--no-annotate", "--quiet")
# uv does not regard upper bounds of Requires-Python: later versions are for Python 3.10 and earlier.
_CORRECTIONS = "backports-strenum<1.3"
_HEADER = "# Written by `make lock` from pyproject.toml.\n"


def locked_versions(path: Path) -> dict[str, str]:
    """Version by name of a lock file."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(), re.MULTILINE))


def uv() -> str:
    """The program uv."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        sys.exit("lock: uv is not installed: pip install uv, or run `make lock`, which does")
    return found


def _compile(target: Path, *arguments: str, source: str = "pyproject.toml", text: str | None = None) -> None:
    command = [uv(), "pip", "compile", source, *_TARGET, *_FORM, f"--output-file={target}", *arguments]
    subprocess.run(command, cwd=ROOT, input=text, text=True, check=True)
    target.write_text(_HEADER + target.read_text().removeprefix(_HEADER))


def main(options: list[str]) -> None:
    """Writes the three lock files; `options` go to `uv pip compile`."""
    _compile(BASE, "--extra=reconcile", *options)
    shared = [f"--no-emit-package={name}" for name in locked_versions(BASE)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as corrections:
        corrections.write(_CORRECTIONS)
        corrections.flush()
        _compile(
            SERVE, "--extra=serve", f"--constraints={BASE}", f"--constraints={corrections.name}", *shared, *options
        )
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    _compile(BUILD, *options, source="-", text="\n".join(build))


if __name__ == "__main__":
    main(sys.argv[1:])

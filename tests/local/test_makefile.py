"""The Makefile works before anything is installed, and says what it needs."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILES = ("Makefile", "infra/aws.mk")
TARGETS = [
    target for name in MAKEFILES for target in re.findall(r"^([a-z][a-z-]*):", (ROOT / name).read_text(), re.MULTILINE)
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout, in which nothing is installed, in a folder with a space in its name."""
    folder = tmp_path / "my checkout"
    folder.mkdir()
    (folder / "infra").mkdir()
    for name in (*MAKEFILES, "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(checkout: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path or os.environ["PATH"], "HOME": str(checkout)}
    program = shutil.which("make")
    assert program is not None
    return subprocess.run(
        [program, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with what the Makefile calls, and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("awk", "chmod", "mkdir", "touch"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def fake_python(folder: Path, name: str, version: str) -> Path:
    """A program that says it is Python `version`, and makes an environment as `-m venv` does, of nothing."""
    folder.mkdir(exist_ok=True)
    minor = int(version.split(".")[1])
    path = folder / name
    path.write_text(
        f"""#!/bin/sh
case "$*" in
*version_info*) exit {int(minor < 11)} ;;
--version) echo "Python {version}" ;;
"-m venv .venv")
  mkdir -p .venv/bin
  printf "#!/bin/sh\\n" >.venv/bin/python
  chmod +x .venv/bin/python ;;
esac
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_help_is_the_default_and_lists_every_target_with_one_line(checkout: Path) -> None:
    shown = make(checkout).stdout
    assert make(checkout, "help").stdout == shown
    assert [line.split()[0] for line in shown.splitlines()] == TARGETS
    assert all(len(line.split()) > 2 for line in shown.splitlines())


@pytest.mark.parametrize("target", TARGETS)
def test_a_dry_run_does_nothing(target: str, checkout: Path) -> None:
    done = make(checkout, "-n", target)
    assert done.returncode == 0, done.stderr
    left = sorted(str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file())
    assert left == ["Makefile", "infra/aws.mk", "pyproject.toml", "setup.py"]


def test_python_3_11_is_preferred_and_python3_the_fallback(checkout: Path, tools: Path) -> None:
    fake_python(tools, "python3", "3.13.1")
    assert make(checkout, "install", path=str(tools)).stdout.splitlines()[0] == "making .venv with python3"
    shutil.rmtree(checkout / ".venv")
    fake_python(tools, "python3.11", "3.11.9")
    assert make(checkout, "install", path=str(tools)).stdout.splitlines()[0] == "making .venv with python3.11"


@pytest.mark.parametrize("stamp", ["local", "dev"])
def test_what_takes_long_is_announced_before_it_begins_and_only_then(stamp: str, checkout: Path, tools: Path) -> None:
    fake_python(tools, "python3.11", "3.11.9")
    target = f".venv/.installed-{stamp}"
    lines = make(checkout, target, path=str(tools)).stdout.splitlines()
    assert lines[0] == "making .venv with python3.11"
    assert lines[1].startswith("Installing Python packages into .venv")
    assert "a minute or two" in lines[1]
    assert len(lines) == 2
    assert "Installing" not in make(checkout, target, path=str(tools)).stdout


def test_an_old_python_is_refused_by_name_and_version(checkout: Path, tmp_path: Path) -> None:
    old = fake_python(tmp_path / "old tools", "python", "3.9.2")
    done = make(checkout, "install", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"{old} is Python 3.9.2, Reelscan needs 3.11 or later: make PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_told(checkout: Path) -> None:
    done = make(checkout, "install", "PYTHON=/nowhere/python")
    assert done.returncode != 0
    assert "/nowhere/python was not found" in done.stderr


def test_custom_mk_overrides_a_variable(checkout: Path, tmp_path: Path) -> None:
    mine = fake_python(tmp_path / "my tools", "python", "3.12.0")
    (checkout / "custom.mk").write_text(f"PYTHON = {mine}\n")
    assert f"making .venv with {mine}" in make(checkout, "install").stdout


def test_what_is_installed_is_not_installed_again_until_it_changes(checkout: Path, tools: Path) -> None:
    fake_python(tools, "python3.11", "3.11.9")
    assert make(checkout, "-q", "install", path=str(tools)).returncode == 1
    assert make(checkout, "install", path=str(tools)).returncode == 0
    assert make(checkout, "-q", "install", path=str(tools)).returncode == 0
    os.utime(checkout / ".venv/.installed-local", (0, 0))
    assert make(checkout, "-q", "install", path=str(tools)).returncode == 1


def test_what_tests_need_is_enough_for_the_rest(checkout: Path, tools: Path) -> None:
    fake_python(tools, "python3.11", "3.11.9")
    assert make(checkout, ".venv/.installed-dev", path=str(tools)).returncode == 0
    assert make(checkout, "-q", "install", path=str(tools)).returncode == 0


def test_examining_a_server_needs_its_address(checkout: Path, tools: Path) -> None:
    fake_python(tools, "python3.11", "3.11.9")
    done = make(checkout, "test-serving", path=str(tools))
    assert done.returncode != 0
    assert "make test-serving SERVING=host:port" in done.stderr

"""The Makefile works before anything is installed, says what it needs, and hands values on as they are."""

from __future__ import annotations

import itertools
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
AWKWARD = 'it\'s "quoted"  $HOME `touch pwned` $(touch pwned) $(shell touch pwned) a;b & * é"; touch pwned; echo "'
BUILD = {"--tool": "CONTAINER_BUILD", "--tool-arguments": "CONTAINER_BUILD_ARGS", "--repository": "IMAGE_REPOSITORY",
         "--tag": "IMAGE_TAG", "--serving-model": "SERVING_MODEL", "--serving-version": "SERVING_VERSION",
         "--model-name": "SERVING_MODEL_NAME"}  # fmt: skip
SUBMIT = {"--video": "VIDEO", "--options": "OPTIONS", "--entrypoint": "ENTRYPOINT", "--namespace": "NAMESPACE",
          "--template": "TEMPLATE"}  # fmt: skip
DEPLOY = {"--settings": "SETTINGS", "--namespace": "NAMESPACE", "--overlay": "OVERLAY", "--context": "KUBE_CONTEXT"}
OPTIONS: dict[str, dict[str, str]] = {
    "test": {"-n": "TEST_PROCESSES"}, "images": BUILD, "submit": SUBMIT, "deploy": DEPLOY, "undeploy": DEPLOY,
    "test-cluster": {"-n": "CLUSTER_PROCESSES"},
}  # fmt: skip
"""Variables of the Makefile by the options in which the programs of its targets find them."""
ENVIRONMENT = {
    "test-serving": ["SERVING"],
    "test-images": ["CONTAINER_BUILD", "CONTAINER_BUILD_ARGS"],
    "bench-cluster": ["CLUSTER_STEPS_IMAGE"],
    "test-cluster": ["CLUSTER_STEPS_IMAGE", "CLUSTER_AWS"],
    "test-ledger": ["CLUSTER_STEPS_IMAGE", "CLUSTER_AWS", "SEED", "COMPLETED"],
    "test-load": ["CLUSTER_STEPS_IMAGE", "CLUSTER_AWS", "LOAD_MESSAGES"],
}
"""Variables that the programs of targets find in their environment."""
WORDS = ("TEST_ARGS", "LOCK_ARGS", "DEPLOY_ARGS")
"""Variables that are words of a command line."""
NOTE = """#!/bin/sh
folder=$(dirname "$0")/../..
printf '%s\\0' "$@" >>"$folder/arguments"
env -0 >"$folder/environment"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout, in which nothing is installed, in a folder with a space in its name."""
    folder = tmp_path / "my checkout"
    folder.mkdir()
    (folder / "infra").mkdir()
    for name in (*MAKEFILES, "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(checkout: Path, *arguments: str, path: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path or os.environ["PATH"], "HOME": str(checkout), **more}
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


@pytest.fixture
def installed(checkout: Path) -> Path:
    """The same with programs that note how they are called, in place of what would be installed."""
    folder = checkout / ".venv/bin"
    folder.mkdir(parents=True)
    for name in ("python", "pytest", "kubectl", "argo"):
        (folder / name).write_text(NOTE)
        (folder / name).chmod(0o755)
    for stamp in (".installed-local", ".installed-dev"):
        (checkout / ".venv" / stamp).touch()
    return checkout


def make_installed(installed: Path, target: str, *arguments: str, **more: str) -> None:
    login = dict.fromkeys(("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x")
    path = f"{installed / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    done = make(installed, target, *arguments, path=path, **login, **more)
    assert done.returncode == 0, done.stderr


def arrived(installed: Path, target: str) -> dict[str, str]:
    """What the programs of a target were given, by the Makefile's variables."""
    words = (installed / "arguments").read_text().split("\0")
    options = dict(word.partition("=")[::2] for word in words) | dict(itertools.pairwise(words))
    environment = dict(entry.partition("=")[::2] for entry in (installed / "environment").read_text().split("\0"))
    found = {name: options[option] for option, name in OPTIONS.get(target, {}).items()}
    return found | {name: environment[name] for name in ENVIRONMENT.get(target, [])}


@pytest.mark.parametrize("target", sorted({*OPTIONS, *ENVIRONMENT}))
@pytest.mark.parametrize("origin", ["command line", "environment", "environment, with -e"])
def test_a_value_arrives_as_it_was_given_and_is_never_run(origin: str, target: str, installed: Path) -> None:
    names = [*OPTIONS.get(target, {}).values(), *ENVIRONMENT.get(target, [])]
    before = {path.name for path in installed.iterdir()}
    if origin == "command line":
        make_installed(installed, target, *(f"{name}={AWKWARD}" for name in names))
    else:
        make_installed(installed, *(["-e"] if "-e" in origin else []), target, **dict.fromkeys(names, AWKWARD))
    assert arrived(installed, target) == dict.fromkeys(names, AWKWARD)
    assert {path.name for path in installed.iterdir()} - before == {"arguments", "environment"}


def test_a_value_of_custom_mk_is_evaluated_as_makefiles_are(installed: Path) -> None:
    (installed / "custom.mk").write_text('NAMESPACE = video\nSETTINGS = my "$(NAMESPACE)" settings.yaml\n')
    make_installed(installed, "deploy")
    given = arrived(installed, "deploy")
    assert (given["NAMESPACE"], given["SETTINGS"]) == ("video", 'my "video" settings.yaml')


def test_python_s_name_may_hold_any_character(checkout: Path) -> None:
    done = make(checkout, "install", f"PYTHON={AWKWARD}")
    assert f"{AWKWARD} was not found" in done.stderr
    assert not (checkout / "pwned").exists()


def test_every_variable_is_handed_over_or_words_of_a_command_line() -> None:
    text = (ROOT / "Makefile").read_text()
    variables = re.findall(r"^([A-Z][A-Z0-9_]*) \?=", text, re.MULTILINE)
    handed = {name for options in OPTIONS.values() for name in options.values()}
    handed |= {name for names in ENVIRONMENT.values() for name in names}
    assert sorted(variables) == sorted((handed | {"PYTHON", *WORDS}) - {"KUBE_CONTEXT"})
    recipes = "\n".join(line for line in text.splitlines() if line.startswith("\t"))
    assert set(re.findall(r"\$\(([A-Z][A-Z0-9_]*)\)", recipes)) & set(variables) == {"TEST_ARGS", "LOCK_ARGS"}

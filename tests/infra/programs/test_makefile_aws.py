"""The targets of infra/aws.mk: a dry run calls nothing, and values arrive as they were given."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from infra.settings import PREFIX, WITHOUT_MEANING, InfraSettings

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "infra/aws.mk").read_text()
TARGETS = re.findall(r"^([a-z][a-z-]*): .*## ", TEXT, re.MULTILINE)
VARIABLES = re.findall(r"^([A-Z][A-Z0-9_]*) \?=", TEXT, re.MULTILINE)
FILES = ("Makefile", "infra/aws.mk", "pyproject.toml", "setup.py")
OF_THE_MAKEFILE = ("NAMESPACE", "IMAGE_REPOSITORY", "IMAGE_TAG", "CONTAINER_BUILD")
MODULES = {
    "preflight": "preflight", "create-role": "role", "create-cluster": "stack", "update-kubeconfig": "kubeconfig",
    "install-argo": "install_argo", "push-images": "push", "status": "status", "cost": "cost",
    "delete-cluster": "cleanup", "delete-role": "delete_role",
}  # fmt: skip
"""Those that there are to be, with their programs."""
AWKWARD = 'it\'s "quoted"  $HOME `touch pwned` $(touch pwned) $(shell touch pwned) a;b & * é"; touch pwned; echo "'
SHOW = '#!/bin/sh\nenv -0 > "$(dirname "$0")/../../environment"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its name, in which the Makefile stands, and nothing is installed."""
    folder = tmp_path / "my checkout"
    (folder / "infra").mkdir(parents=True)
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def installed(checkout: Path) -> Path:
    """The same with a Python that notes its environment."""
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(SHOW)
    python.chmod(0o755)
    (checkout / ".venv/.installed-local").touch()
    return checkout


def make(
    checkout: Path, *arguments: str, environment: dict[str, str] | None = None, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program is not None
    command = [program, "--no-print-directory", *arguments]
    variables = {"PATH": path or os.environ["PATH"], **(environment or {})}
    return subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, timeout=60, check=False)


def arrived(checkout: Path) -> dict[str, str]:
    """What the program was given."""
    entries = (checkout / "environment").read_text().split("\0")
    pairs = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {name.removeprefix(PREFIX): value for name, value in pairs.items() if name.startswith(PREFIX)}


def files(checkout: Path) -> set[str]:
    return {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}


def test_the_targets_of_the_issue_are_there() -> None:
    assert sorted(TARGETS) == sorted(MODULES)


def test_every_target_is_phony_and_has_one_line_for_help() -> None:
    listed = re.search(r"^aws-targets := (.*)$", TEXT, re.MULTILINE)
    assert listed is not None
    assert sorted(listed[1].split()) == sorted(TARGETS)
    assert ".PHONY: $(aws-targets)" in TEXT


def test_every_variable_is_handed_on_and_known() -> None:
    block = TEXT.partition("aws-variables := ")[2].partition("\n\n")[0]
    handed = block.replace("\\", "").split()
    assert sorted(handed) == sorted([*VARIABLES, *OF_THE_MAKEFILE])
    known = {name.upper() for name in InfraSettings.model_fields} | set(WITHOUT_MEANING) | {"EI_TYPE"}
    assert set(handed) == known


@pytest.mark.parametrize("target", TARGETS)
def test_a_dry_run_calls_nothing_with_no_credentials_in_an_empty_environment(
    target: str, checkout: Path, tmp_path: Path
) -> None:
    done = make(checkout, "-n", target, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f".venv/bin/python -m infra.{MODULES[target]}" in done.stdout
    assert files(checkout) == set(FILES)


def test_a_dry_run_where_all_is_installed_prints_the_program_s_call_alone(installed: Path) -> None:
    assert make(installed, "-n", "create-cluster").stdout == ".venv/bin/python -m infra.stack\n"


def test_every_target_has_its_program() -> None:
    for module in MODULES.values():
        assert (ROOT / f"infra/{module}.py").is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_a_dry_run_with_every_variable_overridden_by_spaces_and_quotes_calls_nothing(
    target: str, checkout: Path, tmp_path: Path
) -> None:
    given = [f'{name}=it\'s "a  b"; touch pwned' for name in (*VARIABLES, *OF_THE_MAKEFILE)]
    done = make(checkout, "-n", target, *given, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert files(checkout) == set(FILES)


@pytest.mark.parametrize("target", TARGETS)
def test_with_nothing_set_the_programs_have_their_defaults(target: str, installed: Path) -> None:
    assert make(installed, target).returncode == 0
    given = arrived(installed)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    own = {"NAMESPACE": "", "IMAGE_REPOSITORY": "reelscan", "IMAGE_TAG": version, "CONTAINER_BUILD": ""}
    assert {name: given.pop(name) for name in OF_THE_MAKEFILE} == own
    read = InfraSettings.from_environment({f"{PREFIX}{name}": value for name, value in given.items()})
    assert read.model_dump(exclude={"az_0", "az_1", "inference_node_instance_type"}) == InfraSettings().model_dump(
        exclude={"az_0", "az_1", "inference_node_instance_type"}
    )
    assert (read.zones, read.inference_type) == (InfraSettings().zones, InfraSettings().inference_type)


def test_values_of_the_command_line_arrive_with_spaces_quotes_and_dollars(installed: Path) -> None:
    names = (*VARIABLES, *OF_THE_MAKEFILE)
    done = make(installed, "create-cluster", *(f"{name}={AWKWARD}" for name in names))
    assert done.returncode == 0, done.stderr
    assert arrived(installed) == dict.fromkeys(names, AWKWARD)
    assert "pwned" not in files(installed)


def test_values_of_the_environment_arrive_with_spaces_quotes_and_dollars(installed: Path) -> None:
    names = (*VARIABLES, *OF_THE_MAKEFILE)
    done = make(installed, "create-cluster", environment=dict.fromkeys(names, AWKWARD))
    assert done.returncode == 0, done.stderr
    assert arrived(installed) == dict.fromkeys(names, AWKWARD)
    assert "pwned" not in files(installed)


def test_values_of_custom_mk_arrive_evaluated_as_makefiles_are(installed: Path) -> None:
    (installed / "custom.mk").write_text(
        "CLUSTER_STACK_NAME = clips\nCLUSTER_NAME = $(CLUSTER_STACK_NAME)-1\nREGION = eu-west-1\n"
        'SSH_KEY_NAME = my "key"\'s\n'
    )
    assert make(installed, "create-cluster").returncode == 0
    given = arrived(installed)
    assert (given["CLUSTER_NAME"], given["REGION"], given["SSH_KEY_NAME"]) == ("clips-1", "eu-west-1", 'my "key"\'s')
    assert (given["AZ_0"], given["AZ_1"]) == ("eu-west-1a", "eu-west-1b")


def test_the_command_line_goes_before_custom_mk_s_usual_settings(installed: Path) -> None:
    (installed / "custom.mk").write_text("REGION ?= eu-west-1\n")
    assert make(installed, "cost", "REGION=eu-central-1").returncode == 0
    assert arrived(installed)["REGION"] == "eu-central-1"


def test_gpus_bring_their_instance_type(installed: Path) -> None:
    assert make(installed, "cost", "ACCELERATOR=gpu").returncode == 0
    assert arrived(installed)["INFERENCE_NODE_INSTANCE_TYPE"] == "g6.xlarge"


def test_a_refused_setting_ends_with_status_2_and_one_line(installed: Path) -> None:
    (installed / ".venv/bin/python").write_text(f'#!/bin/sh\ncd "{ROOT}" && exec "{sys.executable}" "$@"\n')
    done = make(installed, "cost", "BOOTSTRAP=--kubelet-extra-args --node-labels=a=b")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("cost: BOOTSTRAP='--kubelet-extra-args --node-labels=a=b' means nothing today: ")
    assert "Error 2" in lines[1]
    assert len(lines) == 2

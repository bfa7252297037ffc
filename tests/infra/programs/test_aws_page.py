"""docs/aws.md: each command is one that there is, and against moto prints what the page shows.

moto cannot make all of infra/cluster.yaml: it is given those of its resources that it can, and an EKS cluster beside
them.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from infra import cleanup, preflight, stack, status
from infra.command import main
from infra.session import Aws
from infra.settings import PREFIX
from infra.template import Template
from steps.cli import cli
from tests.infra.programs.conftest import write_program
from tests.infra.programs.test_makefile_aws import MODULES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/aws.md").read_text()
ASK_NOTHING_OF_AWS = ("make cost", "make preflight ACCELERATOR=eia", "make create-cluster DEFAULT_SQS_TASK_VISIBILITY")
NEW_EACH_TIME = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Shown(NamedTuple):
    """A command of the page.

    Attributes:
        command: as a shell takes it.
        output: that the page shows; none: whatever it is.
        is_run: whether it is run here.
    """

    command: str
    output: str
    is_run: bool


def shown() -> list[Shown]:
    found, before = [], 0
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        is_marked = "*(moto" in PAGE[before : block.start()]
        before = block.end()
        for part in re.split(r"^\$ ", block[2], flags=re.MULTILINE)[1:]:
            command, _, output = re.sub(r"\\\n\s*", "", part).partition("\n")
            found.append(Shown(command, output, is_marked or command.startswith(ASK_NOTHING_OF_AWS)))
    return found


SHOWN = shown()


def differences(expected: str, printed: str) -> str:
    """Nothing, or both, if what was printed is not as the page shows: `...` is anything, and no id comes twice."""
    lines = [re.escape(re.sub(NEW_EACH_TIME, "ID", line.rstrip())) for line in expected.splitlines()]
    pattern = "\n".join(lines).replace("\\.\\.\\.", "(.|\n)*?")
    text = "\n".join(re.sub(NEW_EACH_TIME, "ID", line.rstrip()) for line in printed.splitlines())
    return "" if re.fullmatch(pattern, text) else f"the page:\n{expected}\nthe command:\n{printed}"


@pytest.mark.parametrize("command", [each.command for each in SHOWN if "make" in each.command.split()])
def test_every_target_and_variable_shown_is_the_makefile_s(command: str) -> None:
    text = (ROOT / "Makefile").read_text() + (ROOT / "infra/aws.mk").read_text()
    words = shlex.split(command)
    given = words[words.index("make") + 1 :]
    variables = {word.partition("=")[0] for word in given if "=" in word}
    assert variables <= set(re.findall(r"^([A-Z][A-Z0-9_]*) \?=", text, re.MULTILINE))
    targets = {word for word in given if "=" not in word and word != "-n"}
    assert targets
    assert targets <= set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def test_variables_of_the_settings_shown_are_the_makefile_s() -> None:
    (block,) = re.findall(r"^```make\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    known = re.findall(r"^([A-Z][A-Z0-9_]*) \?=", (ROOT / "infra/aws.mk").read_text(), re.MULTILINE)
    assert {line.partition(" =")[0] for line in block.splitlines()} <= set(known)


@pytest.mark.parametrize("command", [each.command for each in SHOWN if each.command.startswith("reelscan ")])
def test_every_option_of_reelscan_shown_is_one(command: str) -> None:
    name, *words = shlex.split(command)[1:]
    found = cli.get_command(cli.make_context("reelscan", [], resilient_parsing=True), name)
    assert found is not None
    found.make_context(name, words)


def test_reelscan_is_called_after_the_page_has_put_it_on_the_path_and_named_the_region() -> None:
    commands = [each.command for each in SHOWN]
    first = next(at for at, command in enumerate(commands) if command.startswith(("reelscan ", "aws ")))
    assert ". .venv/bin/activate" in commands[:first]
    assert "export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1" in commands[:first]


class Shell:
    """Runs commands of the page where AWS is moto, with the small template."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._captured = captured

    def run(self, command: str) -> str:
        """What it prints."""
        words = shlex.split(command)
        if words[0] == "export":
            for word in words[1:]:
                self._monkeypatch.setenv(*word.split("=", 1))
            return ""
        if words[0] == "make":
            return self._make(words[1], dict(word.split("=", 1) for word in words[2:]))
        if words[:2] == ["aws", "sqs"]:
            # To it a queue's URL goes before AWS_ENDPOINT_URL.
            words += ["--endpoint-url", os.environ["AWS_ENDPOINT_URL"]]
        program = [sys.executable, "-m", "steps"] if words[0] == "reelscan" else words[:1]
        done = subprocess.run([*program, *words[1:]], capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr

    def _make(self, target: str, variables: dict[str, str]) -> str:
        """In this process, which has the small template."""
        if target == "update-kubeconfig":
            self._make_cluster()
        if target == "delete-cluster":
            # Its own part is done.
            Aws("us-east-1").eks.delete_cluster(name="reelscan")
        module = importlib.import_module(f"infra.{MODULES[target]}")
        with self._monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(PREFIX + name, value)
            main(target, getattr(module, target.replace("-", "_")))
        printed = self._captured.readouterr()
        return printed.out + printed.err

    def _make_cluster(self) -> None:
        cloud = Aws("us-east-1")
        role = cloud.iam.create_role(RoleName="eks", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        access = {"subnetIds": ["subnet-1"], "endpointPublicAccess": True, "endpointPrivateAccess": True}
        cloud.eks.create_cluster(name="reelscan", version="1.35", roleArn=role, resourcesVpcConfig=access)


@pytest.fixture
def shell(
    small: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    for module in (stack, status, cleanup, preflight):
        monkeypatch.setattr(module, "CLUSTER", small.path)
    home, programs = tmp_path / "home", tmp_path / "programs"
    (home / ".aws").mkdir(parents=True)
    programs.mkdir()
    # Of a user who is logged in, in files, beside which there may be profiles.
    (home / ".aws/credentials").write_text("[default]\naws_access_key_id = tests\naws_secret_access_key = tests\n")
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    for name in ("kubectl", "git", "docker"):
        write_program(programs / name, "")
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    shutil.copy(next((ROOT / "samples").glob("*.mp4")), home / "sample.mp4")
    monkeypatch.chdir(home)
    return Shell(monkeypatch, capsys)


@pytest.mark.usefixtures("cloud")
@pytest.mark.skipif(shutil.which("aws") is None, reason="AWS' program is not installed")
def test_from_nothing_to_a_task_to_nothing_the_page_shows_what_is_printed(shell: Shell, tmp_path: Path) -> None:
    wrong = []
    for each in SHOWN:
        if each.is_run:
            printed = shell.run(each.command).replace(str(tmp_path / "home"), "/home/me")
            # Who calls moto.
            printed = printed.replace("arn:aws:sts::123456789012:user/moto", "arn:aws:iam::123456789012:user/me")
            different = differences(each.output, printed) if each.output else ""
            wrong += [f"$ {each.command}\n{different}"] if different else []
    assert not wrong, "\n".join(wrong)

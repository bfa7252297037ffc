"""`make push-images`: what was built comes to the stack's repositories, and the password to nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from infra import push
from infra.session import Aws
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template
from steps.errors import OutsideError, UsageError
from tests.infra.programs.conftest import write_program

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
TOOL = """\
import json, pathlib, sys
here = pathlib.Path(__file__).parent
stdin = sys.stdin.read() if "--password-stdin" in sys.argv else None
with (here / "calls.txt").open("a") as calls:
    calls.write(json.dumps([sys.argv[1:], stdin]) + "\\n")
if "inspect" in sys.argv:
    sys.exit(sys.argv[-1] not in (here / "images.txt").read_text().split())
if "push" in sys.argv and (here / "refuses").exists():
    sys.exit("denied: no basic auth credentials")
"""


class Tool:
    """A container tool that notes how it is called."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.path = folder / kind
        write_program(self.path, TOOL)
        self.has("reelscan/steps:1.2.3", "reelscan/serving:1.2.3")

    def has(self, *images: str) -> None:
        (self.folder / "images.txt").write_text("\n".join(images))

    @property
    def calls(self) -> list[tuple[list[str], str | None]]:
        return [tuple(json.loads(line)) for line in (self.folder / "calls.txt").read_text().splitlines()]

    @property
    def pushed(self) -> list[str]:
        return [arguments[-1] for arguments, _ in self.calls if arguments[0] == "push"]


@pytest.fixture
def tool(request: pytest.FixtureRequest, tmp_path: Path) -> Tool:
    return Tool(tmp_path, getattr(request, "param", "docker"))


OUTPUTS = Stack.outputs
every_tool = pytest.mark.parametrize("tool", ["docker", "podman", "buildah"], indirect=True)


@pytest.fixture
def asked(tool: Tool, settings: InfraSettings) -> InfraSettings:
    return settings.model_copy(update={"container_build": str(tool.path)})


@pytest.fixture(autouse=True)
def made(cloud: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stack has of it."""
    told = {}
    for name in ("steps", "serving"):
        found = cloud.ecr.create_repository(repositoryName=f"reelscan/{name}")["repository"]
        told[f"{name.capitalize()}RepositoryUri"] = found["repositoryUri"]
    monkeypatch.setattr(Stack, "outputs", lambda _: told)


@every_tool
def test_images_come_to_the_stack_s_repositories_under_their_tag(
    tool: Tool, asked: InfraSettings, console: Console
) -> None:
    push.push_images(asked, console)
    assert tool.pushed == [f"{HOST}/reelscan/steps:1.2.3", f"{HOST}/reelscan/serving:1.2.3"]
    tagged = [arguments for arguments, _ in tool.calls if arguments[0] == "tag"]
    assert tagged[0] == ["tag", "reelscan/steps:1.2.3", f"{HOST}/reelscan/steps:1.2.3"]


@every_tool
def test_the_password_goes_by_standard_input_and_is_printed_nowhere(
    tool: Tool, asked: InfraSettings, cloud: Aws, console: Console
) -> None:
    push.push_images(asked, console)
    secret = push.login(cloud).password
    logins = [(arguments, stdin) for arguments, stdin in tool.calls if arguments[0] == "login"]
    assert logins == [(["login", "--username=AWS", "--password-stdin", HOST], secret)]
    assert not any(secret in argument for arguments, _ in tool.calls for argument in arguments)
    assert secret not in console.file.getvalue()  # type: ignore[attr-defined]
    assert secret not in repr(push.login(cloud))


def test_a_serving_image_that_was_not_built_is_left_out_and_said(
    tool: Tool, asked: InfraSettings, console: Console
) -> None:
    tool.has("reelscan/steps:1.2.3")
    push.push_images(asked, console)
    assert tool.pushed == [f"{HOST}/reelscan/steps:1.2.3"]
    assert "left out  reelscan/serving:1.2.3" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_the_steps_image_it_says_how_to_build_it(tool: Tool, asked: InfraSettings, console: Console) -> None:
    tool.has()
    with pytest.raises(UsageError, match=r"has no image reelscan/steps:1.2.3: build it with `make images`"):
        push.push_images(asked, console)


def test_a_tag_that_is_there_is_not_pushed_again(
    tool: Tool, asked: InfraSettings, cloud: Aws, console: Console
) -> None:
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": []})
    cloud.ecr.put_image(repositoryName="reelscan/steps", imageManifest=manifest, imageTag="1.2.3")
    push.push_images(asked, console)
    assert tool.pushed == [f"{HOST}/reelscan/serving:1.2.3"]
    assert f"is there  {HOST}/reelscan/steps:1.2.3" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_the_registry_says_against_it_is_told(tool: Tool, asked: InfraSettings, console: Console) -> None:
    (tool.folder / "refuses").touch()
    with pytest.raises(OutsideError, match=r"denied: no basic auth credentials"):
        push.push_images(asked, console)


def test_repositories_scan_and_never_move_a_tag() -> None:
    for name in ("StepsRepository", "ServingRepository"):
        found = Template(CLUSTER).resources[name]["Properties"]
        assert found["ImageTagMutability"] == "IMMUTABLE"
        assert found["ImageScanningConfiguration"] == {"ScanOnPush": True}


def test_without_a_stack_it_says_to_make_one(
    asked: InfraSettings, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "outputs", OUTPUTS)
    monkeypatch.setattr(Stack, "find", lambda _: None)
    with pytest.raises(UsageError, match=r"has no such stack: `make create-cluster`"):
        push.push_images(asked, console)

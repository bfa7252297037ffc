"""`make images`, with programs that stand for the container tools and write down what they were asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from images.build import main, stage_serving
from images.tool import KINDS, Tool, ToolError, find_tool
from tests.images.archives import write_archive

ROOT = Path(__file__).parents[2]

# Writes its arguments down and, when it is to save an image, copies the one that is there.
TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$TOOL_LOG"
for argument; do
  case $argument in
    --output=*) cp "$TOOL_IMAGE" "${argument#--output=}" ;;
    docker-archive:*) path=${argument#docker-archive:}; cp "$TOOL_IMAGE" "${path%%:*}" ;;
    --file=*) cp "${argument#--file=}" "$TOOL_LOG.dockerfile" ;;
  esac
done
exit "${TOOL_STATUS:-0}"
"""


@dataclass
class Tools:
    """A folder for PATH with the named tools and nothing else of that kind."""

    folder: Path
    log: Path

    def add(self, *kinds: str) -> None:
        for kind in kinds:
            (self.folder / kind).write_text(TOOL)
            (self.folder / kind).chmod(0o755)

    def calls(self) -> list[str]:
        """Each call, as a line, but for those that ask whether the tool works."""
        return [line for line in self.log.read_text().splitlines() if line != "docker version"]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    folder = tmp_path / "tools"
    folder.mkdir()
    write_archive(tmp_path / "image.tar", [{"usr/lib/libc.so": bytes(1_000_000)}, {"opt/reelscan/x": bytes(500_000)}])
    for program in ("sh", "basename", "cp"):
        found = shutil.which(program)
        assert found is not None
        (folder / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TOOL_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("TOOL_IMAGE", str(tmp_path / "image.tar"))
    return Tools(folder, tmp_path / "log")


def make_images(*options: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [
            sys.executable, "-m", "images.build", "--repository=acme", "--tag=1.2", "--serving-version=2.20.0-gpu",
            "--model-name=ssd", *options,
        ],
        capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


def test_the_first_installed_tool_is_taken_docker_before_podman_before_buildah(tools: Tools) -> None:
    for kind in reversed(KINDS):
        tools.add(kind)
        assert find_tool() == Tool((kind,))


def test_docker_without_its_daemon_is_passed_over(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools.add("docker", "buildah")
    monkeypatch.setenv("TOOL_STATUS", "1")
    assert find_tool().kind == "buildah"
    assert find_tool("docker").kind == "docker"


def test_a_set_tool_is_taken_with_its_arguments(tools: Tools) -> None:
    tools.add(*KINDS)
    tool = find_tool("buildah --storage-driver overlay", "--isolation chroot --label 'a b'")
    assert tool == Tool(("buildah", "--storage-driver", "overlay"), ("--isolation", "chroot", "--label", "a b"))
    assert find_tool(f"{tools.folder}/podman").kind == "podman"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("", "no container tool that works: install docker or podman or buildah, or set CONTAINER_BUILD"),
        ("kaniko", "CONTAINER_BUILD is 'kaniko'; known are docker, podman, buildah"),
        ("podman --remote", "there is no program 'podman'"),
    ],
)
def test_without_a_tool_the_error_names_what_is_known(tools: Tools, setting: str, words: str) -> None:
    with pytest.raises(ToolError) as raised:
        find_tool(setting)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "build", "save"),
    [
        ("docker", "docker build --x", "docker save --output="),
        ("podman", "podman build --x", "podman save --quiet --format=docker-archive --output="),
        ("buildah", "buildah bud --layers --x", "buildah push --quiet acme/steps:1.2 docker-archive:/"),
    ],
)
def test_each_tool_builds_and_saves_in_its_own_words(tools: Tools, kind: str, build: str, save: str) -> None:
    tools.add(kind)
    make_images(f"--tool={kind}", "--tool-arguments=--x")
    built, saved = tools.calls()
    assert built.startswith(
        f"{build} --file={ROOT}/images/steps/Dockerfile --tag=acme/steps:1.2 --build-arg=VERSION=1.2 "
    )
    assert built.endswith(f" {ROOT}")
    assert saved.startswith(save)


def test_without_a_model_it_says_that_serving_was_not_built_and_how_to(tools: Tools) -> None:
    tools.add("docker")
    said = make_images().stdout
    assert "     1.5 MB  unpacked\n" in said
    assert said.endswith(
        "built      acme/steps:1.2 with docker\n"
        "not built  acme/serving:1.2: it needs a model; set SERVING_MODEL to the folder of a SavedModel\n"
    )


def test_with_a_model_serving_is_built_from_it_with_the_steps_just_built(tools: Tools, tmp_path: Path) -> None:
    tools.add("podman")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").touch()
    said = make_images(f"--serving-model={tmp_path}/model").stdout
    serving = tools.calls()[-1].split()
    assert serving[:2] == ["podman", "build"]
    assert [word for word in serving if word.startswith(("--tag", "--build-arg"))] == [
        "--tag=acme/serving:1.2",
        "--build-arg=VERSION=2.20.0-gpu",
        "--build-arg=STEPS=acme/steps:1.2",
        "--build-arg=MODEL_NAME=ssd",
    ]
    assert Path(f"{tools.log}.dockerfile").read_text() == (ROOT / "images" / "serving" / "Dockerfile").read_text()
    assert said.endswith(f"built      acme/serving:1.2: ssd from {tmp_path}/model\n")


def test_the_context_of_serving_holds_all_that_its_dockerfile_copies(tmp_path: Path) -> None:
    (tmp_path / "models" / "ssd" / "1").mkdir(parents=True)
    (tmp_path / "models" / "reelscan.json").write_text("beside")
    folder = tmp_path / "context"
    folder.mkdir()
    stage_serving(tmp_path / "models" / "ssd", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["Dockerfile", "model", "prepare.py", "serve"]
    assert (folder / "model" / "reelscan.json").read_text() == "beside"
    assert os.access(folder / "serve", os.X_OK)


def test_a_profile_in_the_models_folder_goes_before_one_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "reelscan.json").write_text("beside")
    (model / "reelscan.json").write_text("inside")
    folder = tmp_path / "context"
    folder.mkdir()
    stage_serving(model, folder)
    assert (folder / "model" / "reelscan.json").read_text() == "inside"


def test_a_model_that_is_no_folder_is_told_beside_what_was_built(tools: Tools, tmp_path: Path) -> None:
    tools.add("docker")
    said = make_images(f"--serving-model={tmp_path}/absent", status=2).stdout
    assert said.endswith(
        "built      acme/steps:1.2 with docker\n"
        f"not built  acme/serving:1.2: SERVING_MODEL is '{tmp_path}/absent': "
        "name the folder of a SavedModel, or of its versions\n"
    )


def test_a_tool_that_fails_is_named_with_what_it_was_asked(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools.add("podman")
    monkeypatch.setenv("TOOL_STATUS", "125")
    said = make_images(status=2).stderr
    assert said.startswith("images: building acme/steps:1.2 failed with status 125: podman build ")


def test_an_image_over_a_limit_is_built_but_fails(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.add("docker")
    monkeypatch.setattr("images.size.UNPACKED_LIMIT_MB", 1)
    options = ["--repository=acme", "--tag=1.2", "--serving-version=2.20.0", "--model-name=ssd"]
    monkeypatch.setattr("sys.argv", ["images", *options])
    assert main() == 1
    said = capsys.readouterr()
    assert said.err == "images: acme/steps:1.2 is too large: unpacked it has 1.5 MB, 1 MB at most are allowed\n"
    assert "built      acme/steps:1.2" in said.out

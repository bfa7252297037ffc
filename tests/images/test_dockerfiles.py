"""What the Dockerfiles promise. Style is hadolint's (`make lint`)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from steps.settings import Settings

ROOT = Path(__file__).parents[2]
STEPS, SERVING = ROOT / "images" / "steps" / "Dockerfile", ROOT / "images" / "serving" / "Dockerfile"
BOTH = [pytest.param(STEPS, id="steps"), pytest.param(SERVING, id="serving")]


@dataclass
class Stage:
    """A stage: what it starts from, its name, and its instructions in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]]

    def values(self, word: str) -> list[str]:
        return [value for instruction, value in self.instructions if instruction == word]


def read(path: Path) -> tuple[dict[str, str], list[Stage]]:
    """The build arguments before the first stage, and the stages."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = [line.split(None, 1) for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for word, value in lines:
        if word == "FROM":
            base, _, name = value.partition(" AS ")
            stages.append(Stage(base, name, []))
        elif stages:
            stages[-1].instructions.append((word, value))
        else:
            name, _, default = value.partition("=")
            arguments[name] = default
    return arguments, stages


def lineage(stages: list[Stage], stage: Stage) -> list[tuple[str, str]]:
    """All instructions of a stage, those of the stages it starts from first."""
    before = next((other for other in stages if other.name == stage.base), None)
    return [*(lineage(stages, before) if before else []), *stage.instructions]


@pytest.mark.parametrize("path", BOTH)
def test_every_base_has_a_fixed_tag(path: Path) -> None:
    arguments, stages = read(path)
    names = {stage.name for stage in stages}
    for stage in stages:
        base = stage.base
        while "${" in base:
            base = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)
        assert base in names or re.fullmatch(r"[a-z./]+:\d[\w.-]+", base), stage.base


def test_public_bases_are_named_with_their_registry() -> None:
    """Podman and Buildah know no default one."""
    assert read(STEPS)[0]["BASE"].startswith("docker.io/library/")
    assert read(SERVING)[0]["BASE"].startswith("docker.io/")


@pytest.mark.parametrize("path", BOTH)
def test_what_runs_is_a_numbered_user_who_is_not_root(path: Path) -> None:
    _, stages = read(path)
    users = [value for word, value in lineage(stages, stages[-1]) if word == "USER"]
    assert users[-1] == "1000:1000"


@pytest.mark.parametrize("path", BOTH)
def test_the_entry_point_gets_signals_itself(path: Path) -> None:
    _, stages = read(path)
    entries = [value for word, value in lineage(stages, stages[-1]) if word == "ENTRYPOINT"]
    assert len(entries) == 1
    assert re.fullmatch(r'\["[\w/]+"\]', entries[0])


@pytest.mark.parametrize("path", BOTH)
def test_nothing_is_fetched_but_packages_by_digest(path: Path) -> None:
    _, stages = read(path)
    for stage in stages:
        assert stage.values("ADD") == []
        for command in (part for value in stage.values("RUN") for part in value.split("&&")):
            assert not re.search(r"\b(curl|wget|git|apt-get|npm)\b", command), command
            if "pip" in command.split("/")[-1].split()[0] and " install " in command:
                assert "--require-hashes" in command or "--no-index" in command, command


@pytest.mark.parametrize("path", BOTH)
def test_no_secret_is_asked_for_or_kept(path: Path) -> None:
    arguments, stages = read(path)
    given = [*arguments, *(value for stage in stages for word in ("ARG", "ENV") for value in stage.values(word))]
    assert not [value for value in given if re.search(r"secret|token|password|credential|_key", value, re.IGNORECASE)]


def test_the_steps_are_built_by_default_and_not_from_the_embedded_server() -> None:
    _, stages = read(STEPS)
    assert stages[-1].name == "steps"
    copied = [value for word, value in lineage(stages, stages[-1]) if word == "COPY"]
    assert not [value for value in copied if "serve" in value or "samples" in value]


def test_no_builder_is_in_what_is_shipped() -> None:
    _, stages = read(STEPS)
    runs = {stage.name: [word for word, _ in lineage(stages, stage)] for stage in stages}
    assert "RUN" not in runs["steps"]
    assert "RUN" not in runs["embedded"]


def test_own_code_comes_after_all_packages() -> None:
    _, stages = read(STEPS)
    for name in ("steps", "embedded"):
        (stage,) = (stage for stage in stages if stage.name == name)
        assert stage.values("COPY")[-1] == "--from=project /project /"


def test_every_package_that_runs_in_pods_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    _, stages = read(STEPS)
    (stage,) = (stage for stage in stages if stage.name == "project")
    # workflows/ renders manifests with Hera, before there are pods.
    assert packages - {"workflows"} <= {value.split()[0] for value in stage.values("COPY")}


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    _, stages = read(STEPS)
    sources = {
        source
        for stage in stages
        for value in stage.values("COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert {source if source in allowed else str(Path(source).parent) for source in sources} == allowed


def test_serving_is_prepared_as_the_steps_will_use_it() -> None:
    arguments, stages = read(SERVING)
    defaults = dict(value.split("=") for value in stages[0].values("ARG"))
    assert defaults["MODEL_NAME"] == Settings.model_fields["model_name"].default
    assert int(defaults["BATCH_SIZE"]) == Settings.model_fields["batch_size"].default
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert arguments["STEPS"] == f"reelscan/steps:{project['version']}"


def test_the_makefile_and_the_dockerfile_name_the_same_tensorflow_serving() -> None:
    arguments, _ = read(SERVING)
    found = re.search(r"^SERVING_VERSION \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    assert arguments["VERSION"] == found[1]

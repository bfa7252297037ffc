"""What docs/workflow.md shows works, as far as no cluster is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hera.workflows import WorkflowTemplate

from tests.kubernetes.validation import validate
from workflows.submit import read_submission

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "workflow.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the first example in Python makes."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    return names


@pytest.mark.parametrize("version", ["3.7", "4.0"])
def test_settings_can_be_changed_and_a_step_added_in_python(version: str, example: dict[str, Any]) -> None:
    template: WorkflowTemplate = example["template"]
    rendered = template.to_dict()
    assert validate(rendered, version) == []
    templates = {each["name"]: each for each in rendered["spec"]["templates"]}
    assert rendered["spec"]["entrypoint"] == "main-and-tell"
    assert templates["tell"]["container"]["image"] == "busybox"
    (main, tell) = templates["main-and-tell"]["dag"]["tasks"]
    assert (main["template"], tell["template"], tell["depends"]) == ("main", "tell", "main")
    # The settings come from the file and from what was given besides.
    assert templates["analyse"]["parallelism"] == 12
    assert rendered["metadata"]["namespace"] == "video"


def test_the_second_example_compiles_and_names_what_hera_has() -> None:
    second = blocks("python")[1]
    compile(second, "docs/workflow.md", "exec")
    exec("\n".join(line for line in second.splitlines() if line.startswith("from ")), {})


@pytest.mark.parametrize("version", ["3.7", "4.0"])
def test_the_workflow_for_kubectl_is_valid(version: str) -> None:
    (text,) = blocks("yaml")
    document = yaml.safe_load(text)
    assert validate(document, version) == []


def test_the_error_that_it_shows_is_the_one_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("retries: 2\n")
    command, answer = re.findall(r"^\$ reelscan (template .*imge.*)\n(.*)$", PAGE, re.MULTILINE)[0]
    done = subprocess.run(
        [sys.executable, "-m", "steps", *command.split()], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr == f"{answer}\n"


def test_the_options_that_it_shows_are_understood() -> None:
    found = re.findall(r"make submit VIDEO=(\S+)(?: OPTIONS='(.*?)')?", PAGE)
    assert len(found) >= 2
    for video, options in found:
        assert read_submission(video, options).bucket == "example-videos"


def test_every_setting_that_it_names_in_its_tables_is_one() -> None:
    from workflows.settings import Resources, WorkflowSettings

    known = {*WorkflowSettings.model_fields, *Resources.model_fields}
    limits = PAGE[PAGE.index("## Limits") : PAGE.index("## Why it is so")]
    named = set(re.findall(r"`([a-z_]+_seconds|parallelism|limits)`", limits))
    assert named
    assert named <= known

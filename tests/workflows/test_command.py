"""`reelscan template`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from workflows import WorkflowSettings, objects


def reelscan(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steps", "template", *arguments],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder, env=os.environ,
    )  # fmt: skip


def test_it_prints_the_template_alone_or_all_objects() -> None:
    expected = objects(WorkflowSettings(retries=1))
    assert list(yaml.safe_load_all(reelscan("--set", "retries=1").stdout)) == expected[-1:]
    assert list(yaml.safe_load_all(reelscan("--all", "--set", "retries=1").stdout)) == expected


def test_it_writes_to_a_file_from_a_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("namespace: video\nlimits: {fps: 2}\n")
    done = reelscan("--settings", "settings.yaml", "--output", "out.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (template,) = yaml.safe_load_all((tmp_path / "out.yaml").read_text())
    assert template["metadata"]["namespace"] == "video"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "retires=4"), "no setting is named retires; the most similar is retries"),
        (("--settings", "/nowhere/settings.yaml"), "/nowhere/settings.yaml: No such file"),
        (("--output", "/nowhere/out.yaml"), "--output /nowhere/out.yaml: No such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = reelscan(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_hera_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "hera.py").write_text("raise ModuleNotFoundError('no hera', name='hera')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "steps", "template"], capture_output=True, text=True, timeout=120, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "reelscan: template needs the package 'hera', which is not installed; pip install '.[workflows]'\n"
    )

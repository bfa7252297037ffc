"""`make deploy` and `make undeploy`, with a stand-in for kubectl that notes how it is called."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from events import deploy

# Of a cluster in which nothing is.
KUBECTL = """#!{python}
import json, pathlib, sys
with pathlib.Path({calls!r}).open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in, which is on PATH, notes its calls."""
    program = tmp_path / "programs/kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL.format(python=sys.executable, calls=str(tmp_path / "calls")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "calls"


@pytest.mark.parametrize("context", ["", "the cluster's"])
def test_all_is_asked_of_the_cluster_of_the_context_that_was_given(context: str, calls: Path) -> None:
    assert deploy.main(["delete", "--namespace=video", f"--context={context}"]) == 0
    (rendered, *asked) = [json.loads(line) for line in calls.read_text().splitlines()]
    assert rendered[0] == "kustomize"
    assert {call[0] for call in asked} == {"delete", "get"}
    # What is deleted says itself of which namespace it is.
    assert all("--namespace=video" in call for call in asked if call[0] == "get")
    contexts = {word for call in asked for word in call if word.startswith("--context")}
    assert contexts == ({f"--context={context}"} if context else set())


def test_a_namespace_whose_reconciler_stands_apart_is_let_go_of_last(calls: Path) -> None:
    arguments = ["--namespace=video", "--set=reconciler_namespace=accounts"]
    assert deploy.main(["delete", *arguments]) == 0
    asked = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [call[1] for call in asked if call[0] == "kustomize"] == ["out/deploy/video", "out/deploy/video/reconciler"]
    assert asked[-1] == ["label", "namespace", "video", f"{deploy.PARALLELISM_LABEL}-", "--overwrite"]

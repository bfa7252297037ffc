"""`make deploy` and `make undeploy`, with a stand-in for kubectl that notes how it is called."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from events import deploy
from steps.errors import UsageError

# Of a cluster in which nothing is but two namespaces, and in the second the reconciler of a third one's runs.
KUBECTL = """#!{python}
import json, pathlib, sys
with pathlib.Path({calls!r}).open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
match sys.argv[1:4]:
    case ["get", "namespace", "video" | "accounts" as name]:
        print("namespace/" + name)
    case ["get", "cronworkflow", _] if "--namespace=accounts" in sys.argv:
        print(json.dumps({{"spec": {{"args": ["--namespace=films"]}}}}))
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


@pytest.mark.parametrize(
    ("namespace", "told"),
    [
        ("absent", "kubectl create namespace absent"),
        ("accounts", "another namespace's runs than those of video; name a namespace of its own"),
    ],
)
def test_a_reconciler_s_namespace_that_cannot_be_its_own_is_told_before_anything_is_changed(
    namespace: str, told: str, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--namespace=video", f"--set=reconciler_namespace={namespace}"]
    assert deploy.main(["apply", *arguments]) == UsageError.exit_status
    assert told in capsys.readouterr().err
    assert {json.loads(line)[0] for line in calls.read_text().splitlines()} == {"kustomize", "get"}


def test_a_namespace_whose_reconciler_stands_apart_is_let_go_of_last(calls: Path) -> None:
    arguments = ["--namespace=video", "--set=reconciler_namespace=accounts"]
    assert deploy.main(["delete", *arguments]) == 0
    asked = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [call[1] for call in asked if call[0] == "kustomize"] == ["out/deploy/video", "out/deploy/video/reconciler"]
    assert asked[-1] == ["label", "namespace", "video", f"{deploy.PARALLELISM_LABEL}-", "--overwrite"]

"""`make submit`, with a stand-in for Argo's program that notes how it is called."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.completed import StepError, completed_from_error
from steps.errors import UsageError
from steps.ledger import Ledger
from steps.settings import Settings
from steps.store import open_store
from steps.task import Received, parse_message
from steps.timestamps import utc_now
from tests.workflows.rendered import ROOT
from workflows.definition import parameters
from workflows.submit import describe, read_submission

UID = "0d9c9d3a-0000-4000-8000-000000000001"
ODD_KEY = 'it\'s "here" $(touch pwned) `touch pwned` $HOME; a=b & *.mp4'

# Answers each call with the file of its number, or with the last one of its kind.
FAKE_ARGO = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
words = sys.argv[1:]
if words[0] == "-n":
    words = words[2:]
if words[0] == "submit":
    if (folder / "refuse").exists():
        sys.exit("time=now level=info\\nworkflowtemplates \\"reelscan\\" not found")
    print("reelscan-abcde")
elif "json" in words:
    states = sorted(folder.glob("state-*"))
    print(states[0].read_text())
    if len(states) > 1:
        states[0].unlink()
else:
    print("the tree   \\n✔ reelscan-abcde  ")
"""


@pytest.fixture
def argo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in's folder, which is on PATH."""
    folder = tmp_path / "argo program"
    folder.mkdir()
    program = folder / "argo"
    program.write_text(FAKE_ARGO.format(python=sys.executable, folder=str(folder)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def calls(argo: Path) -> list[list[str]]:
    return [json.loads(line) for line in (argo / "calls").read_text().splitlines()]


def given(arguments: list[str]) -> dict[str, str]:
    """The parameters of a call."""
    pairs = [arguments[at + 1] for at, word in enumerate(arguments) if word == "-p"]
    return dict(pair.split("=", 1) for pair in pairs)


def workflow(phase: str, results: Path | None = None, **nodes: Any) -> dict[str, Any]:
    ended = phase in ("Succeeded", "Failed", "Error")
    variables = [] if results is None else [{"name": "REELSCAN_RESULTS", "value": str(results)}]
    return {
        "metadata": {"uid": UID, "labels": {"workflows.argoproj.io/completed": "true"} if ended else {}},
        "status": {
            "phase": phase,
            "nodes": nodes,
            "storedWorkflowTemplateSpec": {"templates": [{"name": "main"}, {"container": {"env": variables}}]},
        },
    }


def states(argo: Path, *workflows: dict[str, Any]) -> None:
    for number, each in enumerate(workflows):
        (argo / f"state-{number}").write_text(json.dumps(each))


def make_submit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("make")
    assert program is not None
    # What is installed is taken as it is: this is about the call.
    command = [program, "--no-print-directory", "-C", str(ROOT), "-o", ".venv/.installed-local", "submit", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def store_failure(results: Path) -> None:
    """A completed message in the ledger."""
    settings = Settings()
    (received,) = parse_message(b'{"bucket": "b", "object": "k.mp4"}', UID, settings)
    assert isinstance(received, Received)
    error = StepError.make("not_found", "s3://b/k.mp4 does not exist", "plan")
    completed = completed_from_error(received, error, received_at=utc_now(), attempt=1)
    ledger = Ledger(open_store(str(results), settings).below("ledger"))
    ledger.store.put(ledger.key(UID, 1, ".completed.json"), completed.to_bytes())


def test_any_key_reaches_argo_as_it_is(argo: Path, tmp_path: Path) -> None:
    states(argo, workflow("Running"), workflow("Succeeded"))
    key = ODD_KEY.replace("$", "$$")  # what make makes a dollar of on its command line, and not in its environment
    done = make_submit(f"VIDEO=s3://b/{key}", "OPTIONS=fps=2 'labels=traffic light,person' id='an \"id\"'")
    assert done.returncode == 0, done.stderr
    (submitted, *_) = calls(argo)
    assert submitted[:3] == ["submit", "--from", "workflowtemplate/reelscan"]
    expected = {"bucket": "b", "fps": "2", "labels": "traffic light,person", "id": 'an "id"'}
    assert {name: value for name, value in given(submitted).items() if name != "object"} == expected
    assert given(submitted)["object"].replace("$$", "$") == ODD_KEY
    assert not (ROOT / "pwned").exists()
    assert not (tmp_path / "pwned").exists()


def test_variables_of_the_environment_do_as_well(argo: Path) -> None:
    states(argo, workflow("Succeeded"))
    done = make_submit(VIDEO=f"s3://b/{ODD_KEY}", ENTRYPOINT="single", NAMESPACE="video", TEMPLATE="people")
    assert done.returncode == 0, done.stderr
    (submitted, *others) = calls(argo)
    assert submitted[:6] == ["-n", "video", "submit", "--from", "workflowtemplate/people", "--entrypoint"]
    assert submitted[6] == "single"
    assert given(submitted)["object"] == ODD_KEY
    assert all(call[:2] == ["-n", "video"] for call in others)


def test_a_key_with_double_braces_is_sent_encoded() -> None:
    options = "fps=2 labels=person,car id=x priority=7"
    submission = read_submission("s3://videos/{{workflow.name}} {{=1/0}}.mp4", options)
    arguments = submission.arguments()
    assert "{{" not in " ".join(arguments)
    assert arguments[-2:] == ["--priority", "7"]
    assert set(given(arguments)) == {"body", "title"}
    (received,) = parse_message(base64.b64decode(given(arguments)["body"]), "m", Settings())
    assert received.task is not None
    assert received.task.object == "{{workflow.name}} {{=1/0}}.mp4"
    assert (received.task.options.fps, received.task.options.labels) == (2, ["person", "car"])
    assert received.task.options.priority == 7


def test_only_parameters_of_the_template_are_passed() -> None:
    submission = read_submission("s3://b/k", "start_seconds=1.5 title='A title' priority=3")
    known = {parameter.name for parameter in parameters()}
    assert set(given(submission.arguments())) <= known


@pytest.mark.parametrize(
    ("video", "options", "said"),
    [
        ("clip.mp4", "", "VIDEO='clip.mp4': expected s3://BUCKET/KEY"),
        ("s3://bucket", "", "expected s3://BUCKET/KEY"),
        ("s3:///key", "", "expected s3://BUCKET/KEY"),
        ("s3://b/k", "fsp=2", "no option is named 'fsp'; the most similar is fps"),
        ("s3://b/k", "body=e30=", "no option is named 'body'"),
        ("s3://b/k", "fps", "'fps' is not NAME=VALUE"),
        ("s3://b/k", "fps=many", "'many' is not a number"),
        ("s3://b/k", "min_score=2", "allowed is a number from 0 to 1"),
        ("s3://b/k", "title='open", "No closing quotation"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_submitted(video: str, options: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_submission(video, options)
    assert said in str(caught.value)


def test_without_a_video_or_argo_it_says_what_lacks(tmp_path: Path) -> None:
    done = make_submit()
    assert done.returncode != 0
    assert "make submit VIDEO=s3://BUCKET/KEY" in done.stderr
    # Nothing is on this PATH but what make itself needs.
    for name in ("sed", "awk", "sh"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    done = make_submit("VIDEO=s3://b/k.mp4", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "the program argo is not installed: take it from https://github.com/argoproj" in done.stderr


def test_a_template_that_is_not_there_is_told_in_argos_words(argo: Path) -> None:
    (argo / "refuse").touch()
    done = make_submit("VIDEO=s3://b/k.mp4")
    assert done.returncode != 0
    assert 'submit: argo submit: workflowtemplates "reelscan" not found\n' in done.stderr


def test_it_follows_the_run_and_prints_what_came_of_it(argo: Path, tmp_path: Path) -> None:
    store_failure(tmp_path / "results")
    pod = {"id": "p", "type": "Pod", "displayName": "plan(0)", "phase": "Running", "progress": "1/3"}
    retry = {"id": "r", "type": "Retry", "displayName": "plan", "phase": "Running", "children": ["p"]}
    states(argo, workflow("Running", p=pod, r=retry), workflow("Failed", tmp_path / "results"))
    done = make_submit("VIDEO=s3://b/k.mp4")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("submitted reelscan-abcde")
    assert "Running, plan 1/3" in lines[1]
    assert "Failed" in lines[2]
    assert lines[3:5] == ["the tree", "✔ reelscan-abcde"]
    assert f"task      {UID}" in lines
    assert "error     not_found: s3://b/k.mp4 does not exist" in lines
    assert "Error 3" in done.stderr  # make's own status is 2 whatever fails


@pytest.mark.parametrize(("phase", "status"), [("Succeeded", 0), ("Failed", 2)])
def test_without_the_ledger_the_phase_counts(phase: str, status: int, argo: Path, tmp_path: Path) -> None:
    states(argo, workflow(phase, tmp_path / "results"))
    done = make_submit("VIDEO=s3://b/k.mp4")
    assert done.returncode == status
    assert f"no completed message is in {tmp_path}/results/ledger for task {UID}" in done.stdout


@pytest.mark.parametrize(
    ("nodes", "line"),
    [
        ([], "Running"),
        (
            [
                {"id": "a", "type": "Pod", "displayName": "detect(0)", "phase": "Pending", "message": "Unschedulable"},
                {"id": "b", "type": "Pod", "displayName": "detect(1)", "phase": "Pending"},
                {"id": "c", "type": "Pod", "displayName": "plan(0)", "phase": "Succeeded"},
                {"id": "d", "type": "DAG", "displayName": "main", "phase": "Running"},
            ],
            "Running, 2 waiting (Unschedulable)",
        ),
        (
            [{"id": str(n), "type": "Pod", "displayName": f"d{n}", "phase": "Running"} for n in range(7)],
            "Running, d0, d1, d2, d3, d4, 2 more",
        ),
    ],
)
def test_how_far_a_run_is_fits_into_a_line(nodes: list[dict[str, Any]], line: str) -> None:
    assert describe(workflow("Running", **{node["id"]: node for node in nodes})) == line


def test_a_run_that_argo_has_not_seen_yet_is_no_error(argo: Path) -> None:
    fresh = {"metadata": {"uid": UID}}
    assert describe(fresh) == "waiting for Argo"
    states(argo, fresh, workflow("Succeeded"))
    assert make_submit("VIDEO=s3://b/k.mp4").returncode == 0

"""Hitting components beside the sending: in order, with proof, and with S3 and SQS restored whatever happens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from tests.cluster import faults, upsets
from tests.cluster.upsets import ANSWERS, AWS_HANGS, AWS_REFUSES, COMPONENTS, CONTROLLER, STEP, Upsets

NODE_NAME = "workflows.argoproj.io/node-name"
RUN_LABEL = "workflows.argoproj.io/workflow"


def pod(name: str, number: int, *, node: str = "") -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{name}-{number}",
            "namespace": "there",
            "uid": f"uid-{name}-{number}",
            "labels": {RUN_LABEL: "task-1"},
            "annotations": {NODE_NAME: node},
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "main", "state": {"running": {}}}],
        },
    }


@dataclass
class FakeCluster:
    """Each pod that is deleted has a successor."""

    said: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    aws: str = ANSWERS

    def component_pods(self, component: str) -> list[dict[str, Any]]:
        return [pod(component, self.numbers.get(component, 0))]

    def list(self, _kind: str, _selector: str) -> list[dict[str, Any]]:
        number = self.numbers.get("task-1-plan", 0)
        return [pod("task-1-plan", number, node=f"task-1.plan({number})"), pod("reelscan-reconcile", 0)]

    def kubectl(self, *_words: str) -> str:
        return ""

    def command(self, *words: str) -> str:
        self.said.append(" ".join(words))
        if "delete" in words:
            name, _, number = words[words.index("pod") + 1].rpartition("-")
            self.numbers[name] = int(number) + 1
        elif words[0] == "the-program":
            self.aws = ANSWERS if words[1] in ("accept", "resume") else words[1]
        elif "get" in words:
            return json.dumps({"items": self.component_pods(CONTROLLER)})
        return ""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setenv("CLUSTER_AWS", "the-program")
    monkeypatch.setattr(faults, "LOG", tmp_path / "faults.jsonl")
    monkeypatch.setattr(upsets, "AWS_SECONDS", 0.01)
    monkeypatch.setattr(upsets, "GAP_SECONDS", 0.0)
    monkeypatch.setattr(upsets, "ask_s3", lambda: made.aws)
    return made


def hit(cluster: FakeCluster, names: tuple[str, ...], messages: int = 100) -> Upsets:
    """While messages are sent."""
    made = Upsets(cast(Any, cluster), names, messages=messages, seed="1")
    with made.beside():
        for number in range(messages):
            with made.aws:
                assert cluster.aws == ANSWERS
            made.sent(number + 1)
    return made


def test_all_are_hit_and_logged_with_what_was_there_before_and_after(cluster: FakeCluster, tmp_path: Path) -> None:
    names = (*COMPONENTS, CONTROLLER, STEP, AWS_REFUSES, AWS_HANGS)
    made = hit(cluster, names)

    assert sorted(upset.name for upset in made.done) == sorted(names)
    for upset in made.done:
        if upset.loses_answers:
            assert upset.before == {"s3": ANSWERS}
            assert upset.after["s3"] == ANSWERS
            assert upset.after["meanwhile"] == upset.after["at_the_end"] == upset.name.removeprefix("aws ")
        else:
            assert upset.before["uid"] != upset.after["uid"]
            assert upset.before["containers"] == {"main": {"running": {}}}
    assert "reelscan-reconcile" not in " ".join(cluster.said)
    lines = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [line["upset"] for line in lines] == [upset.name for upset in made.done]
    assert {"at", "before", "after", "seconds_until_ready", "after_messages"} <= set(lines[0])


def test_aws_is_restored_when_the_sending_fails(cluster: FakeCluster) -> None:
    made = Upsets(cast(Any, cluster), (AWS_REFUSES,), messages=1, seed="1")

    with pytest.raises(RuntimeError, match="no more"), made.beside():
        raise RuntimeError("no more")

    assert cluster.said == ["the-program accept"]
    assert made.done == []


def test_a_hit_that_fails_ends_the_sending(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsets, "ask_s3", lambda: ANSWERS)

    with pytest.raises(AssertionError, match="S3 answers although it was told to hang"):
        hit(cluster, (AWS_HANGS,))

    assert cluster.aws == ANSWERS


def test_without_the_program_nothing_is_begun(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLUSTER_AWS")

    with pytest.raises(AssertionError, match="CLUSTER_AWS is not set"):
        hit(cluster, (AWS_HANGS,))
    hit(cluster, ("sensor",))

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
    deaf: tuple[str, ...] = ()
    """Services that answer whatever they are told."""

    def component_pods(self, component: str) -> list[dict[str, Any]]:
        return [pod(component, self.numbers.get(component, 0))]

    def list(self, _kind: str, _selector: str) -> list[dict[str, Any]]:
        number = self.numbers.get("task-1-plan", 0)
        return [pod("task-1-plan", number, node=f"task-1.plan({number})"), pod("reelscan-reconcile", 0)]

    def kubectl(self, *_words: str) -> str:
        return ""

    def ask(self) -> dict[str, str]:
        return {service: ANSWERS if service in self.deaf else self.aws for service in ("s3", "sqs")}

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
    monkeypatch.setattr(upsets, "ask_aws", made.ask)
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
            assert upset.before == {"s3": ANSWERS, "sqs": ANSWERS}
            assert {service: upset.after[service] for service in ("s3", "sqs")} == upset.before
            away = dict.fromkeys(("s3", "sqs"), upset.name.removeprefix("aws "))
            assert upset.after["meanwhile"] == upset.after["at_the_end"] == away
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


@pytest.mark.parametrize(("deaf", "said"), [("s3", "S3"), ("sqs", "SQS")])
def test_a_hit_that_fails_ends_the_sending(cluster: FakeCluster, deaf: str, said: str) -> None:
    cluster.deaf = (deaf,)

    with pytest.raises(AssertionError, match=f"{said} answers although it was told to hang"):
        hit(cluster, (AWS_HANGS,))

    assert cluster.aws == ANSWERS


def test_what_answers_before_the_minute_is_over_was_not_hit(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_and_recover() -> dict[str, str]:
        said = cluster.ask()
        cluster.aws = ANSWERS
        return said

    monkeypatch.setattr(upsets, "ask_aws", ask_and_recover)

    with pytest.raises(AssertionError, match="S3 answers although it was told to refuse"):
        hit(cluster, (AWS_REFUSES,))


def test_without_the_program_nothing_is_begun(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLUSTER_AWS")

    with pytest.raises(AssertionError, match="CLUSTER_AWS is not set"):
        hit(cluster, (AWS_HANGS,))
    hit(cluster, ("sensor",))

"""What is tried again, and with how much memory: Argo's expressions, on what it knows of a pod that ended."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest

from tests.workflows.expressions import evaluate
from tests.workflows.rendered import pod_templates, spec
from workflows.settings import amount

NAMES = sorted(pod_templates())


class Ended(NamedTuple):
    """An attempt as `lastRetry` shows it. Argo's source, `operator.go`, says which message and code belong to what."""

    exit_code: int
    message: str
    status: str = "Failed"
    retries: int = 0


MAIN = "main: Error (exit code {})"
EVICTED = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi."
AGAIN = {
    "something outside failed": Ended(4, MAIN.format(4)),
    "the step was terminated": Ended(143, MAIN.format(143)),
    "the pod was deleted": Ended(-1, "pod deleted", "Error"),
    "the pod was deleted, and its end was seen": Ended(143, MAIN.format(143)),
    "the pod was deleted, and killed": Ended(137, MAIN.format(137)),
    "the node was lost": Ended(-1, "pod failed: neither main nor wait container completed successfully"),
    "evicted before it began": Ended(-1, EVICTED),
    "evicted": Ended(137, EVICTED),
    "evicted the second time": Ended(137, EVICTED, retries=1),
    "the node shut down": Ended(137, "Pod was terminated in response to imminent node shutdown.", retries=2),
    "out of memory": Ended(137, "main: OOMKilled (exit code 137)"),
    "Argo could not start the step": Ended(64, MAIN.format(64)),
    "Argo could not upload what came of it": Ended(0, "wait: Error (exit code 64): dial tcp: i/o timeout", "Error"),
    "S3 was too slow for Argo": Ended(0, "wait: Error (exit code 64): context deadline exceeded", "Error"),
    "Argo's init container failed": Ended(-1, "init: Error (exit code 1): x", "Error"),
    "the model server failed too": Ended(4, "serving: Error (exit code 1)"),
    "the model server hides a lost main": Ended(
        -1, "Pod failed before serving container starts due to CrashLoopBackOff: back-off 10s", "Error"
    ),
}
NEVER = {
    "a defect": Ended(1, MAIN.format(1)),
    "wrong usage": Ended(2, MAIN.format(2)),
    "bad input": Ended(3, MAIN.format(3)),
    "bad input, and the model server failed too": Ended(3, "serving: Error (exit code 1)", "Error"),
    "out of memory with more memory": Ended(137, "main: OOMKilled (exit code 137)", retries=1),
    "the pod took too long": Ended(137, "Pod was active on the node longer than the specified deadline"),
    "the pod took too long, and stopped": Ended(143, "Pod was active on the node longer than the specified deadline"),
    "the pod took too long to begin": Ended(-1, "Pod was active on the node longer than the specified deadline"),
    "the run took too long": Ended(-1, "Step exceeded its deadline"),
}


def decided(template: dict[str, Any], ended: Ended) -> Any:
    variables = {
        "retries": str(ended.retries),
        "lastRetry.exitCode": str(ended.exit_code),
        "lastRetry.status": ended.status,
        "lastRetry.message": ended.message,
        "lastRetry.duration": "12.5",
    }
    return evaluate(template["retryStrategy"]["expression"], variables)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", AGAIN)
def test_what_may_pass_by_is_tried_again(what: str, name: str) -> None:
    assert decided(pod_templates()[name], AGAIN[what]) is True


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", NEVER)
def test_what_would_fail_again_is_not_tried_again(what: str, name: str) -> None:
    assert decided(pod_templates()[name], NEVER[what]) is False


@pytest.mark.parametrize("name", NAMES)
def test_retries_are_limited_and_wait_longer_each_time(name: str) -> None:
    strategy = pod_templates()[name]["retryStrategy"]
    assert strategy["limit"] == "3"
    # Without it, Argo would judge an Error by a policy of its own first.
    assert strategy["retryPolicy"] == "Always"
    assert strategy["backoff"] == {"duration": "15s", "factor": "2", "cap": "5m"}
    assert pod_templates("other limits")[name]["retryStrategy"]["limit"] == "0"


def memory_of_attempt(template: dict[str, Any], retries: int) -> dict[str, str]:
    """What the patch makes of the memory of containers, by name: what they request and what they may have."""

    def value(tag: re.Match[str]) -> str:
        return str(evaluate(tag[1], {"retries": str(retries)}))

    patch = json.loads(re.sub(r"\{\{=(.*?)\}\}", value, template["podSpecPatch"]))
    memory = {}
    for container in (*patch["containers"], *patch.get("initContainers", [])):
        if "resources" in container:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            memory[container["name"]] = container["resources"]["limits"]["memory"]
    return memory


@pytest.mark.parametrize(
    ("variant", "name", "first", "again"),
    [
        ("the defaults", "detect", {"main": "1Gi"}, {"main": "2Gi"}),
        ("the defaults", "plan", {"main": "1Gi"}, {"main": "2Gi"}),
        # The model server's only where that is set.
        ("odd amounts", "detect", {"main": "1234567Ki", "serving": "3Gi"}, {"main": "1.5Gi", "serving": "5Gi"}),
        ("odd amounts", "plan", {"main": "1Gi"}, {"main": "2Gi"}),
    ],
)
def test_a_retry_has_more_memory(variant: str, name: str, first: dict[str, str], again: dict[str, str]) -> None:
    template = pod_templates(variant)[name]
    assert memory_of_attempt(template, 0) == first
    assert memory_of_attempt(template, 1) == memory_of_attempt(template, 2) == again
    containers = [{"name": "main", **template["container"]}, *template.get("initContainers", [])]
    granted = {container["name"]: container["resources"]["limits"]["memory"] for container in containers}
    assert first.items() <= granted.items()
    assert all(amount(again[container]) > amount(first[container]) for container in first)


def test_nothing_else_decides_about_retries() -> None:
    assert "retryStrategy" not in spec()
    assert "templateDefaults" not in spec()
    assert all("retryStrategy" not in template for template in spec()["templates"] if "container" not in template)

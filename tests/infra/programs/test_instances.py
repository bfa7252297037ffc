"""Pods with a model server fit the nodes that they are made for, on a retry too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.instances import ARGO, BUS_REPLICA, Amount, find_type, pod_resources, pod_resources_of
from infra.session import Aws
from steps.errors import UsageError
from workflows import Resources
from workflows.settings import amount

ROOT = Path(__file__).parents[3]
MIB = 2**20


def mib(quantity: str) -> int:
    return int(amount(quantity) / MIB)


def of_requests(container: dict[str, Any]) -> Amount:
    requests = container["resources"]["requests"]
    return Amount(int(amount(requests["cpu"]) * 1000), mib(requests["memory"]), 0)


@pytest.mark.parametrize(
    "name",
    [
        "c5.large",
        "c4.large",
        "c7i-flex.large",
        "t3.medium",
        "t3.large",
        "m5.large",
        "r5.large",
        "c5.xlarge",
        "c5.4xlarge",
    ],
)
def test_first_attempt_and_retry_fit_a_node(cloud: Aws, name: str) -> None:
    kind = find_type(cloud, name)
    assert kind is not None
    chosen = pod_resources("cpu", kind)
    assert chosen is not None
    detect, serving = chosen
    assert (amount(detect.cpu) + amount(serving.cpu)) * 1000 + ARGO.cpu <= kind.room.cpu
    for memory in (detect.memory, detect.retry_memory):
        assert mib(memory) + mib(serving.memory) + ARGO.memory <= kind.room.memory
    # An attempt that was killed for the lack of memory gets more.
    assert mib(detect.retry_memory) > mib(detect.memory)


def test_where_there_is_room_for_them_the_workflow_s_own_defaults_stay(cloud: Aws) -> None:
    kind = find_type(cloud, "c5.xlarge")
    assert kind is not None
    assert pod_resources("cpu", kind) == (Resources(cpu="1", memory="1Gi"), Resources(cpu="1", memory="2Gi"))


def test_what_a_node_leaves_is_what_nodeadm_leaves(cloud: Aws) -> None:
    """Of c5.large, 29 addresses: https://github.com/awslabs/amazon-eks-ami, nodeadm/internal/kubelet."""
    kind = find_type(cloud, "c5.large")
    assert kind is not None
    assert kind.addresses == 29
    daemons = Amount(180, 120, 4)
    assert kind.room + daemons == Amount(2000 - 70, int(4096 * 0.925) - (255 + 11 * 29) - 100, 29)


def test_of_several_types_the_smallest_counts(cloud: Aws) -> None:
    smallest = pod_resources_of(cloud, "cpu", ["c5.large"])
    for names in (["c5.xlarge", "c5.large"], ["c5.large", "m5.large"]):
        assert pod_resources_of(cloud, "cpu", names) == smallest


@pytest.mark.parametrize("name", ["t3.micro", "c5.enormous"])
def test_a_type_that_holds_no_pod_is_refused(cloud: Aws, name: str) -> None:
    with pytest.raises(UsageError, match=f"INFERENCE_NODE_INSTANCE_TYPE='{name}' is no type of us-east-1 whose nodes"):
        pod_resources_of(cloud, "cpu", ["c5.large", name])


def test_what_argo_and_the_bus_ask_for_is_reckoned_with() -> None:
    config = yaml.safe_load((ROOT / "infra/argo/workflows/config.yaml").read_text())
    executor = {"resources": yaml.safe_load(config["data"]["executor"])["resources"]}
    assert of_requests(executor) == ARGO
    (bus,) = (
        document
        for document in yaml.safe_load_all((ROOT / "events/base/bus.yaml").read_text())
        if document and document["kind"] == "EventBus"
    )
    jetstream = bus["spec"]["jetstream"]
    total = Amount(0, 0)
    for name in ("containerTemplate", "reloaderContainerTemplate", "metricsContainerTemplate"):
        total += of_requests(jetstream[name])
    assert total == BUS_REPLICA


def test_the_device_plugin_s_share_is_reckoned_with_on_gpus(cloud: Aws) -> None:
    gpu, cpu = find_type(cloud, "g5.xlarge"), find_type(cloud, "m5.xlarge")
    assert gpu is not None
    assert cpu is not None
    documents = yaml.safe_load_all((ROOT / "infra/gpu/plugin.yaml").read_text())
    (container,) = next(d for d in documents if d["kind"] == "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert cpu.room - gpu.room == of_requests(container) + Amount(0, 0)

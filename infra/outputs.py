"""What a stack tells, as the settings of the workflow that `make deploy SETTINGS=` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.settings import InfraSettings

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

FOLDER = Path("out/aws")
_HEADING = """\
# Settings of the workflow for the stack {stack}: `make create-cluster` and `make status` write it anew each time.
# Change a copy, or give changes as DEPLOY_ARGS='--set NAME=VALUE'.
"""
# A node of two virtual CPUs and 4 GiB leaves 1.9 CPUs and 3.1 GiB to pods, of which the node's daemons take 0.2 CPUs:
# the workflow's default, 2 CPUs and 3 GiB for a pod with a model server, would wait for ever.
_SMALL_NODE = {
    "detect_resources": {"cpu": "700m", "memory": "1Gi"},
    "serving": {"cpu": "900m", "memory": "1536Mi"},
}
_SMALL = ("c5.large", "c5a.large", "c5d.large", "c5n.large", "c6a.large", "c6i.large", "c7a.large", "c7i.large")
_GPU_NODE = {"serving": {"cpu": "2", "memory": "6Gi"}}


def outputs(stack: StackTypeDef) -> dict[str, str]:
    """By name."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def workflow_settings(settings: InfraSettings, told: dict[str, str]) -> dict[str, Any]:
    """Settings of the workflow.

    Args:
        settings: of the cluster.
        told: the stack's outputs.
    """
    sources = [told["TaskData"]]
    sources += [f"s3://{arn.split(':::')[1]}" for arn in settings.more_source_arns.split(",") if arn]
    serving: dict[str, Any] = {"image": f"{told['ServingRepositoryUri']}:{settings.image_tag}"}
    made: dict[str, Any] = {
        "namespace": told["Namespace"],
        "steps_image": f"{told['StepsRepositoryUri']}:{settings.image_tag}",
        "serving": serving,
        "accelerator": told["Accelerator"],
        "results": told["Results"],
        "artifacts": told["Artifacts"],
        "task_queue": told["TaskQueueName"],
        "completed_queue": told["TaskCompletedQueueName"],
        "dead_letter_queue": told["DeadLetterQueueName"],
        "allowed_sources": sources,
        "aws_region": told["Region"],
    }
    if settings.accelerator == "gpu":
        serving["environment"] = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        serving["resources"] = _GPU_NODE["serving"]
    elif settings.inference_type in _SMALL:
        made["detect_resources"] = _SMALL_NODE["detect_resources"]
        serving["resources"] = _SMALL_NODE["serving"]
    return made


def write_settings(settings: InfraSettings, stack: StackTypeDef, folder: Path = FOLDER) -> Path:
    """Write them to a file, which it gives."""
    path = folder / stack["StackName"] / "settings.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(workflow_settings(settings, outputs(stack)), sort_keys=False)
    path.write_text(_HEADING.format(stack=stack["StackName"]) + text)
    return path

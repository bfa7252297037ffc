"""What a stack tells, as the settings of the workflow that `make deploy SETTINGS=` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.instances import pod_resources_of
from infra.session import Aws
from infra.settings import InfraSettings
from workflows.settings import Resources

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

FOLDER = Path("out/aws")
_HEADING = """\
# Settings of the workflow for the stack {stack}: `make create-cluster` and `make status` write it anew each time.
# Change a copy, or give changes as DEPLOY_ARGS='--set NAME=VALUE'.
"""


def reconciler_namespace(namespace: str) -> str:
    """That of the reconciler of a deployment. infra/cluster.yaml gives its account there its role."""
    return f"{namespace}-reconciler"


def outputs(stack: StackTypeDef) -> dict[str, str]:
    """By name."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def workflow_settings(
    settings: InfraSettings, told: dict[str, str], resources: tuple[Resources, Resources]
) -> dict[str, Any]:
    """Settings of the workflow.

    Args:
        settings: of the cluster.
        told: the stack's outputs.
        resources: of detect and of the model server beside it, which fit a node.
    """
    of_detect, of_server = (one.model_dump(exclude_none=True) for one in resources)
    sources = [told["TaskData"]]
    sources += [f"s3://{arn.split(':::')[1]}" for arn in settings.more_source_arns.split(",") if arn]
    serving: dict[str, Any] = {
        "image": f"{told['ServingRepositoryUri']}:{settings.image_tag}",
        "resources": of_server,
    }
    made: dict[str, Any] = {
        "namespace": told["Namespace"],
        "reconciler_namespace": reconciler_namespace(told["Namespace"]),
        "steps_image": f"{told['StepsRepositoryUri']}:{settings.image_tag}",
        "serving": serving,
        "detect_resources": of_detect,
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
    return made


def write_settings(settings: InfraSettings, aws: Aws, stack: StackTypeDef, folder: Path = FOLDER) -> Path:
    """Write them to a file, which it gives.

    Raises:
        UsageError: no pod with a model server fits a node.
        OutsideError: AWS failed.
    """
    resources = pod_resources_of(aws, settings.accelerator, settings.inference_types)
    path = folder / stack["StackName"] / "settings.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(workflow_settings(settings, outputs(stack), resources), sort_keys=False)
    path.write_text(_HEADING.format(stack=stack["StackName"]) + text)
    return path

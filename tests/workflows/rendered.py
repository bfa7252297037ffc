"""Rendered templates, and ways to look into them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from workflows import WorkflowSettings, objects

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "samples" / "reelscan.json"

VARIANTS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "a GPU": {"accelerator": "gpu", "serving": {"resources": {"cpu": 2, "memory": "6Gi"}}},
    "a Secret with keys": {"aws_secret": "aws", "aws_endpoint_url": "http://10.0.0.1:5000", "aws_region": "eu-west-1"},
    "no artifacts": {"artifacts": None},
    "a model profile of one's own": {"model_profile": str(PROFILE)},
    "a namespace and other names": {
        "namespace": "video", "name": "people", "service_account": "people", "executor_account": "people-executor",
    },
    "a registry with a login": {"image_pull_secret": "registry.example.com", "image_pull_policy": "Always"},
    "other nodes": {
        "standard_nodes": {},
        "inference_nodes": {
            "node_selector": {"node.kubernetes.io/instance-type": "g6.xlarge", "spot": True},
            "tolerations": [
                {"operator": "Exists"},
                {"key": "gone", "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 60},
            ],
        },
        "priority_class": "video",
    },
    "other limits": {
        "parallelism": 3, "retries": 0, "retry_seconds": 1, "job_limit_seconds": 60, "pending_seconds": 60,
        "keep_succeeded_seconds": 0, "limits": {"fps": 2, "labels": ["person", "car"], "force": True, "max_chunks": 9},
    },
    "odd amounts": {
        "detect_resources": {"cpu": 0.25, "memory": "1234567Ki", "memory_after_failure": "1.5Gi"},
        "serving": {"resources": {"memory": "3Gi", "memory_after_failure": "5Gi"}},
    },
    "flags of the server": {"serving": {"args": ["--n", "y", "1e3"], "environment": {"A": 1, "B": True, "C": "on"}}},
}  # fmt: skip


@cache
def rendered(variant: str = "the defaults") -> tuple[dict[str, Any], ...]:
    """All objects of a variant."""
    return tuple(objects(WorkflowSettings.model_validate(VARIANTS[variant])))


def spec(variant: str = "the defaults") -> dict[str, Any]:
    """Spec of the WorkflowTemplate."""
    found: dict[str, Any] = rendered(variant)[-1]["spec"]
    return found


def pod_templates(variant: str = "the defaults") -> dict[str, dict[str, Any]]:
    """Templates that become pods, by name."""
    return {template["name"]: template for template in spec(variant)["templates"] if "container" in template}


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers of a pod template, the main one first."""
    return [template["container"], *template.get("initContainers", []), *template.get("sidecars", [])]

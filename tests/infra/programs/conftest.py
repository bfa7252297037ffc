"""AWS as the programs behind the Makefile's targets see it: moto over HTTP, and a stack of what moto can make."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.session import Aws
from infra.settings import InfraSettings
from infra.template import CLUSTER, Template
from local.aws import embedded_aws, endpoint_url

MOTO_MAKES = ("AWS::SQS::Queue", "AWS::S3::Bucket", "AWS::ECR::Repository")


@pytest.fixture(scope="session")
def cloud_port() -> Iterator[int]:
    """A moto server of these tests alone, which they empty."""
    with embedded_aws() as port:
        yield port


@pytest.fixture
def cloud(cloud_port: int, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """An account in which there is nothing, to which the environment leads."""
    urllib.request.urlopen(f"{endpoint_url(cloud_port)}/moto-api/reset", data=b"", timeout=60).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint_url(cloud_port))
    return Aws("us-east-1")


@pytest.fixture
def settings() -> InfraSettings:
    return InfraSettings(image_tag="1.2.3")


@pytest.fixture
def console() -> Console:
    """One that keeps what is printed: console.file.getvalue()."""
    return Console(file=io.StringIO(), width=200, highlight=False, soft_wrap=True, markup=False, emoji=False)


@pytest.fixture
def small(tmp_path: Path) -> Template:
    """infra/cluster.yaml, with those of its resources and outputs alone that moto can make."""
    content = Template(CLUSTER).content
    resources: dict[str, Any] = {
        name: {key: value for key, value in item.items() if key != "DependsOn"}
        for name, item in content["Resources"].items()
        if item["Type"] in MOTO_MAKES
    }
    # What moto drops anyway, or cannot follow.
    resources["TaskDataBucket"]["Properties"].pop("NotificationConfiguration")
    outputs = {
        name: item
        for name, item in content["Outputs"].items()
        if _known(item["Value"], resources, content["Parameters"])
    }
    outputs["ClusterName"] = {"Value": {"Ref": "ClusterName"}}
    # Of lists and numbers moto never finds that they have not changed.
    parameters = {name: {**item, "Type": "String"} for name, item in content["Parameters"].items()}
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps({"Parameters": parameters, "Resources": resources, "Outputs": outputs}))
    return Template(path)


def _known(value: Any, resources: dict[str, Any], parameters: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    text = json.dumps(value)
    mentioned = [name for name in Template(CLUSTER).resources if f'"{name}"' in text or f"${{{name}}}" in text]
    return "Fn::If" not in text and all(name in resources for name in mentioned)

"""A namespace of a cluster with Reelscan in it, and what tests do there."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
import yaml
from botocore.exceptions import ClientError

from steps.completed import Completed
from workflows import WorkflowSettings, objects

STEPS_IMAGE = os.environ.get("CLUSTER_STEPS_IMAGE", "reelscan/embedded:test")
"""With the `embedded` target's model server in it, so that it serves beside itself."""
RUN_SECONDS = 300.0
"""How long a run may take here before a test gives it up for hanging."""
POLL_SECONDS = 0.7
"""A question to Kubernetes starts a process, which the runs that are waited for want the CPU of."""

T = TypeVar("T")


def wait_for(what: str | Callable[[], str], found: Callable[[], T | None], seconds: float = RUN_SECONDS) -> T:
    """Ask until the answer is true, and give it. Fails, naming `what` as it is then, when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(POLL_SECONDS)
    return answer


def embedded_serving(model: str | None = None, name: str = "ssd") -> dict[str, Any]:
    """Settings of the container beside detect: the embedded server from the steps image."""
    args = ["serve", "--host", "0.0.0.0", "--model-name", name]
    return {
        "image": STEPS_IMAGE,
        "command": ["reelscan"],
        "args": [*args, "--model", model] if model else args,
        "resources": {"cpu": "100m", "memory": "700Mi"},
        "start_seconds": 120,
    }


@dataclass
class Run:
    """A Workflow that was submitted."""

    cluster: Cluster
    name: str

    def workflow(self) -> dict[str, Any]:
        """The object as it is now."""
        return self.cluster.get("workflow", self.name)

    @property
    def uid(self) -> str:
        """The task's id, of a run by hand."""
        return str(self.workflow()["metadata"]["uid"])

    def phase(self) -> str:
        """As Argo says; empty while it has not looked at it."""
        return str(self.workflow().get("status", {}).get("phase", ""))

    def ended(self) -> str:
        """The phase once it has ended, else empty."""
        workflow = self.workflow()
        completed = workflow["metadata"].get("labels", {}).get("workflows.argoproj.io/completed") == "true"
        return str(workflow["status"]["phase"]) if completed else ""

    def wait(self, seconds: float = RUN_SECONDS) -> str:
        """Wait for its end; gives the phase."""
        return wait_for(lambda: f"workflow {self.name} to end\n{self.tree()}", self.ended, seconds)

    def nodes(self, template: str | None = None, kind: str = "Pod") -> list[dict[str, Any]]:
        """Its nodes of a kind, perhaps only those of a template."""
        nodes = self.workflow().get("status", {}).get("nodes", {}).values()
        return [n for n in nodes if n["type"] == kind and template in (None, n.get("templateName"))]

    def tree(self) -> str:
        """What `argo get` shows."""
        return self.cluster.argo("get", self.name)

    def pods(self, template: str) -> list[dict[str, Any]]:
        """Pods of a template that exist now, the oldest first."""
        found = self.cluster.list("pods", f"workflows.argoproj.io/workflow={self.name}")
        pods = [pod for pod in found if f"-{template}-" in pod["metadata"]["name"]]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def working_pod(self, template: str, container: str = "main") -> dict[str, Any]:
        """A pod of a template whose container is running now; waits for one."""

        def running() -> dict[str, Any] | None:
            for pod in self.pods(template):
                status = pod.get("status", {})
                containers = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
                if any(c["name"] == container and "running" in c.get("state", {}) for c in containers):
                    return pod
            return None

        return wait_for(f"a {template} pod of {self.name} with {container} running", running)

    def completed(self, attempt: int = 1, task_id: str | None = None) -> Completed:
        """The completed message; waits for it."""
        return self.cluster.completed(task_id or self.uid, attempt)


@dataclass
class Cluster:
    """A namespace with the WorkflowTemplate `reelscan`, buckets and queues of its own."""

    namespace: str
    settings: dict[str, Any] = field(default_factory=dict)
    received: list[Completed] = field(default_factory=list)
    dead_letters: list[dict[str, Any]] = field(default_factory=list)

    # Argo and Kubernetes

    def command(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Output of a program."""
        done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        if check and done.returncode:
            raise AssertionError(f"{shlex.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + ("" if check else done.stderr)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Output of kubectl in this namespace."""
        return self.command("kubectl", "-n", self.namespace, *arguments, stdin=stdin, check=check)

    def argo(self, *arguments: str, check: bool = True) -> str:
        """Output of argo in this namespace."""
        return self.command("argo", "-n", self.namespace, *arguments, check=check)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        answer: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return answer

    def list(self, kind: str, selector: str) -> list[dict[str, Any]]:
        """Objects with labels."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return items

    def apply(self, *documents: dict[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def deploy(self, name: str = "reelscan", **changes: Any) -> WorkflowSettings:
        """Apply the objects of a WorkflowTemplate, with other settings than the rest's where given."""
        settings = WorkflowSettings.model_validate({**self.settings, "name": name, **changes})
        self.apply(*objects(settings))
        return settings

    def submit(self, template: str = "reelscan", *, entrypoint: str | None = None, **parameters: Any) -> Run:
        """`argo submit --from workflowtemplate/...` with parameters."""
        given = [text for name, value in parameters.items() for text in ("-p", f"{name}={value}")]
        chosen = ["--entrypoint", entrypoint] if entrypoint else []
        name = self.argo("submit", "--from", f"workflowtemplate/{template}", *chosen, *given, "-o", "name")
        return Run(self, name.strip())

    # S3 and SQS

    @property
    def s3(self) -> Any:
        """Client."""
        return boto3.client("s3")

    @property
    def sqs(self) -> Any:
        """Client."""
        return boto3.client("sqs")

    @property
    def videos(self) -> str:
        """Bucket of the videos."""
        return f"videos-{self.namespace}"

    @property
    def results(self) -> str:
        """Bucket of the results."""
        return f"results-{self.namespace}"

    queue_kinds = ("completed", "dead")

    def queue_name(self, kind: str) -> str:
        """Name of a queue of this namespace."""
        return f"{kind}-{self.namespace}"

    def queue_url(self, kind: str) -> str:
        """Its URL."""
        return str(self.sqs.get_queue_url(QueueName=self.queue_name(kind))["QueueUrl"])

    def make_queue(self, kind: str) -> None:
        """Make a queue."""
        self.sqs.create_queue(QueueName=self.queue_name(kind))

    def remove_storage(self) -> None:
        """Delete all buckets and queues whose names end with the namespace's."""
        for bucket in self.s3.list_buckets()["Buckets"]:
            if bucket["Name"].endswith(f"-{self.namespace}"):
                wait_for(
                    f"the bucket {bucket['Name']} to be empty", partial(self._remove_bucket, bucket["Name"]), 120.0
                )
        for kind in self.queue_kinds:
            self.sqs.delete_queue(QueueUrl=self.queue_url(kind))

    def _remove_bucket(self, name: str) -> bool | None:
        """None if a pod that still ends has written to it meanwhile."""
        bucket = boto3.resource("s3").Bucket(name)
        bucket.object_versions.delete()
        try:
            bucket.delete()
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketNotEmpty":
                raise
            return None
        return True

    def upload(self, path: Path, key: str | None = None) -> str:
        """Put a video into S3; gives its key."""
        self.s3.upload_file(str(path), self.videos, key or path.name)
        return key or path.name

    def result(self, completed: Completed, file: str) -> bytes:
        """A result file of a run."""
        assert completed.results is not None
        bucket, _, prefix = completed.results.removeprefix("s3://").partition("/")
        content: bytes = self.s3.get_object(Bucket=bucket, Key=prefix + file)["Body"].read()
        return content

    def completed(self, task_id: str, attempt: int = 1, seconds: float = RUN_SECONDS) -> Completed:
        """The completed message of a task; waits for it."""

        def found() -> Completed | None:
            self.receive()
            return next((m for m in self.received if (m.task_id, m.attempt) == (task_id, attempt)), None)

        return wait_for(f"the completed message of {task_id}, attempt {attempt}", found, seconds)

    def all_completed(self, task_id: str) -> list[Completed]:
        """All completed messages of a task that came so far."""
        self.receive()
        return [message for message in self.received if message.task_id == task_id]

    def receive(self) -> None:
        """Take what is on the completed and the dead-letter queue now."""
        self.received += [Completed.from_bytes(m["Body"].encode()) for m in self._drain("completed")]
        self.dead_letters += self._drain("dead")

    def _drain(self, kind: str) -> list[dict[str, Any]]:
        url = self.queue_url(kind)
        taken = []
        while messages := self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            for message in messages:
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            taken += messages
        return taken


@contextmanager
def open_cluster(namespace: str, *, cluster: Cluster | None = None, **settings: Any) -> Iterator[Cluster]:
    """A namespace with everything deployed, removed afterwards.

    Args:
        cluster: of that namespace, to be filled; a new one if None.
        settings: of the workflow, that go before those of all tests.
    """
    cluster = cluster or Cluster(namespace)
    cluster.settings = {
        "namespace": namespace,
        "steps_image": STEPS_IMAGE,
        "serving": embedded_serving(),
        "model_profile": "coco_ssd_mobilenet_v1_quant",
        "results": f"s3://results-{namespace}/reelscan",
        "artifacts": f"s3://results-{namespace}/artifacts",
        "completed_queue": cluster.queue_name("completed"),
        "dead_letter_queue": cluster.queue_name("dead"),
        "aws_region": os.environ["AWS_DEFAULT_REGION"],
        "aws_endpoint_url": os.environ.get("AWS_ENDPOINT_URL"),
        "aws_secret": "aws",
        "plan_resources": {"cpu": "100m", "memory": "500Mi"},
        "detect_resources": {"cpu": "100m", "memory": "500Mi"},
        "aggregate_resources": {"cpu": "100m", "memory": "500Mi"},
        "standard_nodes": {},
        "inference_nodes": {},
        "retry_seconds": 1,
        **settings,
    }
    try:
        with open_namespace(cluster, namespace):
            for bucket in (cluster.videos, cluster.results):
                cluster.s3.create_bucket(Bucket=bucket)
            for kind in cluster.queue_kinds:
                cluster.make_queue(kind)
            cluster.deploy()
            yield cluster
    finally:
        # Its pods wrote into the buckets until they were gone.
        cluster.remove_storage()


@contextmanager
def open_namespace(cluster: Cluster, name: str) -> Iterator[None]:
    """A namespace whose pods can have the keys of S3 and SQS, removed afterwards."""
    cluster.command("kubectl", "create", "namespace", name)
    try:
        keys = {key: os.environ[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "aws"}, "stringData": keys}
        cluster.command("kubectl", "-n", name, "apply", "-f", "-", stdin=yaml.safe_dump(secret))
        yield
    finally:
        cluster.command("kubectl", "delete", "namespace", name, "--timeout=110s", check=False)

"""A namespace whose runs are made of messages on a queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from events.deploy import Deployment
from events.runs import FINALIZER, NAME_START
from tests.cluster.cluster import Cluster, Run, open_cluster, open_namespace, wait_for
from workflows import WorkflowSettings

READY_SECONDS = 180.0
MAX_RECEIVES = 10
"""Of a message, after which SQS moves it to the dead-letter queue."""
DEPLOYED_KINDS = (
    "eventsources,sensors,eventbus,cronworkflows,workflowtemplates,networkpolicies,poddisruptionbudgets,"
    "serviceaccounts,roles,rolebindings,secrets,configmaps"
)
SELECTORS = {
    "eventsource": "eventsource-name=reelscan",
    "sensor": "sensor-name=reelscan",
    "eventbus": "eventbus-name=default",
}


@dataclass
class EventsCluster(Cluster):
    """A namespace with the WorkflowTemplate `reelscan`, and all that makes runs of messages and accounts for them."""

    completed_fifo: bool = False
    deployment: Deployment | None = None
    reconciler_namespace: str = ""
    """Empty: that of the runs."""
    queue_kinds = ("dead", "completed", "task")

    def make_queue(self, kind: str) -> None:
        """Make a queue; the task queue's messages go to the dead-letter queue when nothing can take them."""
        attributes = {}
        if kind == "task":
            dead = self.sqs.get_queue_attributes(QueueUrl=self.queue_url("dead"), AttributeNames=["QueueArn"])
            policy = {"deadLetterTargetArn": dead["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVES}
            attributes = {"RedrivePolicy": json.dumps(policy)}
        elif kind == "completed" and self.completed_fifo:
            attributes = {"FifoQueue": "true"}
        self.sqs.create_queue(QueueName=self.queue_name(kind), Attributes=attributes)

    @property
    def task_queue(self) -> str:
        """URL."""
        return self.queue_url("task")

    def queue_name(self, kind: str) -> str:
        """Of the kinds `task`, `completed` and `dead`."""
        fifo = ".fifo" if kind == "completed" and self.completed_fifo else ""
        return f"{kind}-{self.namespace}{fifo}"

    def send(self, body: str) -> str:
        """Put a message on the task queue; gives its id."""
        return str(self.sqs.send_message(QueueUrl=self.task_queue, MessageBody=body)["MessageId"])

    def run_of(self, message_id: str) -> Run:
        """The run that a message becomes."""
        return Run(self, NAME_START + message_id)

    def component_pods(self, component: str) -> list[dict[str, Any]]:
        """Pods of `eventsource`, `sensor` or `eventbus`."""
        return self.list("pods", SELECTORS[component])

    def set_entrypoint(self, name: str) -> None:
        """Of runs that begin from now on."""
        patch = json.dumps({"spec": {"entrypoint": name}})
        self.kubectl("patch", "workflowtemplate", "reelscan", "--type=merge", "-p", patch)

    def undeploy(self) -> None:
        """As `make undeploy` does, and wait until Argo Events has removed its pods."""
        assert self.deployment is not None
        save_logs(self)
        self.deployment.delete(READY_SECONDS)
        wait_for("Argo Events to remove its pods", lambda: not any(map(self.component_pods, SELECTORS)), READY_SECONDS)

    def deployed(self) -> list[str]:
        """All that `make deploy` makes and is still there."""
        words = ["get", DEPLOYED_KINDS, "-l", "app.kubernetes.io/part-of=reelscan", "-o", "name", "--ignore-not-found"]
        namespaces = [name for name in (self.namespace, self.reconciler_namespace) if name]
        return [name for namespace in namespaces for name in self.command("kubectl", "-n", namespace, *words).split()]

    def reconciler(self, *arguments: str, check: bool = True) -> str:
        """Output of kubectl where the reconciler is."""
        return self.command("kubectl", "-n", self.reconciler_namespace or self.namespace, *arguments, check=check)

    def parallelism(self) -> str:
        """How many Workflows of the namespace go on at a time, as its label has it; empty: any number."""
        path = r"jsonpath={.metadata.labels.workflows\.argoproj\.io/parallelism-limit}"
        return self.command("kubectl", "get", "namespace", self.namespace, "-o", path)

    def unaccounted(self) -> list[str]:
        """Workflows that still have the finalizer."""
        columns = "NAME:.metadata.name,FINALIZERS:.metadata.finalizers"
        table = self.kubectl("get", "workflows", "--no-headers", "-o", f"custom-columns={columns}")
        return [line.split()[0] for line in table.splitlines() if FINALIZER in line]


@contextmanager
def open_events(
    namespace: str, *, completed_fifo: bool = False, apart: bool = False, **settings: Any
) -> Iterator[EventsCluster]:
    """A namespace with everything deployed, removed afterwards.

    Args:
        completed_fifo: whether the completed queue is a FIFO queue.
        apart: whether the reconciler has a namespace of its own, so that Argo itself holds runs back.
        settings: of the workflow, besides those of the tests.
    """
    cluster = EventsCluster(namespace, completed_fifo=completed_fifo)
    if apart:
        cluster.reconciler_namespace = f"{namespace}-reconciler"
        settings["reconciler_namespace"] = cluster.reconciler_namespace
    with ExitStack() as opened:
        opened.enter_context(open_cluster(namespace, cluster=cluster, task_queue=f"task-{namespace}", **settings))
        if apart:
            opened.enter_context(open_namespace(cluster, cluster.reconciler_namespace))
        deployed = Deployment(
            WorkflowSettings.model_validate(cluster.settings),
            "test",
            Path("out/deploy") / namespace,
            Console(quiet=True),
        )
        cluster.deployment = deployed
        try:
            deployed.apply(READY_SECONDS)
            yield cluster
        finally:
            if cluster.deployed():
                save_logs(cluster)
            for kind in ("eventsource", "sensor"):
                cluster.kubectl("delete", kind, "--all", "--timeout=60s", check=False)
            cluster.reconciler("delete", "cronworkflow", "--all", "--timeout=60s", check=False)
            for name in cluster.unaccounted():
                # Nothing accounts for it any more, and it would keep the namespace.
                cluster.kubectl(
                    "patch", "workflow", name, "--type=merge", "-p", '{"metadata":{"finalizers":[]}}', check=False
                )
            cluster.kubectl("delete", "eventbus", "--all", "--timeout=60s", check=False)
            cluster.command("kubectl", "delete", "pv", f"{namespace}-bus", "--wait=false", check=False)


def save_logs(cluster: EventsCluster) -> None:
    """What the components of Argo Events said, for who looks for a message that was lost."""
    folder = Path("out/test-cluster") / cluster.namespace
    folder.mkdir(parents=True, exist_ok=True)
    for component, selector in SELECTORS.items():
        said = cluster.kubectl("logs", "-l", selector, "--tail=-1", "--prefix", check=False)
        (folder / f"{component}.log").write_text(said)

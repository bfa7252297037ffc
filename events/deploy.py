"""`make deploy` and `make undeploy`: bring a deployment into a namespace, in the order in which nothing is lost."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from events.deployment import OVERLAYS, write_deployment
from events.runs import FINALIZER, UNDELIVERED_SELECTOR
from steps.errors import KubernetesError, ReelscanError, TimeLimitError, UsageError
from workflows import load_settings
from workflows.reconciler import reconciler_name, stands_apart
from workflows.rendering import to_yaml

if TYPE_CHECKING:
    from workflows import WorkflowSettings

FOLDER = Path("out/deploy")
CALL_SECONDS = 120.0
POLL_SECONDS = 1.0
PARALLELISM_LABEL = "workflows.argoproj.io/parallelism-limit"
"""Of a namespace: how many of its Workflows Argo has go on at a time."""
_SUBSCRIBED = "with durable name"
"""What a Sensor logs when it subscribes to the bus."""
_LISTENING = "listening for messages on the queue"
_MONITOR_PORT = 8222
_STREAMS = "/jsz?accounts=true&streams=true&consumers=true"
_SOURCE, _SENSOR, _BUS = "eventsource-name=reelscan", "sensor-name=reelscan", "eventbus-name=default"


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Output of kubectl. Raises KubernetesError."""
    try:
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=CALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise KubernetesError(f"kubectl {arguments[0]} did not end within {CALL_SECONDS:g} s") from error
    if done.returncode:
        raise KubernetesError(f"kubectl {' '.join(arguments)[:200]}: {done.stderr.strip()[:500]}")
    return done.stdout


class Deployment:
    """Objects of a kustomization in a namespace, of the cluster of a context of kubectl; none: of the current one."""

    def __init__(
        self, settings: WorkflowSettings, overlay: str, folder: Path, console: Console, context: str = ""
    ) -> None:
        if settings.namespace is None:
            raise UsageError("no namespace is set; set NAMESPACE, or namespace in the settings")
        path = OVERLAYS / overlay
        if not (path / "kustomization.yaml").is_file():
            known = ", ".join(sorted(folder.name for folder in OVERLAYS.iterdir()))
            raise UsageError(f"OVERLAY={overlay!r}: there is no such folder in events/overlays; there are {known}")
        self._namespace = settings.namespace
        self._settings = settings
        self._apart = settings.reconciler_namespace if stands_apart(settings) else None
        self._context = [f"--context={context}"] if context else []
        self._console = console
        # As objects tell their times: in whole seconds.
        self._began_at = datetime.now(UTC).replace(microsecond=0)
        self.documents: list[dict[str, Any]] = [
            document
            for written in write_deployment(settings, path, folder)
            for document in yaml.safe_load_all(kubectl("kustomize", str(written)))
        ]

    def apply(self, seconds: float) -> None:
        """Create or change everything. The EventSource comes last: a new Sensor gets only what comes after it.

        Raises:
            UsageError: the reconciler's namespace is not there, or another deployment's reconciler is in it.
            KubernetesError, TimeLimitError: it did not work, or not in time.
        """
        if self._apart is not None:
            self._check_apart(self._apart)
            self._hold_back(f"={self._settings.max_runs}")
        self._run("apply", "-f", "-", stdin=self._text(lambda kind: kind not in ("EventSource", "Sensor")))
        self._wait("the bus", seconds, lambda: self._is_ready("statefulset", _BUS))
        self._run("apply", "-f", "-", stdin=self._text(lambda kind: kind == "Sensor"))
        self._wait(
            "the sensor", seconds, lambda: self._is_ready("deployment", _SENSOR) and self._says(_SENSOR, _SUBSCRIBED)
        )
        self._run("apply", "-f", "-", stdin=self._text(lambda kind: kind == "EventSource"))
        self._wait(
            "the event source",
            seconds,
            lambda: self._is_ready("deployment", _SOURCE) and self._says(_SOURCE, _LISTENING),
        )

    def delete(self, seconds: float) -> None:
        """Remove everything, once the bus is empty and the runs that are under way have been accounted for."""
        self._remove(lambda kind: kind == "EventSource")
        # Its pod may hold messages that SQS has let go of.
        self._wait("the event source to end", seconds, lambda: not self._pods(_SOURCE))
        # The bus is asked through the API server, which its policy does not let in.
        self._remove(lambda kind: kind == "NetworkPolicy")
        try:
            self._wait("the bus to be empty", seconds, lambda: self._on_bus() == 0)
            self._wait("the runs to end and be accounted for", seconds, lambda: not self._unaccounted())
            self._wait("what became no run to be accounted for", seconds, lambda: not self._undelivered())
        except BaseException:
            self._run("apply", "-f", "-", stdin=self._text(lambda kind: kind == "NetworkPolicy"))
            raise
        self._remove(lambda kind: kind == "Sensor")
        self._remove(lambda kind: kind not in ("EventSource", "Sensor"))
        if self._apart is not None and self._is_there("namespace", self._namespace):
            self._hold_back("-")

    def _check_apart(self, namespace: str) -> None:
        if not self._is_there("namespace", namespace):
            raise UsageError(
                f"reconciler_namespace={namespace!r}: there is no such namespace; kubectl create namespace {namespace}"
            )
        name = reconciler_name(self._settings)
        words = ("get", "cronworkflow", name, f"--namespace={namespace}", "--ignore-not-found", *self._context)
        there = kubectl(*words, "-o", "json")
        if there.strip() and f'"--namespace={self._namespace}"' not in there:
            raise UsageError(
                f"reconciler_namespace={namespace!r}: the CronWorkflow {name} there is of another namespace's runs "
                f"than those of {self._namespace}; name a namespace of its own"
            )

    def _hold_back(self, change: str) -> None:
        """Have Argo begin no more Workflows of the namespace than its label says; `-` removes that.

        To each that waits for the workflow's own lock Argo writes again and again who holds it, which takes all of its
        time when they are many. Those that this label keeps waiting, in the same order, it leaves alone.
        """
        label = f"{PARALLELISM_LABEL}{change}"
        said = kubectl("label", "namespace", self._namespace, label, "--overwrite", *self._context)
        self._console.print(said.rstrip(), highlight=False, markup=False)

    def _is_there(self, kind: str, name: str) -> bool:
        return bool(kubectl("get", kind, name, "--ignore-not-found", "-o", "name", *self._context).strip())

    def _text(self, chosen: Callable[[str], bool]) -> str:
        return to_yaml(document for document in self.documents if chosen(document["kind"]))

    def _run(self, *arguments: str, stdin: str) -> None:
        # Each object says of which namespace it is.
        said = kubectl(*arguments, *self._context, stdin=stdin)
        self._console.print(said.rstrip(), highlight=False, markup=False)

    def _remove(self, chosen: Callable[[str], bool]) -> None:
        self._run("delete", "--ignore-not-found", "--timeout=100s", "-f", "-", stdin=self._text(chosen))

    def _wait(self, what: str, seconds: float, found: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        with self._console.status(f"waiting for {what}"):
            while not found():
                if time.monotonic() > deadline:
                    raise TimeLimitError(
                        f"{what}: not within {seconds:g} s; see kubectl -n {self._namespace} get pods,events,workflows"
                    )
                time.sleep(POLL_SECONDS)

    def _is_ready(self, kind: str, selector: str) -> bool:
        items = json.loads(self._kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return bool(items) and all(_is_rolled_out(item) for item in items)

    def _says(self, selector: str, words: str) -> bool:
        """Whether the pods that are new have logged something: the containers of Argo Events have no probes."""
        pods = json.loads(self._kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        new = [pod["metadata"] for pod in pods if _time(pod["metadata"]["creationTimestamp"]) >= self._began_at]
        return bool(pods) and all(words in self._kubectl("logs", pod["name"]) for pod in new)

    def _on_bus(self) -> int:
        """Messages that the bus has not delivered, or that the Sensor has not done with; 0 if there is no bus."""
        counts = []
        for pod in self._pods(_BUS):
            path = (
                f"/api/v1/namespaces/{self._namespace}/{pod.replace('pod/', 'pods/')}:{_MONITOR_PORT}/proxy{_STREAMS}"
            )
            accounts = json.loads(self._kubectl("get", "--raw", path)).get("account_details", [])
            consumers = [
                consumer
                for account in accounts
                for stream in account.get("stream_detail", [])
                for consumer in stream.get("consumer_detail") or []
            ]
            counts.append(sum(consumer["num_pending"] + consumer["num_ack_pending"] for consumer in consumers))
        return max(counts, default=0)

    def _pods(self, selector: str) -> list[str]:
        return self._kubectl("get", "pods", "-l", selector, "-o", "name").split()

    def _unaccounted(self) -> bool:
        finalizers = "custom-columns=FINALIZERS:.metadata.finalizers"
        return FINALIZER in self._kubectl("get", "workflows", "--no-headers", "-o", finalizers)

    def _undelivered(self) -> bool:
        return bool(self._kubectl("get", "configmaps", "-l", UNDELIVERED_SELECTOR, "-o", "name").strip())

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl(*arguments, f"--namespace={self._namespace}", *self._context, stdin=stdin)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _is_rolled_out(item: dict[str, Any]) -> bool:
    status: dict[str, int]
    wanted: int
    status, wanted = item.get("status", {}), item["spec"].get("replicas", 1)
    current = status.get("observedGeneration", 0) >= int(item["metadata"]["generation"])
    return current and status.get("updatedReplicas", 0) == status.get("readyReplicas", 0) == wanted


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="deploy", description=__doc__)
    parser.add_argument("action", choices=("apply", "delete", "print"))
    parser.add_argument("--settings", default="", help="YAML file of workflow settings")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--overlay", default="aws")
    parser.add_argument("--context", default="", help="of kubectl; empty: its current one")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to wait for each thing")
    given = parser.parse_args(arguments)
    console = Console()
    try:
        if shutil.which("kubectl") is None:
            raise UsageError("kubectl is not on the PATH; install it: https://kubernetes.io/docs/tasks/tools/")
        changes = [*given.set, *([f"namespace={given.namespace}"] if given.namespace else [])]
        settings = load_settings(Path(given.settings) if given.settings else None, changes)
        folder = FOLDER / (settings.namespace or "")
        deployment = Deployment(settings, given.overlay, folder, console, given.context)
        if given.action == "print":
            sys.stdout.write(to_yaml(deployment.documents))
        elif given.action == "delete":
            deployment.delete(given.seconds)
        else:
            deployment.apply(given.seconds)
            _tell_next(console, settings)
    except ReelscanError as error:
        sys.stderr.write(f"deploy: {error}\n")
        return error.exit_status
    return 0


def _tell_next(console: Console, settings: WorkflowSettings) -> None:
    bucket = "BUCKET/KEY"
    console.print(
        f"\nReady: messages on {settings.task_queue} become runs in {settings.namespace}. Send one:\n\n"
        f"  REELSCAN_TASK_QUEUE={settings.task_queue} REELSCAN_RESULTS={settings.results} \\\n"
        f"    reelscan send --wait s3://{bucket}",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""What a cluster has made in AWS beside its stack: volumes and load balancers, which only it can take away."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.runs import FINALIZER
from infra.command import need, run
from infra.preflight import TOOLS
from steps.errors import OutsideError, TimeLimitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

LIMIT_SECONDS = 600.0
CALL_SECONDS = 600.0
"""Of one call of kubectl, which waits itself for what it deletes."""
POLL_SECONDS = 5.0
_EVENT_KINDS = ("eventsources.argoproj.io", "sensors.argoproj.io", "eventbus.argoproj.io")
_LISTED = 5


class Cluster:
    """A cluster behind a kubeconfig of its own, so that it is no other that is emptied.

    Raises:
        UsageError: there is no kubectl.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self._command = [need("kubectl", TOOLS["kubectl"]), f"--kubeconfig={kubeconfig}", "--request-timeout=60s"]

    def _kubectl(self, *arguments: str) -> str:
        return run([*self._command, *arguments], environment=os.environ, seconds=CALL_SECONDS)

    def _items(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind; none if the cluster does not know it."""
        try:
            found = self._kubectl("get", kind, "--all-namespaces", "--output=json")
        except OutsideError as error:
            if "the server doesn't have a resource type" in str(error):
                return []
            raise
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def drain(self, console: Console) -> None:
        """Take away what keeps volumes, then volumes and load balancers, and wait until they are gone.

        Raises:
            UsageError: runs have not been accounted for.
            OutsideError: the cluster does not answer.
            TimeLimitError: something stays.
        """
        self._check_runs()
        for kind in _EVENT_KINDS:
            self._delete(kind, self._items(kind))
        balancers = [item for item in self._items("services") if item["spec"].get("type") == "LoadBalancer"]
        self._delete("services", balancers)
        claims = self._items("persistentvolumeclaims")
        self._delete("persistentvolumeclaims", claims)
        console.print(f"taken away  {len(balancers)} load balancers, {len(claims)} volumes")
        with console.status("waiting for volumes and load balancers to go"):
            self._wait()

    def _check_runs(self) -> None:
        open_runs = [
            item
            for item in self._items("workflows.argoproj.io")
            if FINALIZER in (item["metadata"].get("finalizers") or [])
        ]
        if open_runs:
            namespaces = sorted({item["metadata"]["namespace"] for item in open_runs})
            raise UsageError(
                f"{len(open_runs)} runs in {', '.join(namespaces)} are not accounted for, such as "
                f"{open_runs[0]['metadata']['name']}: `make undeploy SETTINGS=FILE` waits for that, with the file of "
                "the stack's settings that `make status` names"
            )

    def _delete(self, kind: str, items: list[dict[str, Any]]) -> None:
        for namespace in sorted({item["metadata"]["namespace"] for item in items}):
            names = [item["metadata"]["name"] for item in items if item["metadata"]["namespace"] == namespace]
            self._kubectl("--namespace", namespace, "delete", kind, *names, "--ignore-not-found", "--wait=false")

    def _left(self) -> list[str]:
        volumes = [
            f"volume {item['metadata']['name']} of {(item['spec'].get('claimRef') or {}).get('name', '?')}"
            for item in self._items("persistentvolumes")
            if item["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        ]
        # A service stays until its load balancer is gone.
        return volumes + [
            f"service {item['metadata']['namespace']}/{item['metadata']['name']}"
            for item in self._items("services")
            if item["spec"].get("type") == "LoadBalancer"
        ]

    def _wait(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while left := self._left():
            if time.monotonic() > deadline:
                raise TimeLimitError(
                    f"after {LIMIT_SECONDS:g} s there are still {', '.join(left[:_LISTED])}: a pod may still use it; "
                    "see kubectl describe, end what uses it, and try again"
                )
            time.sleep(POLL_SECONDS)

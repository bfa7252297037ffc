"""`make install-argo`: installs Argo Workflows and Argo Events, and on AWS the autoscaler and what the bus needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.command import main, need, run
from infra.preflight import TOOLS
from infra.rendering import Place, autoscaler_minor, load, namespaces, render
from infra.session import Aws
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template
from steps.errors import OutsideError, TimeLimitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = Path("out/aws")
READY_SECONDS = 600
_CONTROLLERS = ("Deployment", "DaemonSet")


class Kubectl:
    """kubectl with one context."""

    def __init__(self, context: str) -> None:
        self._context = context
        self._command = [need("kubectl", TOOLS["kubectl"]), f"--context={context}", "--request-timeout=60s"]

    def check(self, hint: str) -> None:
        """See that the cluster answers. Raises UsageError with the hint if there is no such context."""
        try:
            run([*self._command, "get", "--raw=/readyz"], seconds=90)
        except OutsideError as error:
            if re.search(r"context .*does not exist", str(error)):
                raise UsageError(f"kubectl has no context {self._context!r}; {hint}") from error
            raise

    def apply(self, file: Path) -> str:
        """Apply a file. By the server: the definitions of Argo 4 are too long for an annotation."""
        arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=reelscan", f"--filename={file}"]
        return run([*self._command, *arguments])

    def wait(self, kind: str, namespace: str, name: str) -> None:
        """Wait until a Deployment or DaemonSet is there. Raises TimeLimitError."""
        arguments = [
            "--namespace",
            namespace,
            "rollout",
            "status",
            f"{kind.lower()}/{name}",
            f"--timeout={READY_SECONDS}s",
        ]
        command = [part for part in self._command if not part.startswith("--request-timeout")]
        try:
            run([*command, *arguments], seconds=READY_SECONDS + 30)
        except OutsideError as error:
            raise TimeLimitError(
                f"{name} in {namespace} is not ready: {error}; see kubectl -n {namespace} get pods,events"
            ) from error


def place_of(settings: InfraSettings) -> Place:
    """What the stack tells. Raises UsageError if there is none."""
    stack = Stack(settings, Aws(settings.region), Template(CLUSTER))
    told = stack.outputs()
    return Place(
        told["ClusterName"], told["Region"], stack.name, told["Namespace"], told["Artifacts"], told["DashboardUrl"]
    )


def install(settings: InfraSettings, place: Place | None, kubectl: Kubectl, folder: Path, console: Console) -> None:
    """Render, apply in order, wait until all of it is ready."""
    files = render(settings, place, folder)
    first = folder / "namespaces.yaml"
    first.write_text(yaml.safe_dump_all(namespaces(place)))
    waited: list[tuple[str, str, str]] = []
    for name, file in {"namespaces": first, **files}.items():
        with console.status(f"applying {name}"):
            said = kubectl.apply(file)
        console.print(f"applied   {name}: {len(said.splitlines())} objects, from {file}")
        waited += _controllers(load(file.read_text()))
    for kind, namespace, name in waited:
        with console.status(f"waiting for {name} in {namespace}"):
            kubectl.wait(kind, namespace, name)
        console.print(f"ready     {name} in {namespace}")


def _controllers(documents: Any) -> list[tuple[str, str, str]]:
    return [
        (document["kind"], document["metadata"]["namespace"], document["metadata"]["name"])
        for document in documents
        if document["kind"] in _CONTROLLERS
    ]


def install_argo(settings: InfraSettings, console: Console) -> None:
    """The target."""
    if settings.kube_context:
        # A cluster of one's own: nothing is asked of AWS.
        kubectl = Kubectl(settings.kube_context)
        kubectl.check("see kubectl config get-contexts")
        install(settings, None, kubectl, FOLDER / settings.kube_context.replace("/", "_"), console)
        return
    if settings.kubernetes_version != autoscaler_minor():
        console.print(
            f"note: the autoscaler is for Kubernetes {autoscaler_minor()}, KUBERNETES_VERSION is "
            f"{settings.kubernetes_version}: see infra/autoscaler/autoscaler.yaml"
        )
    place = place_of(settings)
    kubectl = Kubectl(place.cluster)
    kubectl.check("`make update-kubeconfig` makes it")
    install(settings, place, kubectl, FOLDER / place.stack, console)
    console.print(
        "next: make images push-images SERVING_MODEL=FOLDER, then make deploy "
        f"SETTINGS={FOLDER / place.stack / 'settings.yaml'}\n"
        "the UI: kubectl -n argo port-forward service/argo-server 2746, then https://localhost:2746 with the token of "
        "`argo auth token`"
    )


if __name__ == "__main__":
    sys.exit(main("install-argo", install_argo))

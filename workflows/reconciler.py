"""The CronWorkflow that accounts for runs which could not report their tasks themselves, once a minute."""

from __future__ import annotations

from hera.workflows import CronWorkflow, Parameter
from hera.workflows import models as m

from steps.errors import UsageError
from steps.options import HIGHEST_PRIORITY
from steps.settings import variable_of
from workflows.containers import (
    CONFINED,
    POD_ANNOTATIONS,
    POD_SECURITY,
    WORK,
    Step,
    environment,
    keys,
    metric_labels,
    requirements,
    scratch_mounts,
    scratch_volumes,
    tolerations,
)  # fmt: skip
from workflows.settings import Resources, WorkflowSettings

ACCOUNT = "reelscan-reconciler"
"""Its service account, which events/reconciler makes, and the name of its pods."""
ENTRYPOINT = "reconcile"
LIMIT_SECONDS = 300
RESOURCES = Resources(cpu="100m", memory="512Mi")
_FIGURES = f"{WORK}/figures"

GAUGES = {
    "waiting": "Workflows that have ended, or will never begin, and are not accounted for yet",
    "dead_letters": "Messages on the dead-letter queue",
    "queued": "Messages on the task queue that nothing has received",
}
"""Figures of a pass, by name."""
COUNTERS = {"reported": "Tasks that only the reconciler reported"}


def reconciler_name(settings: WorkflowSettings) -> str:
    """Of the CronWorkflow."""
    return f"{settings.name}-reconcile"


def reconciler_namespace(settings: WorkflowSettings) -> str | None:
    """Its namespace; None: the one it is applied to."""
    return settings.reconciler_namespace or settings.namespace


def stands_apart(settings: WorkflowSettings) -> bool:
    """Whether its namespace is not that of the runs."""
    return reconciler_namespace(settings) != settings.namespace


def reconciler(settings: WorkflowSettings | None = None) -> CronWorkflow:
    """The CronWorkflow.

    Args:
        settings: of the deployment; the defaults if None.

    Raises:
        UsageError: it is to stand apart from runs whose namespace is not said.
    """
    settings = settings or WorkflowSettings()
    if settings.reconciler_namespace and not settings.namespace:
        raise UsageError("reconciler_namespace is set and namespace is not: set that of the runs, or neither")
    labels = {"app.kubernetes.io/name": ACCOUNT, "app.kubernetes.io/part-of": "reelscan"}
    of_runs = [f"--namespace={settings.namespace}"] if settings.namespace else []
    cron = CronWorkflow(
        name=reconciler_name(settings),
        namespace=reconciler_namespace(settings),
        labels=labels,
        schedules=["* * * * *"],
        concurrency_policy="Forbid",
        # Where Argo holds Workflows back it begins one at a time, of all namespaces: this before any run.
        priority=HIGHEST_PRIORITY + 1,
        starting_deadline_seconds=30,
        successful_jobs_history_limit=1,
        failed_jobs_history_limit=3,
        entrypoint=ENTRYPOINT,
        service_account_name=ACCOUNT,
        automount_service_account_token=False,
        executor=m.ExecutorConfig(service_account_name=settings.executor_account),
        security_context=POD_SECURITY,
        pod_metadata=m.Metadata(labels=labels, annotations=POD_ANNOTATIONS),
        workflow_metadata=m.WorkflowMetadata(annotations={"workflows.argoproj.io/title": "Reelscan reconciler"}),
        pod_gc=m.PodGC(strategy="OnPodSuccess", delete_delay_duration="30s"),
        pod_priority_class_name=settings.priority_class,
        image_pull_secrets=settings.image_pull_secret,
        active_deadline_seconds=LIMIT_SECONDS,
    )
    with cron:
        Step(
            name=ENTRYPOINT,
            display_name="reconcile",
            image=settings.steps_image,
            image_pull_policy=settings.image_pull_policy,
            command=["reelscan"],
            args=[
                "reconcile",
                *of_runs,
                "--own-created-at={{workflow.creationTimestamp.RFC3339}}",
                f"--figures={_FIGURES}",
            ],
            # Unlike the steps, it asks Kubernetes.
            automount_service_account_token=True,
            env=[
                *environment(settings),
                m.EnvVar(name=variable_of("task_queue"), value=settings.task_queue),
            ],
            env_from=keys(settings),
            resources=requirements(RESOURCES),
            security_context=CONFINED,
            volumes=scratch_volumes(),
            volume_mounts=scratch_mounts(),
            node_selector=settings.standard_nodes.node_selector or None,
            tolerations=tolerations(settings.standard_nodes),
            outputs=[Parameter(name=name, value_from=m.ValueFrom(path=f"{_FIGURES}/{name}")) for name in _FIGURE_NAMES],
            metrics=m.Metrics(prometheus=_metrics(settings)),
        )
    return cron


_FIGURE_NAMES = (*GAUGES, *COUNTERS)


def _metrics(settings: WorkflowSettings) -> list[m.Prometheus]:
    labels = metric_labels(settings)
    whole = "{{status}} == Succeeded"
    gauges = [
        m.Prometheus(
            name=f"reelscan_{name}", help=text, labels=labels, when=whole,
            gauge=m.Gauge(value=f"{{{{outputs.parameters.{name}}}}}", realtime=False),
        )
        for name, text in GAUGES.items()
    ]  # fmt: skip
    counters = [
        m.Prometheus(
            name=f"reelscan_{name}_total", help=text, labels=labels, when=whole,
            counter=m.Counter(value=f"{{{{outputs.parameters.{name}}}}}"),
        )
        for name, text in COUNTERS.items()
    ]  # fmt: skip
    passes = m.Prometheus(
        name="reelscan_reconciler_passes_total",
        help="Passes of the reconciler, by how they ended",
        labels=[*labels, m.MetricLabel(key="status", value="{{status}}")],
        counter=m.Counter(value="1"),
    )
    return [*gauges, *counters, passes]

"""The workflow: two ways to do a task, and what is done when a run fails."""

from __future__ import annotations

from hera.workflows import DAG, Parameter, Step, Steps, Task, WorkflowTemplate
from hera.workflows import models as m

from steps.options import Options, flag_of
from workflows.containers import (
    ARTIFACTS_KEY,
    POD_ANNOTATIONS,
    POD_SECURITY,
    RUNS_KEY,
    WORK,
    WORKFLOW_LABEL,
    artifacts_name,
    limits_name,
    metric_labels,
    result_artifacts,
    step,
)  # fmt: skip
from workflows.containers import Step as ContainerStep
from workflows.settings import WorkflowSettings

MAIN = "main"
SINGLE = "single"
FINISH = "finish"
REPORT_FAILURE = "report-failure"
FINISH_SECONDS = 600
"""For reporting a failure, which the Workflow's deadline does not end."""
# The priority is a field of the Workflow.
_OPTIONS = [name for name in Options.model_fields if name != "priority"]
_RUN_SECONDS = [m.Amount(root=seconds) for seconds in (15, 30, 60, 120, 300, 600, 1800, 3600, 10800, 21600)]
_ENDED = "detect.Succeeded || detect.Failed || detect.Errored || detect.Skipped"

# Fixed words only: what nodes say may hold anything.
_STOPPED = "(shutdown|Stopped) with strategy"
_OVERDUE = (
    "exceeded its deadline|exceeded workflow deadline|longer than the specified deadline|deadline exceeded|timed out"
)


def _by_failure(stopped: str, overdue: str, otherwise: str) -> str:
    return (
        f"{{{{=workflow.failures matches '{_STOPPED}' ? '{stopped}' : "
        f"(workflow.failures matches '{_OVERDUE}' ? '{overdue}' : '{otherwise}')}}}}"
    )


def _failed_at() -> str:
    """When the last node failed, those of the exit handler aside: after all that earlier attempts reported.

    Argo gives the failures as a list in JSON, which it quotes once more: no message holds a quote that is escaped once.
    """

    def quoted(text: str) -> str:
        return text.replace("'", r'\\"')

    handler = quoted(
        f",'templateName':'({FINISH}|{REPORT_FAILURE})','phase':'[A-Za-z]+','podName':'[^\"]+','finishedAt':'[^\"]+\""
    )
    time = quoted("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z'}")
    others = f"sprig.regexReplaceAll({_literal(handler)}, workflow.failures, '')"
    times = f"sort(concat([''], sprig.regexFindAll({_literal(time)}, {others}, -1)))"
    return f"{{{{=sprig.substr(0, {len('2026-01-31T12:00:00Z')}, last({times}))}}}}"


def _literal(text: str) -> str:
    """A text in expr-lang."""
    escaped = text.replace("\\", r"\\").replace("'", r"\'")
    return f"'{escaped}'"


_CODE = _by_failure("stopped", "timeout", "internal")
_REASON = _by_failure(
    "the run was stopped",
    "the run, or a pod of it, took longer than it may",
    "a pod of the run failed for good and could not say why",
)


def workflow_template(settings: WorkflowSettings | None = None) -> WorkflowTemplate:
    """The WorkflowTemplate.

    Args:
        settings: of the deployment; the defaults if None.

    Returns:
        Hera's object, to which steps may be added before it is created, printed by `to_yaml()` or built by `build()`.
    """
    settings = settings or WorkflowSettings()
    template = WorkflowTemplate(
        name=settings.name,
        namespace=settings.namespace,
        labels={"app.kubernetes.io/name": "reelscan", "app.kubernetes.io/part-of": "reelscan"},
        annotations={
            "workflows.argoproj.io/title": "Reelscan",
            "workflows.argoproj.io/description": "Finds objects in a video. "
            "`main` analyses chunks in pods of their own, `single` all in one pod.",
        },
        entrypoint=settings.entrypoint,
        on_exit=REPORT_FAILURE,
        arguments=parameters(),
        workflow_metadata=m.WorkflowMetadata(
            labels={WORKFLOW_LABEL: settings.name},
            annotations={
                "workflows.argoproj.io/title": "{{=workflow.parameters.title != '' ? workflow.parameters.title : "
                "workflow.parameters.object != '' ? workflow.parameters.bucket + '/' + workflow.parameters.object : "
                "'message ' + (workflow.parameters.message_id != '' ? workflow.parameters.message_id : "
                "workflow.name)}}",
                "workflows.argoproj.io/description": "Objects in the video; results below "
                f"`{settings.results.rstrip('/')}/`",
            },
        ),
        service_account_name=settings.service_account,
        automount_service_account_token=False,
        executor=m.ExecutorConfig(service_account_name=settings.executor_account),
        security_context=POD_SECURITY,
        pod_metadata=m.Metadata(
            labels={"app.kubernetes.io/name": "reelscan", WORKFLOW_LABEL: settings.name}, annotations=POD_ANNOTATIONS
        ),
        synchronization=m.Synchronization(
            semaphores=[
                m.SemaphoreRef(config_map_key_ref=m.ConfigMapKeySelector(name=limits_name(settings), key=RUNS_KEY))
            ]
        ),
        metrics=_metrics(settings),
        artifact_repository_ref=None
        if settings.artifacts is None
        else m.ArtifactRepositoryRef(config_map=artifacts_name(settings), key=ARTIFACTS_KEY),
        pod_gc=m.PodGC(strategy="OnPodSuccess", delete_delay_duration="30s"),
        pod_priority_class_name=settings.priority_class,
        image_pull_secrets=settings.image_pull_secret,
        ttl_strategy=m.TTLStrategy(
            seconds_after_success=settings.keep_succeeded_seconds,
            seconds_after_failure=settings.keep_failed_seconds,
        ),
        active_deadline_seconds=settings.job_limit_seconds + settings.pending_seconds,
    )
    # What is made within belongs to it.
    with template:
        _add_templates(settings)
    return template


def _metrics(settings: WorkflowSettings) -> m.Metrics:
    """What the controller tells Prometheus of each run that ends, as `argo_workflows_reelscan_...`."""
    labels = metric_labels(settings)
    return m.Metrics(
        prometheus=[
            m.Prometheus(
                name="reelscan_runs_total",
                help="Runs that ended, by phase",
                labels=[*labels, m.MetricLabel(key="phase", value="{{workflow.status}}")],
                counter=m.Counter(value="1"),
            ),
            m.Prometheus(
                name="reelscan_run_seconds",
                help="Seconds that a run took, once it was running",
                labels=labels,
                histogram=m.Histogram(value="{{workflow.duration}}", buckets=_RUN_SECONDS),
            ),
        ]
    )


def parameters() -> list[Parameter]:
    """The workflow's parameters: a message, or what a person gives by hand."""
    options = [
        Parameter(
            name=name,
            value="",
            description=f"{Options.model_fields[name].description}; empty: the deployment's default",
        )
        for name in _OPTIONS
    ]
    return [
        Parameter(name="body", value="", description="a message from the task queue, base64-encoded"),
        Parameter(name="message_id", value="", description="its id; empty: the workflow's uid"),
        Parameter(name="bucket", value="", description="bucket of the video, instead of body"),
        Parameter(name="object", value="", description="key of the video, instead of body"),
        Parameter(name="id", value="", description="the sender's own token, returned unchanged"),
        *options,
        Parameter(name="title", value="", description="of the run, for people; empty: bucket and key"),
    ]


def _add_templates(settings: WorkflowSettings) -> None:
    plan = step(
        settings,
        "plan",
        "plan",
        [
            "plan",
            *task_flags(),
            *report_flags(),
            "--report",
            f"--runs-file={WORK}/runs.json",
            f"--chunks-file={WORK}/chunks.json",
            _ARTIFACTS_FLAG,
        ],
        resources=settings.plan_resources,
        placement=settings.standard_nodes,
        work_seconds=settings.plan_limit_seconds,
        outputs=[
            Parameter(name="runs", value_from=m.ValueFrom(path=f"{WORK}/runs.json")),
            Parameter(name="chunks", value_from=m.ValueFrom(path=f"{WORK}/chunks.json")),
            *result_artifacts(settings),
        ],
    )
    detect = step(
        settings,
        "detect",
        "chunk-{{inputs.parameters.name}}",
        ["detect", *run_flags(settings), "--chunk={{inputs.parameters.index}}", _LEASE_FLAG],
        inputs=["run", "plan", "index", "name"],
        resources=settings.detect_resources,
        placement=settings.inference_nodes,
        work_seconds=settings.chunk_limit_seconds,
        with_server=True,
    )
    merging = [
        "aggregate",
        *run_flags(settings),
        *task_flags(),
        "--record={{inputs.parameters.record}}",
        *report_flags(),
        _LEASE_FLAG,
        _ARTIFACTS_FLAG,
    ]
    aggregate = step(
        settings,
        "aggregate",
        "aggregate",
        merging,
        inputs=["run", "plan", "record"],
        resources=settings.aggregate_resources,
        placement=settings.standard_nodes,
        work_seconds=settings.aggregate_limit_seconds,
        outputs=result_artifacts(settings),
    )
    detect_and_aggregate = step(
        settings,
        "detect-and-aggregate",
        "chunk-{{inputs.parameters.name}}-and-aggregate",
        [*merging, "--chunk={{inputs.parameters.index}}"],
        inputs=["run", "plan", "record", "index", "name"],
        resources=settings.detect_resources,
        placement=settings.inference_nodes,
        work_seconds=settings.chunk_limit_seconds,
        with_server=True,
        outputs=result_artifacts(settings),
    )
    whole_job = step(
        settings,
        "whole-job",
        "plan-detect-aggregate",
        ["job", *task_flags(), *report_flags(), _LEASE_FLAG, _ARTIFACTS_FLAG],
        resources=settings.detect_resources,
        placement=settings.inference_nodes,
        work_seconds=settings.job_limit_seconds,
        with_server=True,
        outputs=result_artifacts(settings),
    )
    finish = step(
        settings,
        FINISH,
        FINISH,
        [
            "finish",
            *task_flags(),
            *report_flags(),
            f"--code={_CODE}",
            f"--message={_REASON}",
            f"--failed-at={_failed_at()}",
        ],
        resources=settings.aggregate_resources,
        placement=settings.standard_nodes,
        work_seconds=FINISH_SECONDS,
    )
    _add_main(plan)
    _add_single(whole_job)
    _add_analyse(settings, detect, aggregate, detect_and_aggregate)
    _add_report_failure(finish)


def task_flags() -> list[str]:
    """What each step that reads the task is given of the workflow's parameters."""
    return [
        "--body={{workflow.parameters.body}}",
        "--message-id={{=workflow.parameters.message_id != '' ? workflow.parameters.message_id : workflow.uid}}",
        "--received-at={{workflow.creationTimestamp.RFC3339}}",
        "--bucket={{workflow.parameters.bucket}}",
        "--object={{workflow.parameters.object}}",
        "--id={{workflow.parameters.id}}",
        *(f"{flag_of(name)}={{{{workflow.parameters.{name}}}}}" for name in _OPTIONS),
    ]


def run_flags(settings: WorkflowSettings) -> list[str]:
    """What each step that works on a run is given."""
    return [f"--run={settings.results.rstrip('/')}/{{{{inputs.parameters.run}}}}", "--plan={{inputs.parameters.plan}}"]


def report_flags() -> list[str]:
    """What each step that reports is given."""
    return ["--workflow={{workflow.name}}"]


_ARTIFACTS_FLAG = f"--artifacts={WORK}/artifacts"
_LEASE_FLAG = "--lease-owner={{workflow.uid}}"


def _add_main(plan: ContainerStep) -> None:
    """Plan, then a run for each task of the message that is left to compute."""
    with DAG(name=MAIN, fail_fast=False):
        planned = Task(name="plan", template=plan)
        item = {name: f"{{{{item.{name}}}}}" for name in ("record", "run", "plan", "alone")}
        runs = Task(
            name="analyse",
            template="analyse",
            with_param="{{tasks.plan.outputs.parameters.runs}}",
            # The chunks do not stand in the items: those become parts of the names of all nodes below.
            arguments={**item, "chunks": "{{tasks.plan.outputs.parameters.chunks}}"},
        )
        planned >> runs


def _add_single(whole_job: ContainerStep) -> None:
    with DAG(name=SINGLE):
        Task(name="whole-job", template=whole_job)


def _add_analyse(
    settings: WorkflowSettings, detect: ContainerStep, aggregate: ContainerStep, detect_and_aggregate: ContainerStep
) -> None:
    """Analyse the chunks of a run that lack, and merge all; a plan's only chunk in one pod. Equal runs take turns."""
    run = {name: f"{{{{inputs.parameters.{name}}}}}" for name in ("run", "plan")}
    record = {"record": "{{inputs.parameters.record}}"}
    chunks = "{{{{=toJson(jsonpath(inputs.parameters.chunks, '$.r' + inputs.parameters.record + '.{}'))}}}}"
    chunk = {"index": "{{item.index}}", "name": "{{item.name}}"}
    with DAG(
        name="analyse",
        inputs=[Parameter(name=name) for name in ("record", "run", "plan", "alone", "chunks")],
        # A chunk that fails for good does not take the others along.
        fail_fast=False,
        parallelism=settings.parallelism,
        synchronization=m.Synchronization(mutexes=[m.Mutex(name="{{inputs.parameters.run}}")]),
    ):
        Task(
            name="detect",
            template=detect,
            with_param=chunks.format("detect"),
            arguments={**run, **chunk},
        )
        Task(
            name="aggregate",
            template=aggregate,
            when="{{inputs.parameters.alone}} != 1",
            depends=_ENDED,
            arguments={**run, **record},
        )
        Task(
            name="detect-and-aggregate",
            template=detect_and_aggregate,
            with_param=chunks.format("detect_and_aggregate"),
            arguments={**run, **record, **chunk},
        )


def _add_report_failure(finish: ContainerStep) -> None:
    """The exit handler, which has no pod when the run succeeded. A DAG here would be given up by `argo stop`."""
    with Steps(name=REPORT_FAILURE):
        Step(name=FINISH, template=finish, when="{{workflow.status}} != Succeeded")

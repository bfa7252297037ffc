"""Templates whose pods run `reelscan` in the steps image, with or without a model server beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hera.workflows import Artifact, Container, Parameter, RetryStrategy
from hera.workflows import models as m
from hera.workflows.archive import NoneArchiveStrategy

from steps.processes import SERVING_MALLOC
from steps.results import MISSING_KEY, OUTPUT_KEYS, SUMMARY_KEY
from workflows.settings import PORT, Placement, Resources, WorkflowSettings

WORK = "/work"
"""A step's only writable folder besides /tmp."""
PROFILE_FOLDER = "/etc/reelscan"
PROFILE_FILE = f"{PROFILE_FOLDER}/reelscan.json"
USER_ID = 1000
ARTIFACTS_KEY = "s3"
RUNS_KEY = "runs"
"""In the ConfigMap of limits: how many runs may go on at a time."""
WORKFLOW_LABEL = "reelscan.dev/workflow"
"""Of runs, and of their pods: the template's name."""

ARTIFACTS = {
    "summary": SUMMARY_KEY,
    "frames": OUTPUT_KEYS["frames"],
    "detections": OUTPUT_KEYS["parquet"],
    "coco": OUTPUT_KEYS["coco"],
    "rekognition": OUTPUT_KEYS["rekognition"],
    "missing": MISSING_KEY,
}
"""Result files that the UI shows, by the name of their artifact."""


@dataclass(kw_only=True)
class Step(Container):
    """A container template whose nodes have a name for people in the UI.

    The annotation is one of the template; Hera's `annotations` are those of the pod.
    """

    display_name: str = ""

    def _build_template(self) -> m.Template:
        template = super()._build_template()
        template.annotations = {"workflows.argoproj.io/display-name": self.display_name}
        return template


def step(
    settings: WorkflowSettings, name: str, display_name: str, args: list[str], *, resources: Resources,
    placement: Placement, work_seconds: int, with_server: bool = False, inputs: list[str] | None = None,
    outputs: list[Parameter | Artifact] | None = None, **more: Any,
) -> Step:  # fmt: skip
    """A step of the workflow.

    Args:
        args: of `reelscan`.
        resources: of the container; of the retry too.
        work_seconds: after which the pod is ended, counted from when a node takes it.
        with_server: whether a model server runs beside it.
        inputs: names of its parameters.
        outputs: parameters and artifacts.
        more: further arguments of Hera's Container.
    """
    return Step(
        name=name,
        display_name=display_name,
        image=settings.steps_image,
        image_pull_policy=settings.image_pull_policy,
        # Without it the controller asks the image's registry, from which it may be barred.
        command=["reelscan"],
        args=args,
        inputs=[Parameter(name=parameter) for parameter in inputs or []],
        outputs=outputs or [],
        env=environment(settings),
        env_from=keys(settings),
        resources=requirements(resources),
        security_context=CONFINED,
        volumes=volumes(settings),
        volume_mounts=mounts(settings),
        init_containers=[model_server(settings)] if with_server else None,
        node_selector=placement.node_selector or None,
        tolerations=tolerations(placement),
        annotations={"workflows.argoproj.io/progress": "0/100"},
        # Counts from when a node takes the pod. Waiting for one is limited by the Workflow's own, longer deadline: a
        # `timeout` here would replace this one, and does not end a pod that waits.
        active_deadline_seconds=work_seconds,
        retry_strategy=retries(settings),
        pod_spec_patch=memory_patch(resources, settings.serving.resources if with_server else None),
        **more,
    )


def retries(settings: WorkflowSettings) -> RetryStrategy:
    """Retries of what may pass by, and of nothing else.

    Decided by the exit code of the step alone where there is one: with a model server beside it that fails too, the
    node's status and message may be the server's. It is -1 for a pod that ended without one (deleted, evicted, lost
    with its node), and 0 if Argo's own container failed (operator.go, buildRetryStrategyLocalScope).
    """
    # The words of the kubelet and of Argo for time limits; others' deadlines, such as S3's, may be kept the next time.
    overdue = "lastRetry.message matches 'longer than the specified deadline|exceeded its deadline'"
    passing = "lastRetry.exitCode in ['-1', '0', '4', '64', '143']"
    # A retry has more memory, so only the first attempt may be killed for the lack of it and be tried again.
    out_of_memory = "lastRetry.exitCode == '137' && retries == '0'"
    evicted = (
        "lastRetry.exitCode == '137' && lastRetry.message matches '(?i)evict|low on resource|node shutdown|preempt'"
    )
    return RetryStrategy(
        limit=str(settings.retries),
        retry_policy="Always",
        expression=f"not ({overdue}) && ({passing} || ({out_of_memory}) || ({evicted}))",
        backoff=m.Backoff(duration=f"{settings.retry_seconds}s", factor=m.IntOrString(root="2"), cap="5m"),
    )


def memory_patch(resources: Resources, server: Resources | None) -> str:
    """What changes from one attempt to the next, in JSON.

    Args:
        resources: of the step.
        server: of the model server beside it; None: there is none. Killed for the lack of memory it is started again,
            and the step, which waits for it, gives up at last: its retry finds a larger one where the settings say so.
            Twice as much, as for a step, might fit no node.
    """
    # Progress is shown within seconds, not once a minute.
    shown = (
        '{"name":"wait","env":[{"name":"ARGO_PROGRESS_PATCH_TICK_DURATION","value":"2s"},'
        '{"name":"ARGO_PROGRESS_FILE_TICK_DURATION","value":"1s"}]}'
    )
    servers = ""
    if server is not None and server.memory_after_failure is not None:
        servers = f',"initContainers":[{_memory_of_attempt("serving", server)}]'
    return f'{{"containers":[{_memory_of_attempt("main", resources)},{shown}]{servers}}}'


def _memory_of_attempt(name: str, resources: Resources) -> str:
    # Text in double braces is evaluated for each attempt.
    memory = f"{{{{=retries == '0' ? '{resources.memory}' : '{resources.retry_memory}'}}}}"
    amounts = f'{{"memory":"{memory}"}}'
    return f'{{"name":"{name}","resources":{{"requests":{amounts},"limits":{amounts}}}}}'


POD_SECURITY = m.PodSecurityContext(
    run_as_non_root=True,
    # Argo's image names no user by number.
    run_as_user=USER_ID,
    fs_group=USER_ID,
    seccomp_profile=m.SeccompProfile(type="RuntimeDefault"),
)
POD_ANNOTATIONS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}

CONFINED = m.SecurityContext(
    allow_privilege_escalation=False,
    read_only_root_filesystem=True,
    run_as_non_root=True,
    run_as_user=USER_ID,
    capabilities=m.Capabilities(drop=["ALL"]),
    seccomp_profile=m.SeccompProfile(type="RuntimeDefault"),
)
"""Of the containers that we bring along."""


def environment(settings: WorkflowSettings) -> list[m.EnvVar]:
    """Variables of a step: what the deployment fixes."""
    path = PROFILE_FILE if settings.profile_text() is not None else settings.model_profile
    values = {
        **settings.environment(profile_path=path),
        **SERVING_MALLOC,
        "HOME": "/tmp",  # noqa: S108 - a volume of the pod's own
    }
    if settings.aws_region is not None:
        values["AWS_REGION"] = values["AWS_DEFAULT_REGION"] = settings.aws_region
    if settings.aws_endpoint_url is not None:
        values["AWS_ENDPOINT_URL"] = settings.aws_endpoint_url
    return [m.EnvVar(name=name, value=value) for name, value in values.items()]


def keys(settings: WorkflowSettings) -> list[m.EnvFromSource] | None:
    """Variables with AWS' keys, where a Secret holds them."""
    if not settings.aws_secret:
        return None
    return [m.EnvFromSource(secret_ref=m.SecretEnvSource(name=settings.aws_secret))]


def tolerations(placement: Placement) -> list[m.Toleration] | None:
    """Taints of nodes that do not keep a pod away."""
    return [m.Toleration(**toleration.model_dump(exclude_none=True)) for toleration in placement.tolerations] or None


def requirements(resources: Resources, gpus: int = 0) -> m.ResourceRequirements:
    """Requests and limits of a container."""
    fixed = {
        "memory": m.Quantity(root=resources.memory),
        "ephemeral-storage": m.Quantity(root=resources.ephemeral_storage),
    }
    accelerator = {"nvidia.com/gpu": m.Quantity(root=str(gpus))} if gpus else {}
    cpu = {"cpu": m.Quantity(root=resources.cpu)}
    return m.ResourceRequirements(requests={**cpu, **fixed}, limits={**fixed, **accelerator})


def model_server(settings: WorkflowSettings) -> m.UserContainer:
    """The model server as a native sidecar: started before the step, and stopped after it.

    The step waits for the model itself, for `start_seconds`, and says so when it never gets ready. With a startup probe
    the kubelet would start the server again and again and the step not at all, until the chunk's time is over. Hera's
    own UserContainer loses `restart_policy`.
    """
    serving = settings.serving
    return m.UserContainer(
        name="serving",
        image=serving.image,
        image_pull_policy=settings.image_pull_policy,
        command=serving.command,
        args=serving.args or None,
        env=[m.EnvVar(name=name, value=value) for name, value in sorted(serving.environment.items())] or None,
        restart_policy="Always",
        ports=[m.ContainerPort(container_port=PORT, name="grpc")],
        resources=requirements(serving.resources, gpus=1 if settings.accelerator == "gpu" else 0),
        security_context=CONFINED,
        volume_mounts=[m.VolumeMount(name="serving-tmp", mount_path="/tmp")],  # noqa: S108
    )


def volumes(settings: WorkflowSettings) -> list[m.Volume]:
    """A step's pod's volumes: scratch space, that of the model server too, and the model profile."""
    made = [*scratch_volumes(), _scratch_volume("serving-tmp")]
    if settings.profile_text() is not None:
        profile = m.ConfigMapVolumeSource(name=profile_name(settings))
        made.append(m.Volume(name="model-profile", config_map=profile))
    return made


def scratch_volumes() -> list[m.Volume]:
    """Scratch space of a pod, bounded."""
    return [_scratch_volume("tmp"), _scratch_volume("work")]


def _scratch_volume(name: str) -> m.Volume:
    return m.Volume(name=name, empty_dir=m.EmptyDirVolumeSource(size_limit=m.Quantity(root="512Mi")))


def mounts(settings: WorkflowSettings) -> list[m.VolumeMount]:
    """Where a step finds them."""
    made = scratch_mounts()
    if settings.profile_text() is not None:
        made.append(m.VolumeMount(name="model-profile", mount_path=PROFILE_FOLDER, read_only=True))
    return made


def scratch_mounts() -> list[m.VolumeMount]:
    """Where scratch space is found."""
    return [m.VolumeMount(name="tmp", mount_path="/tmp"), m.VolumeMount(name="work", mount_path=WORK)]  # noqa: S108


def metric_labels(settings: WorkflowSettings) -> list[m.MetricLabel]:
    """Which deployment a metric is about: all that the controller serves are in one list."""
    return [
        # The reconciler's own may be another.
        m.MetricLabel(key="namespace", value=settings.namespace or "{{workflow.namespace}}"),
        m.MetricLabel(key="workflow", value=settings.name),
    ]


def profile_name(settings: WorkflowSettings) -> str:
    """Name of the ConfigMap with the model profile."""
    return f"{settings.name}-model-profile"


def limits_name(settings: WorkflowSettings) -> str:
    """Name of the ConfigMap with the limits that Argo looks up while it runs."""
    return f"{settings.name}-limits"


def artifacts_name(settings: WorkflowSettings) -> str:
    """Name of the ConfigMap that says where artifacts go."""
    return f"{settings.name}-artifacts"


def result_artifacts(settings: WorkflowSettings) -> list[Parameter | Artifact]:
    """Copies of the result files, as far as they are there, for the UI; the results themselves lie elsewhere."""
    if settings.artifacts is None:
        return []
    return [
        Artifact(name=name, path=f"{WORK}/artifacts/{file}", archive=NoneArchiveStrategy(), optional=True)
        for name, file in ARTIFACTS.items()
    ]

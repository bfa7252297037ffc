# The cluster on AWS; the Makefile includes it. Each variable stands with its default; set others in custom.mk, in the environment or on
# the command line, without quotes about the value: make hands them on as they are. What may be set, and what is refused and why,
# says infra/settings.py; how they differ from the sample of 2019, docs/aws-sample.md.

# The stack, whose name is the end of the names of queues and buckets, and the EKS cluster (unset: the stack's name).
CLUSTER_STACK_NAME ?= reelscan
CLUSTER_NAME ?=
# The role by which CloudFormation works (unset: that of `make create-role`, or without it your own rights), and the user or role that may
# do all in the cluster (unset: you).
EKS_ADMIN_ROLE ?=
USER_ARN ?=
REGION ?= us-east-1
AZ_0 ?= $(REGION)a
AZ_1 ?= $(REGION)b
AZ_2 ?=

# nat, or endpoints: nodes reach AWS alone. both, public or private: from where the Kubernetes API answers.
NETWORK_EGRESS ?= nat
ENDPOINT_ACCESS ?= both
PUBLIC_ACCESS_CIDRS ?= 0.0.0.0/0
KUBERNETES_VERSION ?= 1.35
LOG_RETENTION_DAYS ?= 30

# cpu or gpu. eia, Elastic Inference, ended in April 2024 and is refused, and so is EI_TYPE (it was eia1.medium).
ACCELERATOR ?= cpu
EI_TYPE ?=
SSH_KEY_NAME ?=
# NODE_ASG_* count the standard nodes of all zones together, which share them.
# Three standard nodes or more once Reelscan is deployed, one for each replica of the bus: the autoscaler brings those that lack.
NODE_INSTANCE_TYPE ?= m5.large
INFERENCE_NODE_INSTANCE_TYPE ?= $(if $(filter gpu,$(ACCELERATOR)),g6.xlarge,c5.large)
NODE_ASG_MIN ?= 1
NODE_ASG_MAX ?= 5
NODE_ASG_DESIRED ?= 2
INFERENCE_NODE_ASG_MAX ?= 6
INFERENCE_NODE_ASG_MIN ?= 2
INFERENCE_NODE_ASG_DESIRED ?= 2
NODE_VOLUME_SIZE ?= 100
INFERENCE_NODE_VOLUME_SIZE ?= 100
INFERENCE_NODE_GROUP_NAME ?= inference
NODE_GROUP_NAME ?= standard
# true: inference nodes that AWS may take back, for less.
SPOT ?= false

# Argo Events fixes the first at 120 s; others are refused.
DEFAULT_SQS_TASK_VISIBILITY ?= 120
DEFAULT_SQS_TASK_COMPLETED_VISIBILITY ?= 500
# true: each upload to the bucket of videos whose key starts with NOTIFICATION_PREFIX is a task.
S3_NOTIFICATION ?= false
NOTIFICATION_PREFIX ?=
# Other objects that tasks may name: arn:aws:s3:::BUCKET/PREFIX*, with commas between.
MORE_SOURCE_ARNS ?=
ARTIFACT_RETENTION_DAYS ?= 30

ALARM_EMAIL ?=
QUEUE_AGE_SECONDS ?= 900
FAILED_RUNS_PER_HOUR ?= 1
BUDGET_USD_PER_MONTH ?= 0
BUDGET_EMAIL ?=

# What the sample knew and what means nothing today: refused, with the reason, when it is set.
LAMBDA_CR_BUCKET_PREFIX ?=
INFERENCE_SCALE_PERIODS ?=
INFERENCE_SCALE_OUT_THRESHOLD ?=
INFERENCE_SCALE_IN_THRESHOLD ?=
INFERENCE_BOOTSTRAP ?=
BOOTSTRAP ?=

# Argo is taken from these tags at GitHub, or from folders that hold the manifests of a cluster-install.
ARGO_WORKFLOWS_VERSION ?= v4.0.2
ARGO_EVENTS_VERSION ?= v1.9.9
ARGO_WORKFLOWS_MANIFESTS ?=
ARGO_EVENTS_MANIFESTS ?=
# The host of a PostgreSQL in which Workflows are kept: infra/argo/archive.
ARGO_ARCHIVE_HOST ?=
# Nodes without a way to the internet pull IMAGE_MIRROR/quay.io/argoproj/... instead.
IMAGE_MIRROR ?=
# A context of kubectl. `make install-argo` installs Argo alone into its cluster, which is not a stack's; unset, it takes the context that
# `make update-kubeconfig` made. `make deploy` and `make undeploy` work on its cluster; unset, on that of kubectl's current context.
KUBE_CONTEXT ?=

# For `make cost`: analysed frames a second of video, and those that a node analyses (0: infra/prices.yaml).
COST_ANALYSED_FPS ?= 5
COST_NODE_FPS ?= 0

# The stack's name again, for `make delete-cluster` and `make delete-role` where there is no terminal to ask at.
CONFIRM ?=
# true: delete the stack of a cluster that does not answer, though its volumes and load balancers stay.
DELETE_UNREACHABLE ?= false

aws-targets := preflight create-role create-cluster update-kubeconfig install-argo push-images status cost delete-cluster delete-role
.PHONY: $(aws-targets)

preflight: .venv/.installed-local ## name what is missing (tools, rights, quotas, zones, names) before anything is created on AWS
	@.venv/bin/python -m infra.preflight

create-role: .venv/.installed-local ## create the role that operates the stack, with no more rights than that takes
	@.venv/bin/python -m infra.role

create-cluster: .venv/.installed-local ## create the cluster on AWS, or bring it up to date: a quarter of an hour, and it costs money
	@.venv/bin/python -m infra.stack

update-kubeconfig: .venv/.installed-local ## make the cluster kubectl's
	@.venv/bin/python -m infra.kubeconfig

install-argo: .venv/.installed-local ## install Argo Workflows, Argo Events and the autoscaler in the cluster
	@.venv/bin/python -m infra.install_argo

push-images: .venv/.installed-local ## push what `make images` built to the stack's repositories in ECR
	@.venv/bin/python -m infra.push

status: .venv/.installed-local ## show how the stack, its nodes, queues and alarms are
	@.venv/bin/python -m infra.status

cost: .venv/.installed-local ## estimate what an idle hour and an hour of video cost
	@.venv/bin/python -m infra.cost

delete-cluster: .venv/.installed-local ## delete the cluster with its queues and buckets, and look for what is left
	@.venv/bin/python -m infra.cleanup

delete-role: .venv/.installed-local ## delete the role of create-role, once its stack is gone
	@.venv/bin/python -m infra.delete_role

aws-variables := CLUSTER_STACK_NAME CLUSTER_NAME EKS_ADMIN_ROLE USER_ARN REGION AZ_0 AZ_1 AZ_2 NETWORK_EGRESS ENDPOINT_ACCESS \
  PUBLIC_ACCESS_CIDRS KUBERNETES_VERSION LOG_RETENTION_DAYS ACCELERATOR EI_TYPE SSH_KEY_NAME NODE_INSTANCE_TYPE \
  INFERENCE_NODE_INSTANCE_TYPE NODE_ASG_MIN NODE_ASG_MAX NODE_ASG_DESIRED INFERENCE_NODE_ASG_MAX INFERENCE_NODE_ASG_MIN \
  INFERENCE_NODE_ASG_DESIRED NODE_VOLUME_SIZE INFERENCE_NODE_VOLUME_SIZE INFERENCE_NODE_GROUP_NAME NODE_GROUP_NAME SPOT \
  DEFAULT_SQS_TASK_VISIBILITY DEFAULT_SQS_TASK_COMPLETED_VISIBILITY S3_NOTIFICATION NOTIFICATION_PREFIX MORE_SOURCE_ARNS \
  ARTIFACT_RETENTION_DAYS ALARM_EMAIL QUEUE_AGE_SECONDS FAILED_RUNS_PER_HOUR BUDGET_USD_PER_MONTH BUDGET_EMAIL \
  LAMBDA_CR_BUCKET_PREFIX INFERENCE_SCALE_PERIODS INFERENCE_SCALE_OUT_THRESHOLD INFERENCE_SCALE_IN_THRESHOLD \
  INFERENCE_BOOTSTRAP BOOTSTRAP ARGO_WORKFLOWS_VERSION ARGO_EVENTS_VERSION ARGO_WORKFLOWS_MANIFESTS ARGO_EVENTS_MANIFESTS \
  ARGO_ARCHIVE_HOST IMAGE_MIRROR KUBE_CONTEXT COST_ANALYSED_FPS COST_NODE_FPS CONFIRM DELETE_UNREACHABLE \
  NAMESPACE IMAGE_REPOSITORY IMAGE_TAG CONTAINER_BUILD

$(call hand-over,$(aws-targets),INFRA_,$(aws-variables))

# Reelscan: `make help` lists the targets. custom.mk, where there is one, overrides any variable below.

-include custom.mk

# The Python (3.11 or later) that .venv is made with. Unset: python3.11, else python3.
PYTHON ?=
# Processes that `make test` runs tests in.
TEST_PROCESSES ?= 2
# More arguments for pytest, for example TEST_ARGS='-k lease'.
TEST_ARGS ?=
# HOST:PORT of the TensorFlow Serving server that `make test-serving` examines.
SERVING ?=

# What builds images: docker, podman or buildah, with arguments of its own if it needs any, for example
# CONTAINER_BUILD='buildah --storage-driver overlay'. Unset: the first of them that works.
CONTAINER_BUILD ?=
# More arguments for each build, for example '--platform linux/arm64'.
CONTAINER_BUILD_ARGS ?=
# Images are named IMAGE_REPOSITORY/steps:IMAGE_TAG and IMAGE_REPOSITORY/serving:IMAGE_TAG.
IMAGE_REPOSITORY ?= reelscan
IMAGE_TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# The folder of a SavedModel, or of its numbered versions, with its reelscan.json. Set: `make images` builds serving too.
SERVING_MODEL ?=
# The tag of tensorflow/serving; one that ends in -gpu is for GPUs.
SERVING_VERSION ?= 2.20.0
# The name under which the model is served.
SERVING_MODEL_NAME ?= ssd
# More arguments for `make lock`: --upgrade takes the newest versions.
LOCK_ARGS ?=

# What `make submit` submits: s3://BUCKET/KEY, OPTIONS='fps=2 labels=person,car' quoted as in a shell, ENTRYPOINT main or
# single (unset: the template's), NAMESPACE (unset: the kubeconfig's; of a stack of `make create-cluster`: video) and TEMPLATE.
VIDEO ?=
OPTIONS ?=
ENTRYPOINT ?=
NAMESPACE ?=
TEMPLATE ?= reelscan

# What `make deploy` and `make undeploy` work on, besides NAMESPACE and KUBE_CONTEXT (unset: kubectl's current one): a file of the
# workflow's settings (unset: the defaults), more of them as DEPLOY_ARGS='--set task_queue=tasks --set max_runs=50', quoted as in
# a shell, and a folder of events/overlays.
SETTINGS ?=
OVERLAY ?= aws
DEPLOY_ARGS ?=

# `make test-cluster` works on the cluster of KUBECONFIG. The variables AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY and, if it is not AWS, AWS_ENDPOINT_URL say which S3 and SQS the tests and the pods use. The image is
# the `embedded` target of images/steps/Dockerfile, under a name that the nodes can pull. More: docs/workflow.md.
CLUSTER_STEPS_IMAGE ?= reelscan/embedded:test
# A program that makes S3 and SQS fail by its argument refuse or hang, and work again by accept and resume. Unset: the tests
# that need it are left out.
CLUSTER_AWS ?=
# Processes that the tests on a cluster run in: most of their time they wait.
CLUSTER_PROCESSES ?= 2
# Chooses the messages and the faults of `make test-ledger`; COMPLETED=fifo makes its completed queue a FIFO queue.
SEED ?= 1
COMPLETED ?=
# How many messages `make test-load` sends at once.
LOAD_MESSAGES ?= 1000

# $(call hand-over,TARGETS,PREFIX,VARIABLES): recipes of TARGETS find each of VARIABLES in their environment, with PREFIX before its
# name, and write "$$PREFIX..." for it. So a value may hold spaces, quotes, `$HOME` and `$(...)`: no shell takes it for its own language.
# What itself is words of a command line, TEST_ARGS, LOCK_ARGS and DEPLOY_ARGS, stands in recipes as it is.
define hand-over
$(foreach name,$(3),$(eval $(1): export $(2)$(name) = $$(call as-given,$(name))))
$(foreach name,$(3),$(if $(filter command,$(origin $(name))),$(eval unexport $(name))))
endef
# Nor does make evaluate a value of its command line or of the environment; one of a makefile it does, as makefiles are. What it exports
# of itself, those of the command line, it would evaluate.
as-given = $(if $(filter command environment,$(origin $(1))),$(value $(1)),$($(1)))

include infra/aws.mk
$(call hand-over,.venv/bin/python,GIVEN_,PYTHON)
$(call hand-over,test,GIVEN_,TEST_PROCESSES)
$(call hand-over,test-serving,GIVEN_,SERVING)
$(call hand-over,images test-images,GIVEN_,CONTAINER_BUILD CONTAINER_BUILD_ARGS)
$(call hand-over,images,GIVEN_,IMAGE_REPOSITORY IMAGE_TAG SERVING_MODEL SERVING_VERSION SERVING_MODEL_NAME)
$(call hand-over,submit,GIVEN_,VIDEO OPTIONS ENTRYPOINT NAMESPACE TEMPLATE)
$(call hand-over,deploy undeploy,GIVEN_,SETTINGS NAMESPACE OVERLAY KUBE_CONTEXT)
$(call hand-over,bench-cluster test-cluster test-ledger test-load,GIVEN_,CLUSTER_STEPS_IMAGE)
$(call hand-over,test-cluster test-ledger test-load,GIVEN_,CLUSTER_AWS)
$(call hand-over,test-cluster,GIVEN_,CLUSTER_PROCESSES)
$(call hand-over,test-ledger,GIVEN_,SEED COMPLETED)
$(call hand-over,test-load,GIVEN_,LOAD_MESSAGES)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint lint-infra format ci bench bench-cluster docs test-serving test-tensorflow test-checkov images lock \
  test-images manifests submit deploy undeploy test-cluster test-ledger test-load clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z-]*:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed-local ## set up .venv with all that running on one machine, and submitting to a cluster, needs

demo: .venv/.installed-local ## do the whole job on the sample clip with an embedded service; results in out/demo/
	@.venv/bin/python -m local.demo

test: .venv/.installed-dev ## run the tests
	.venv/bin/pytest -n "$$GIVEN_TEST_PROCESSES" $(TEST_ARGS)

lint: .venv/.installed-dev ## check style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/hadolint images/*/Dockerfile
	.venv/bin/shellcheck .ci/run images/serving/serve

lint-infra: .venv/.installed-dev .venv-checkov/bin/checkov ## check the templates of infra/ with cfn-lint and checkov (0.3 GB)
	.venv/bin/cfn-lint --include-checks I --template infra/cluster.yaml infra/eia.yaml
	.venv-checkov/bin/checkov --framework cloudformation --skip-download --compact --quiet \
	  -f infra/cluster.yaml -f infra/eia.yaml

test-checkov: .venv/.installed-dev .venv-checkov/bin/checkov ## test that checkov finds nothing else in infra/ (0.3 GB)
	.venv/bin/pytest -m checkov tests/infra $(TEST_ARGS)

format: .venv/.installed-dev ## rewrite the code in the project's style
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

ci: ## do what continuous integration does: SHARED=FOLDER with a test cluster (../shared), or SHARED= to do without
	.ci/run

bench: .venv/.installed-dev ## measure detect against decoding alone and the server alone; JSON in out/bench/
	.venv/bin/python -m bench

bench-cluster: .venv/.installed-dev ## measure runs on the cluster of your kubeconfig; JSON in out/bench/
	CLUSTER_STEPS_IMAGE="$$GIVEN_CLUSTER_STEPS_IMAGE" .venv/bin/python -m bench.cluster

test-serving: .venv/.installed-dev ## examine a TensorFlow Serving server: make test-serving SERVING=host:port
	@test -n "$$GIVEN_SERVING" || { echo "SERVING is not set: make test-serving SERVING=host:port" >&2; exit 2; }
	SERVING="$$GIVEN_SERVING" .venv/bin/pytest tests/conformance $(TEST_ARGS)

test-tensorflow: .venv-tensorflow/.installed ## test serving a SavedModel, with TensorFlow (0.3 GB) in a venv of its own
	.venv-tensorflow/bin/pytest -m tensorflow tests/local/serving $(TEST_ARGS)

images: .venv/bin/python ## build the image of the steps, and of the model server if SERVING_MODEL is set
	.venv/bin/python -m images.build --tool="$$GIVEN_CONTAINER_BUILD" --tool-arguments="$$GIVEN_CONTAINER_BUILD_ARGS" \
	  --repository="$$GIVEN_IMAGE_REPOSITORY" --tag="$$GIVEN_IMAGE_TAG" --serving-model="$$GIVEN_SERVING_MODEL" \
	  --serving-version="$$GIVEN_SERVING_VERSION" --model-name="$$GIVEN_SERVING_MODEL_NAME"

lock: .venv/.installed-dev ## lock the versions in the images to what pyproject.toml allows, and list their licences
	.venv/bin/python -m images.lock $(LOCK_ARGS)
	.venv/bin/python -m images.third_party

test-images: .venv/.installed-dev ## build the images with CONTAINER_BUILD, and test what runs in them
	CONTAINER_BUILD="$$GIVEN_CONTAINER_BUILD" CONTAINER_BUILD_ARGS="$$GIVEN_CONTAINER_BUILD_ARGS" \
	  .venv/bin/pytest -m images tests/images $(TEST_ARGS)

manifests: .venv/.installed-dev ## render workflows/manifests/, of the defaults and of each of workflows/examples/
	.venv/bin/reelscan template --all --output workflows/manifests/default.yaml
	for settings in workflows/examples/*.yaml; do \
	  .venv/bin/reelscan template --all --settings "$$settings" --output "workflows/manifests/$${settings##*/}" || exit; \
	done

submit: .venv/.installed-local ## submit a video to Argo and follow the run: make submit VIDEO=s3://BUCKET/KEY
	@test -n "$$GIVEN_VIDEO" || { echo "VIDEO is not set: make submit VIDEO=s3://BUCKET/KEY" >&2; exit 2; }
	@.venv/bin/python -m workflows.submit --video="$$GIVEN_VIDEO" --options="$$GIVEN_OPTIONS" \
	  --entrypoint="$$GIVEN_ENTRYPOINT" --namespace="$$GIVEN_NAMESPACE" --template="$$GIVEN_TEMPLATE"

deploy: .venv/.installed-local ## make runs of the messages on a queue: make deploy NAMESPACE=video SETTINGS=settings.yaml
	@.venv/bin/python -m events.deploy apply $(deployment)

undeploy: .venv/.installed-local ## end that, after the runs that are under way have been accounted for
	@.venv/bin/python -m events.deploy delete $(deployment)

deployment = --settings="$$GIVEN_SETTINGS" --namespace="$$GIVEN_NAMESPACE" --overlay="$$GIVEN_OVERLAY" \
  --context="$$GIVEN_KUBE_CONTEXT" $(DEPLOY_ARGS)

test-cluster: .venv/.installed-dev ## test on the cluster of your kubeconfig, in namespaces that are removed after
	@$(check-cluster)
	@test -n "$$GIVEN_CLUSTER_AWS" || echo "CLUSTER_AWS is not set: leaving out the test for which S3 and SQS fail"
	$(on-cluster) -n "$$GIVEN_CLUSTER_PROCESSES" --dist loadfile -m "cluster and not aws_faults" tests/cluster $(TEST_ARGS)
	$(if $(call as-given,CLUSTER_AWS),$(on-cluster) -m "cluster and aws_faults" tests/cluster $(TEST_ARGS))

test-ledger: .venv/.installed-dev ## send 200 messages on the cluster while all is hit, and balance the books: SEED=n
	@$(check-cluster)
	@test -n "$$GIVEN_CLUSTER_AWS" || { echo "CLUSTER_AWS is not set to a program that makes S3 and SQS fail" >&2; exit 2; }
	SEED="$$GIVEN_SEED" COMPLETED="$$GIVEN_COMPLETED" $(on-cluster) -s -m ledger tests/cluster $(TEST_ARGS)

test-load: .venv/.installed-dev ## send a thousand messages at once on the cluster
	@$(check-cluster)
	LOAD_MESSAGES="$$GIVEN_LOAD_MESSAGES" $(on-cluster) -s -m load tests/cluster $(TEST_ARGS)

on-cluster = CLUSTER_STEPS_IMAGE="$$GIVEN_CLUSTER_STEPS_IMAGE" CLUSTER_AWS="$$GIVEN_CLUSTER_AWS" .venv/bin/pytest

define check-cluster
for program in kubectl argo; do \
  command -v $$program >/dev/null || { echo "tests on a cluster need the program $$program" >&2; exit 2; }; \
done; \
kubectl --request-timeout=20s get crd workflows.argoproj.io sensors.argoproj.io >/dev/null || { \
  echo "no cluster with Argo Workflows and Argo Events answers: set KUBECONFIG to the kubeconfig of one" >&2; exit 2; }; \
test -n "$$AWS_DEFAULT_REGION" && test -n "$$AWS_ACCESS_KEY_ID" && test -n "$$AWS_SECRET_ACCESS_KEY" || { \
  echo "set AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, which the pods are given too" >&2; exit 2; }
endef

docs: .venv/.installed-dev ## write docs/reference.md anew from the code
	.venv/bin/python docs/generate.py

clean: ## remove .venv, results in out/, and what the tools leave
	rm -rf .venv .venv-tensorflow .venv-checkov out build dist *.egg-info steps/_protos .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A stamp says what .venv holds, so that a second `make` starts at once and a changed pyproject.toml is followed.
.venv/.installed-local: pyproject.toml setup.py | .venv/bin/python
	@echo "Installing Python packages into .venv: about 240 MB to download at first, a minute or two"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[local,workflows,events]'
	@touch "$@"

.venv/.installed-dev: pyproject.toml setup.py | .venv/bin/python
	@echo "Installing Python packages into .venv, those for the tests too: over 250 MB to download at first, a minute or two"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/.installed-local "$@"

.venv/bin/python:
	@set -eu; \
	chosen="$$GIVEN_PYTHON"; \
	if [ -z "$$chosen" ]; then \
	  if command -v python3.11 >/dev/null 2>&1; then chosen=python3.11; else chosen=python3; fi; \
	fi; \
	if ! command -v "$$chosen" >/dev/null 2>&1; then \
	  echo "$$chosen was not found; install Python 3.11 or later, or say where it is: make PYTHON=/path/to/python3" >&2; \
	  exit 2; \
	fi; \
	if ! "$$chosen" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "$$chosen is $$("$$chosen" --version 2>&1), Reelscan needs 3.11 or later: make PYTHON=/path/to/python3" >&2; \
	  exit 2; \
	fi; \
	echo "making .venv with $$chosen"; \
	"$$chosen" -m venv .venv

.venv-tensorflow/.installed: pyproject.toml setup.py | .venv/.installed-dev
	.venv/bin/python -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' tensorflow-cpu
	@touch "$@"

# Of packages that differ from ours in what they need.
.venv-checkov/bin/checkov: | .venv/bin/python
	.venv/bin/python -m venv .venv-checkov
	.venv-checkov/bin/python -m pip install --quiet --disable-pip-version-check 'checkov>=3.3,<4'

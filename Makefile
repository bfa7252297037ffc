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

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint format ci bench docs test-serving test-tensorflow clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z-]*:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed-local ## set up .venv with all that running on one machine needs

demo: .venv/.installed-local ## do the whole job on the sample clip with an embedded service; results in out/demo/
	.venv/bin/python -m local.demo

test: .venv/.installed-dev ## run the tests
	.venv/bin/pytest -n "$(TEST_PROCESSES)" $(TEST_ARGS)

lint: .venv/.installed-dev ## check style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

format: .venv/.installed-dev ## rewrite the code in the project's style
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

ci: ## do what continuous integration does, and print the time of each stage
	.ci/run

bench: .venv/.installed-dev ## measure detect against decoding alone and the server alone; JSON in out/bench/
	.venv/bin/python -m bench

test-serving: .venv/.installed-dev ## examine a TensorFlow Serving server: make test-serving SERVING=host:port
	@test -n "$(SERVING)" || { echo "SERVING is not set: make test-serving SERVING=host:port" >&2; exit 2; }
	SERVING="$(SERVING)" .venv/bin/pytest tests/conformance $(TEST_ARGS)

test-tensorflow: .venv-tensorflow/.installed ## test serving a SavedModel, with TensorFlow (0.3 GB) in a venv of its own
	.venv-tensorflow/bin/pytest -m tensorflow tests/local/serving $(TEST_ARGS)

docs: .venv/.installed-dev ## write docs/reference.md anew from the code
	.venv/bin/python docs/generate.py

clean: ## remove .venv, results in out/, and what the tools leave
	rm -rf .venv .venv-tensorflow out build dist *.egg-info steps/_protos .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A stamp says what .venv holds, so that a second `make` starts at once and a changed pyproject.toml is followed.
.venv/.installed-local: pyproject.toml setup.py | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	@touch "$@"

.venv/.installed-dev: pyproject.toml setup.py | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/.installed-local "$@"

.venv/bin/python:
	@set -eu; \
	chosen="$(PYTHON)"; \
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

"""The stack, and the model server that the steps ask."""

from tests.coded import coded_server
from tests.infra.stacks import cluster_template, deploy

__all__ = ["cluster_template", "coded_server", "deploy"]

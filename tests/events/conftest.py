"""The deployment of tests/local, to which the environment leads, and a namespace, to which KUBECONFIG leads."""

from tests.events.kubernetes_api import api
from tests.local.conftest import deployment

__all__ = ["api", "deployment"]

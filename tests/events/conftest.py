"""The deployment of tests/local, to which the environment leads, and a namespace, to which KUBECONFIG leads."""

import pytest
from tenacity import wait_none

from events import kubernetes
from tests.events.kubernetes_api import api
from tests.local.conftest import deployment

__all__ = ["api", "deployment"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two requests to Kubernetes."""
    monkeypatch.setattr(kubernetes, "wait_exponential_jitter", lambda **_: wait_none())

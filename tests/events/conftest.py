"""The deployment of tests/local, to which the environment leads."""

from tests.local.conftest import deployment

__all__ = ["deployment"]

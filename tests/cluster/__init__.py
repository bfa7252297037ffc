"""Tests on a real cluster with Argo Workflows: `make test-cluster`."""

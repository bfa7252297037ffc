"""Strict validation of rendered Kubernetes objects, without a cluster."""

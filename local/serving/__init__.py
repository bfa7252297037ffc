"""The embedded model server: TensorFlow Serving's gRPC and REST interfaces over models of one machine."""

DEFAULT_QUEUE_SIZE = 32
"""Requests that may wait. Each holds its frames: 10 MB for 8 of 640x640."""

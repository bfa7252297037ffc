"""The embedded model server: TensorFlow Serving's gRPC and REST interfaces over models of one machine."""

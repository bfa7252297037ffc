"""The embedded parts that run the whole job on one machine: model server, S3 and SQS, runner."""

"""Flags that `run`, `up` and `send` share."""

from __future__ import annotations

import click

from steps.commands.flags import option_flags

__all__ = [
    "DEFAULT_PORT",
    "jobs_flag",
    "model_path_flag",
    "model_profile_flag",
    "option_flags",
    "port_flag",
    "serving_flag",
]

DEFAULT_PORT = 8580
"""Of the embedded S3 and SQS."""

serving_flag = click.option(
    "--serving",
    metavar="HOST:PORT",
    envvar="REELSCAN_SERVING",
    help="Use this TensorFlow Serving server. Default: the embedded one is started.",
)
model_path_flag = click.option(
    "--model-path",
    metavar="PATH",
    help="What the embedded server serves: a .tflite file, a SavedModel folder, or hog. Default: the sample model.",
)
model_profile_flag = click.option(
    "--model-profile", metavar="PATH", help="The model's profile. Default: reelscan.json beside the model."
)
jobs_flag = click.option(
    "--jobs",
    type=click.IntRange(0, 256),
    default=0,
    envvar="REELSCAN_JOBS",
    help="Chunks analysed at a time. Default: as many as there are cores, at most 8.",
)
port_flag = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the embedded S3 and SQS on 127.0.0.1.",
)

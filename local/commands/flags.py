"""Flags that `run`, `up` and `send` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from steps.options import Options

DEFAULT_PORT = 8580
"""Of the embedded S3 and SQS."""

# The flags of the options, where they are not the option's name.
_SPELLED = {"start_seconds": "--start", "end_seconds": "--end"}


def option_flags(*left_out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A flag for every option of a task but those left out. Each hands on text, or None where it is not given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(Options.model_fields.items()):
            if name in left_out:
                continue
            flag = _SPELLED.get(name, "--" + name.replace("_", "-"))
            if name == "force":
                decorator = click.option(flag, name, is_flag=True, flag_value="true", help=_sentence(field.description))
            else:
                decorator = click.option(flag, name, metavar=_metavar(name), help=_sentence(field.description))
            command = decorator(command)
        return command

    return decorate


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
    help="Chunks analysed at a time. Default: half as many as there are cores.",
)
port_flag = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the embedded S3 and SQS on 127.0.0.1.",
)


def _sentence(description: str | None) -> str:
    text = description or ""
    return text[:1].upper() + text[1:] + "."


def _metavar(name: str) -> str:
    return {"labels": "A,B", "outputs": "A,B", "model": "NAME"}.get(name, "NUMBER")

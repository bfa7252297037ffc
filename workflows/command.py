"""`reelscan template`: print the workflow's objects."""

from __future__ import annotations

from pathlib import Path

import click

from steps.errors import UsageError
from workflows.definition import workflow_template
from workflows.loading import load_settings
from workflows.objects import objects
from workflows.rendering import to_yaml


@click.command()
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file with settings by name; docs/reference.md lists them.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting that goes before the file's. The value is YAML; NAME may have dots: serving.image. Repeatable.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also what the template needs beside it: service accounts, role, config maps.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write to. Default: standard output."
)
def template(*, settings_file: Path | None, changes: tuple[str, ...], everything: bool, output: Path | None) -> None:
    """Print the WorkflowTemplate as YAML, for `kubectl apply -f -`."""
    settings = load_settings(settings_file, list(changes))
    text = to_yaml(objects(settings) if everything else [workflow_template(settings).to_dict()])
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}") from error

"""The command `reelscan`: finds the subcommand, and turns errors into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import NoReturn

import click

from steps.errors import EXIT_DEFECT, ReelscanError, StoppedError
from steps.signals import Terminated, terminate

EXIT_INTERRUPTED = 130

# Modules are imported when their command is called: a step must not pay for what another needs.
_COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("local.commands.run", "the whole job on one machine"),
    "up": ("local.commands.up", "the service on one machine: queue in, queue out"),
    "send": ("local.commands.send", "put tasks on the queue"),
    "serve": ("local.serving.command", "the embedded model server"),
    "plan": ("steps.commands.plan", "index a video and cut it into chunks (a step)"),
    "detect": ("steps.commands.detect", "analyse one chunk (a step)"),
    "aggregate": ("steps.commands.aggregate", "check and merge the chunks, report the result (a step)"),
    "job": ("steps.commands.job", "plan, detect and aggregate in one process beside a model server (a step)"),
    "finish": ("steps.commands.finish", "report what failed (a step)"),
    "reconcile": ("events.commands.reconcile", "account for the runs that could not report themselves"),
    "cancel": ("events.commands.cancel", "end the run of a task"),
    "redrive": ("events.commands.redrive", "put dead letters back on the task queue"),
    "template": ("workflows.command", "print the WorkflowTemplate"),
}
_OWN_EXTRAS = ("workflows", "events")
"""Folders that an image may lack, each with an extra of its name."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        try:
            module = importlib.import_module(_COMMANDS[name][0])
        except ModuleNotFoundError as error:
            missing = error.name or ""
            folder = _COMMANDS[name][0].partition(".")[0]
            extra = folder if folder in _OWN_EXTRAS else "local"
            if missing.split(".")[0] in ("steps", "local") or missing.startswith(
                tuple(f"{one}." for one in _OWN_EXTRAS)
            ):
                raise
            raise click.ClickException(
                f"{name} needs the package {missing!r}, which is not installed; pip install '.[{extra}]'"
            ) from error
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="reelscan", message="%(prog)s %(version)s")
def cli() -> None:
    """Find objects in video, exactly and at any scale.

    Exit status: 0 done; 2 usage; 3 bad input, never worth retrying; 4 something outside failed, worth retrying;
    5 a partial result; 130 and 143 stopped; 1 a defect.
    """


def main() -> NoReturn:
    """Run the command line and exit with the status of the contract."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        status = cli.main(standalone_mode=False)
    except ReelscanError as error:
        _say(str(error))
        status = error.exit_status
    except (click.exceptions.Abort, KeyboardInterrupt) as stop:
        # click makes its own Abort of a KeyboardInterrupt.
        terminated = isinstance(stop.__cause__ or stop, Terminated)
        _say("stopped by SIGTERM" if terminated else "interrupted")
        status = StoppedError.exit_status if terminated else EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "reelscan --help", err=True)
        status = error.exit_code
    except click.ClickException as error:
        _say(" ".join(error.format_message().split()))
        status = error.exit_code if isinstance(error, click.UsageError) else 2
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_DEFECT
    sys.exit(status if isinstance(status, int) else 0)


def _say(message: str) -> None:
    click.echo(f"reelscan: {message}", err=True)


if __name__ == "__main__":
    main()

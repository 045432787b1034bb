# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: one file per command, imported only when that command is called.

Exit statuses: 0 done; 1 failure, which includes output that can't be written; 2 wrong usage;
3 with --strict, when something was lost or is unknown; 130 interrupted. `mptrace record`,
`stat` and `lab` pass on the status of the command that they run.
"""

import importlib
from typing import Any

import click

from .. import __version__
from ..errors import EXIT_INTERRUPTED, MptraceError, OutputError
from .output import guarded, progress

#: Each is a module of this package with a click command called `command`.
COMMANDS = (
    "run",
    "record",
    "stat",
    "top",
    "where",
    "lab",
    "doctor",
    "conform",
    "report",
    "explain",
    "dump",
)


class LazyGroup(click.Group):
    """Imports commands when they are called, and prints an error with its way out."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """All commands, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command ``cmd_name``, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"{__name__}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; output that can't be written is an error even at the very end."""
        with guarded():
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an MptraceError or Ctrl-C becomes its exit status."""
        try:
            return super().invoke(ctx)
        except OutputError:
            raise
        except MptraceError as error:
            progress(error.message)
            if error.hint:
                click.echo(f"  {error.hint}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mptrace")
def main() -> None:
    """Trace page migration: what became of each page, at what cost, and why.

    `mptrace doctor` checks whether this host can do it. `mptrace run` moves pages
    and reports on them. On a machine with a single memory node, use a guest:
    `mptrace lab -- mptrace run`.
    """

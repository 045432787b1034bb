# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace where`: on which nodes a process's pages are."""

import json

import click

from mptrace.cli import terminal
from mptrace.cli.types import PID
from mptrace.units import parse_range


@click.command("where")
@click.option("-p", "--pid", type=PID, required=True, help="The process to look at.")
@click.option("--json", "as_json", is_flag=True, help="Print all mappings and the total as JSON.")
@click.argument("ranges", nargs=-1, metavar="[RANGE]...")
def command(pid: int, as_json: bool, ranges: tuple[str, ...]) -> None:
    """Show on which memory nodes the pages of a process are.

    Prints one line per mapping. RANGE is 0xSTART-0xEND, as in /proc/PID/maps;
    without one, all mappings are shown. It asks with move_pages(2) in query mode
    and moves nothing.
    """
    from mptrace.driving.where import where
    from mptrace.reporting.text.where import render_where

    answer = where(pid, tuple(parse_range(text) for text in ranges))
    if as_json:
        click.echo(json.dumps(answer.to_dict(), indent=2))
    else:
        click.echo(render_where(answer, width=terminal.width()))

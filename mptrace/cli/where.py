# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace where`: pages of a process per node and per state."""

import json

import click

from mptrace.cli import terminal
from mptrace.cli.types import PID
from mptrace.units import parse_range


@click.command("where")
@click.option("-p", "--pid", type=PID, required=True, help="Process to ask about.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with a total.")
@click.argument("ranges", nargs=-1, metavar="[RANGE]...")
def command(pid: int, as_json: bool, ranges: tuple[str, ...]) -> None:
    """Say on which memory nodes the pages of a process are, mapping by mapping.

    Asks with move_pages(2) in query mode and moves nothing.  RANGE is
    0xSTART-0xEND, as in /proc/PID/maps; without one, every mapping is asked
    about.  Addresses that are reserved but never touched are skipped in bulk.
    """
    from mptrace.driving.where import where
    from mptrace.reporting.text.where import render_where

    answer = where(pid, tuple(parse_range(text) for text in ranges))
    if as_json:
        click.echo(json.dumps(answer.to_dict(), indent=2))
    else:
        click.echo(render_where(answer, width=terminal.width()))

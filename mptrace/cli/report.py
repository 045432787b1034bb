# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace report`: a recording as the report it gave live."""

import json
from pathlib import Path

import click

from mptrace.cli import terminal
from mptrace.cli.options import recording_argument
from mptrace.cli.types import TIME, opened
from mptrace.errors import EXIT_OK, EXIT_STRICT


@click.command("report")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: raw nanoseconds, all numbers.")
@click.option("--histogram", is_flag=True, help="Add power-of-two histograms of the phases.")
@click.option(
    "--strict", is_flag=True, help="Leave with status 3 if anything was lost or is unknown."
)
@click.option(
    "--budget",
    "budget_ns",
    type=TIME,
    help="Name the largest batch whose measured p99 stays below TIME, such as 20ms.",
)
@recording_argument
def command(
    as_json: bool, histogram: bool, strict: bool, budget_ns: int | None, recording: Path
) -> None:
    """Print the report of RECORDING (mptrace.data), without root, on any machine.

    RECORDING may also be the name of a session that rotated: all its recordings.
    Says what became of each page, from the kernel's events; what the status
    array and the location say about it; where the time went; why pages stayed;
    who migrated by which path, and which threads had to wait for it.
    """
    status = print_report(
        recording, as_json=as_json, histogram=histogram, strict=strict, budget_ns=budget_ns
    )
    raise SystemExit(status)


def print_report(
    recording: Path,
    *,
    as_json: bool,
    histogram: bool,
    strict: bool,
    budget_ns: int | None = None,
) -> int:
    """Print the report of a recording; return the exit status."""
    from mptrace.report import render
    from mptrace.reporting.numbers.profile import is_clean, profile

    data = opened(recording)
    numbers = profile(
        data.tables(), data.meta, missing_parts=data.missing_parts, budget_ns=budget_ns
    )
    if as_json:
        click.echo(json.dumps(numbers, indent=2))
    else:
        click.echo(render(numbers, histogram=histogram, width=terminal.width()))
    return EXIT_STRICT if strict and not is_clean(numbers) else EXIT_OK

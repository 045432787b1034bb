# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace dump`: the rows behind a report."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mptrace.cli import terminal
from mptrace.cli.options import recording_argument
from mptrace.cli.types import opened
from mptrace.units import many

if TYPE_CHECKING:
    from mptrace.outcomes.plain_table import PlainTable

TABLES = (
    "entries",
    "calls",
    "migrations",
    "folios",
    "obstacles",
    "mappers",
    "waits",
    "processes",
)


@click.command("dump")
@click.option(
    "--table",
    type=click.Choice(TABLES),
    default="entries",
    show_default=True,
    help="The table to print.",
)
@click.option(
    "--failed",
    is_flag=True,
    help="Print only what did not succeed: entries that failed or were never attempted, calls "
    "with such an entry or an error, migrations that left something behind, folios that stayed, "
    "and their obstacles. Waits and processes can't fail, so all of them are printed.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "jsonl", "csv")),
    default="table",
    show_default=True,
    help="How to print it: 'table' shows the most useful columns; 'jsonl' and 'csv' have every "
    "column and one line per row, where a missing value is null or empty.",
)
@recording_argument
def command(table: str, failed: bool, form: str, recording: Path) -> None:
    """Print the rows behind a report, as a table, CSV or JSON lines.

    RECORDING is mptrace.data by default. The tables, and what one row of each is:

    \b
    entries     one entry of one call: address, target node, status, outcome
                and reason, location afterwards, whether the witnesses agree
    calls       one call of move_pages(2)
    migrations  one run of the kernel's migrate_pages(): who asked, by which path
    folios      what one migration did to one folio
    obstacles   what stood in a page's way, and the page's state at that moment
    mappers     a process that maps a page which was refused as shared
    waits       a thread that had to wait for a page under migration
    processes   a process that mptrace met

    The status of an entry is empty if the kernel left it untouched. `own` is true
    for mptrace's own pages, whoever moved them, and for its own waits.
    """
    from mptrace.outcomes.dump import dumped_table

    data = opened(recording)
    rows = dumped_table(table, data.tables(), data.meta, failed=failed)
    if not rows.count:
        click.echo(_why_none(table, rows.total, rows.unknown, failed=failed), err=True)
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows.names)
        writer.writerows(rows)
    else:
        for line in _json_lines(rows) if form == "jsonl" else _text_lines(rows):
            sys.stdout.write(line + "\n")


_NONE = {
    "entries": "the recording has no entries of calls",
    "calls": "the recording has no calls of move_pages(2)",
    "migrations": "the recording has no migrations",
    "folios": "the recording has no folios",
    "obstacles": "nothing refused or delayed a page in this recording",
    "mappers": "no mappings were recorded of a page that was refused as shared",
    "waits": "no thread waited for a page in this recording",
    "processes": "the recording does not describe processes",
}
# Of the tables whose rows may fail.
_SINGULAR = {
    "entries": "entry",
    "calls": "call",
    "migrations": "migration",
    "folios": "folio",
    "obstacles": "obstacle",
}


def _why_none(table: str, total: int, unknown: int, *, failed: bool) -> str:
    if failed and unknown:
        return f"no rows: of {total:,} {table} none is known to have failed; {unknown:,} unknown"
    if failed and total:
        return f"no rows: of {many(total, _SINGULAR[table], table)} none failed"
    return f"no rows: {_NONE[table]}"


def _json_lines(rows: "PlainTable") -> Iterator[str]:
    names = rows.names
    for row in rows:
        yield json.dumps(dict(zip(names, row, strict=True)))


def _text_lines(rows: "PlainTable") -> Iterator[str]:
    from mptrace.reporting.text import dump as report_dump

    widths = [rows.width(name) for name in rows.short]
    return report_dump.lines(rows.short, widths, rows.values(rows.short), width=terminal.width())

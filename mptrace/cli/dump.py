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
    "--table", type=click.Choice(TABLES), default="entries", show_default=True, help="Which rows."
)
@click.option(
    "--failed",
    is_flag=True,
    help="Only what did not succeed: entries that failed or were never attempted, calls with "
    "such an entry or an error, migrations that left something behind, folios that stayed, "
    "obstacles of such. Waits and processes do not fail: all of them are printed.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "jsonl", "csv")),
    default="table",
    show_default=True,
    help="A table has the most telling columns; jsonl and csv have every column, null or empty "
    "where there is no value, and a row is a line.",
)
@recording_argument
def command(table: str, failed: bool, form: str, recording: Path) -> None:
    """Print the rows behind the report of RECORDING (mptrace.data).

    A row of `entries` is one entry of one call: its address and target node,
    the status that the kernel stored (none where it left the array untouched),
    what became of the page and why, where the page was afterwards, and whether
    the witnesses agree. A row of `obstacles` is what stood in the way of a page,
    with the page's state at that moment: the evidence of `mptrace explain`; one of
    `mappers` a process that maps a page refused as shared. A row of `migrations` is
    one run of the kernel's migrate_pages(), whoever wanted it and by which path; one
    of `folios` what it did to one folio; one of `waits` a thread that had to wait for
    a page under migration; one of `processes` a process that was met. `own` is true where
    it was mptrace's own page, whoever moved it, or mptrace itself that waited.
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
    "entries": "the recording has no entry of any call",
    "calls": "the recording has no call of move_pages(2)",
    "migrations": "the recording has no migration",
    "folios": "the recording has no folio",
    "obstacles": "nothing is recorded that refused or delayed a page",
    "mappers": "no page is recorded that was refused as shared and whose mappings were found",
    "waits": "no thread is recorded that waited for a page",
    "processes": "what /proc says of processes was not recorded",
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

# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace dump`: the rows behind a report."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mptrace.cli import terminal
from mptrace.cli.options import recording_argument
from mptrace.cli.output import progress
from mptrace.cli.patience import reading
from mptrace.cli.selecting import selection_options
from mptrace.cli.types import opened
from mptrace.units import many

if TYPE_CHECKING:
    from mptrace.outcomes.plain_table import PlainTable
    from mptrace.outcomes.said import Said
    from mptrace.recording.meta import Meta

TABLES = (
    "entries",
    "calls",
    "migrations",
    "folios",
    "obstacles",
    "mappers",
    "waits",
    "balancing",
    "processes",
    "mappings",
    "stacks",
    "stack_uses",
)


@click.command("dump")
@click.option(
    "--table",
    type=click.Choice(TABLES),
    metavar="TABLE",
    default="entries",
    show_default=True,
    help="The table to print, one of those above.",
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
@selection_options
@recording_argument
def command(table: str, form: str, recording: Path, **options: Any) -> None:
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
    balancing   scans and hint faults of NUMA balancing in a process's second
    processes   a process that mptrace met
    mappings    a mapping of a process that mptrace met, or why none is known
    stacks      one frame of a stack, the innermost first (record --stacks)
    stack_uses  the stacks of one call, other migration or wait

    The status of an entry is empty if the kernel left it untouched. `own` is true
    for mptrace's own pages, whoever moved them, and for its own waits.

    What --from to --failed leave out is said first: on stderr beside CSV and JSON lines.
    """
    from mptrace.cli.selecting import selected
    from mptrace.outcomes.chosen import COUNTED
    from mptrace.outcomes.dump import dumped_table
    from mptrace.outcomes.implied import with_implied
    from mptrace.outcomes.said import is_empty

    data = opened(recording)
    selection = selected(data.meta, **options)
    with reading(recording):
        rows = dumped_table(
            table, with_implied(data.tables(), data.meta), data.meta, selection=selection
        )
    if selection.is_about and rows.said is not None:
        _say_what(rows.said, is_text=form == "table")
    is_said = selection.is_about and table in COUNTED
    if rows.unknown and rows.count and not is_said:
        progress(f"left out as unknown: {many(rows.unknown, *_names(table))}")
    if not rows.count:
        failed = selection.failed and not selection.is_about
        why = _why_none(table, rows.total, rows.unknown, failed=failed)
        if table == "balancing" and (unknown := _why_unseen(data.meta)):
            why = f"no rows: what NUMA balancing did is unknown: {unknown}"
        if selection.is_about and rows.total:
            why = f"no rows: of {many(rows.total, *_names(table))} none fits"
            why += "" if is_said or not rows.unknown else f"; {rows.unknown:,} unknown"
        click.echo(why, err=True)
        if selection.is_about and rows.said is not None and not is_empty(rows.said):
            _say_what_there_is(rows.said)
    if rows.count < rows.selected:
        progress(f"the first {rows.count:,} of {many(rows.selected, 'row')} (--top)")
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
    "balancing": "no scan or hint fault of NUMA balancing was seen in this recording",
    "processes": "the recording does not describe processes",
    "mappings": "the recording has no mappings of processes",
    "stacks": "no stacks were recorded ('mptrace record --stacks' records them)",
    "stack_uses": "no stacks were recorded ('mptrace record --stacks' records them)",
}
# Of the tables whose rows may fail.
_SINGULAR = {
    "entries": "entry",
    "calls": "call",
    "migrations": "migration",
    "folios": "folio",
    "obstacles": "obstacle",
}


def _why_unseen(meta: "Meta") -> str:
    """Why neither scans nor hint faults of NUMA balancing were seen, "" where they were."""
    from mptrace.outcomes.balancing import unseen

    why = unseen(meta)
    return why["scans"] if why["scans"] and why["faults"] else ""


def _say_what(said: "Said", *, is_text: bool) -> None:
    from mptrace.reporting.text.selection import selected as words

    for line in words(said, width=terminal.width()):
        click.echo(line, err=not is_text)


def _say_what_there_is(said: "Said") -> None:
    from mptrace.reporting.text.selection import there_is

    for line in there_is(said, width=terminal.width()):
        click.echo(line, err=True)


def _names(table: str) -> tuple[str, str]:
    if table == "balancing":
        return "row", "rows"
    return _SINGULAR.get(table, table.removesuffix("es") if "ess" in table else table[:-1]), table


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

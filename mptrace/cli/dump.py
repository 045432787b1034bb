# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace dump`: the rows behind a report."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
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
    from mptrace.outcomes.dump_parts import Dumped
    from mptrace.outcomes.plain_table import PlainTable
    from mptrace.outcomes.said import Said
    from mptrace.outcomes.selection import Selection
    from mptrace.recording.meta import Meta
    from mptrace.recording.reader import Recording
    from mptrace.recording.rotated import Joined

#: Rows above which the first ones are printed before it is known how wide all of them are.
_MANY = 1 << 18

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
    from mptrace.outcomes.said import is_empty

    data = opened(recording)
    selection = selected(data.meta, **options)
    with reading(recording):
        rows, is_long = _dumped(table, data, selection)
        # what comes first is read before anything is printed
        head = next(rows.parts)
        first = head if head.count else next((part for part in rows.parts if part.count), None)
    parts = chain([first or head], rows.parts)
    if selection.is_about and rows.said is not None:
        _say_what(rows.said, is_text=form == "table")
    is_said = selection.is_about and table in COUNTED
    if rows.unknown and first is not None and not is_said:
        progress(f"left out as unknown: {many(rows.unknown, *_names(table))}")
    if first is None:
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
    if selection.top is not None and selection.top < rows.selected:
        progress(f"the first {selection.top:,} of {many(rows.selected, 'row')} (--top)")
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(head.names)
        for part in parts:
            writer.writerows(part)
    else:
        lines = _json_lines(parts) if form == "jsonl" else text_lines(table, parts, is_long=is_long)
        for line in lines:
            sys.stdout.write(line + "\n")


def _dumped(
    table: str, data: "Recording | Joined", selection: "Selection"
) -> "tuple[Dumped, bool]":
    """Rows by slices where they can be had so, and whether there are many."""
    from mptrace.cli.slicing import sliced
    from mptrace.outcomes.dump import dumped_table
    from mptrace.outcomes.dump_parts import Dumped, can_be_parted, dumped_parts
    from mptrace.outcomes.implied import with_implied

    if can_be_parted(table, selection):
        slices = sliced(data)
        rows = dumped_parts(table, slices, data.meta, selection=selection)
        return rows, slices.count(table) > _MANY
    tables = with_implied(data.tables(), data.meta)
    whole = dumped_table(table, tables, data.meta, selection=selection)
    return Dumped(iter([whole]), whole.total, whole.selected, whole.unknown, whole.said), False


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


def _json_lines(parts: "Iterable[PlainTable]") -> Iterator[str]:
    for part in parts:
        names = part.names
        for row in part:
            yield json.dumps(dict(zip(names, row, strict=True)))


def text_lines(table: str, parts: "Iterable[PlainTable]", *, is_long: bool) -> Iterator[str]:
    """Lines under heads that are as wide as the values.

    Of many rows those that come first are printed before it is known how wide the others
    are: where later ones need more room, heads come again.
    """
    from mptrace.outcomes.dump import short_names
    from mptrace.reporting.text import dump as report_dump

    names: tuple[str, ...] = ()
    widths: dict[str, int] = {}
    heads: list[str] = []
    width = terminal.width()
    for some in ((part,) for part in parts) if is_long else (tuple(parts),):
        names = short_names(table, {*names, *(name for part in some for name in part.short)})
        for name in names:
            widths[name] = max(widths.get(name, 1), *(part.width(name) for part in some))
        sizes = [widths[name] for name in names]
        before, heads = heads, list(report_dump.lines(names, sizes, (), width=width))
        if heads != before:
            yield from heads
        for part in some:
            rows = part.values(names)
            yield from report_dump.lines(names, sizes, rows, width=width, heads=False)

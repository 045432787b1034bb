# SPDX-License-Identifier: GPL-2.0-or-later
"""A table of a recording as `mptrace dump` prints it.  Pure."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from mptrace.arrays import Table
from mptrace.outcomes.dump_columns import DumpColumns
from mptrace.outcomes.plain_table import Columns, PlainTable
from mptrace.outcomes.selection import EVERYTHING, Selection
from mptrace.recording.meta import Meta

#: Columns that fit a terminal.
_SHORT = {
    "entries": (
        "call",
        "entry",
        "address",
        "target_nid",
        "status",
        "outcome",
        "entry_reason",
        "final_nid",
        "witnesses",
        "cause",
    ),
    "calls": (
        "call",
        "enter_utc",
        "tid",
        "nr_pages",
        "flags",
        "ret",
        "n_lookups",
        "n_migrations",
        "lost",
    ),
    "migrations": (
        "migration",
        "enter_utc",
        "call",
        "path",
        "mode_name",
        "rc",
        "succeeded",
        "tgid",
        "comm",
    ),
    "folios": (
        "folio",
        "start_utc",
        "call",
        "address",
        "nr_pages",
        "src_nid",
        "dst_nid",
        "outcome",
        "cause",
        "lies_in",
    ),
    "obstacles": (
        "obstacle",
        "call",
        "folio",
        "address",
        "stage",
        "rc",
        "refcount",
        "mapcount",
        "fs",
    ),
    "mappers": ("call", "lookup_seq", "src", "pid", "comm", "address"),
    "waits": (
        "wait",
        "start_utc",
        "tid",
        "comm",
        "address",
        "wait_ns",
        "kind",
        "migration",
        "holder_tid",
        "lies_in",
    ),
    "balancing": (
        "from_utc",
        "tgid",
        "comm",
        "scans",
        "scan_ns",
        "scan_max_ns",
        "faults",
        "fault_ns",
        "fault_max_ns",
    ),
    "processes": ("tgid", "comm", "uid", "cgroup"),
    "mappings": ("tgid", "comm", "start", "end", "perms", "state", "name"),
    "stacks": ("stack", "kind", "depth", "symbol", "offset", "module", "unknown"),
    "stack_uses": ("kind", "call", "migration", "wait", "tid", "kernel_stack", "user_stack"),
}


def dumped_table(
    table: str,
    tables: Mapping[str, Table],
    meta: Meta,
    *,
    failed: bool = False,
    selection: Selection = EVERYTHING,
) -> PlainTable:
    """One table of a recording, joined with what became of its rows.

    :param table: ``entries``, ``calls``, ``migrations``, ``folios``, ``obstacles``,
        ``mappers``, ``waits``, ``balancing``, ``processes``, ``mappings``, ``stacks`` or
        ``stack_uses``.
    :param failed: only what did not succeed, as ``selection.failed``: entries whose page
        stayed or was never attempted, calls with such an entry or an error, migrations
        that left something behind, folios that stayed, obstacles of such.  Waits,
        processes and the like do not fail: all of them.
    :param selection: which rows; numbers of rows and verdicts stay those of the recording.
    """
    if failed:
        selection = replace(selection, failed=True)
    return plain_table(table, DumpColumns(tables, meta, selection))


def plain_table(table: str, found: DumpColumns) -> PlainTable:
    """The rows of a table that are selected."""
    make: dict[str, Callable[[], Columns]] = {
        "entries": found.entries,
        "calls": found.calls,
        "migrations": found.migrations,
        "folios": found.folios,
        "obstacles": found.obstacles,
        "mappers": found.mappers,
        "waits": found.waits,
        "balancing": found.balancing,
        "processes": found.processes,
        "mappings": found.mappings,
        "stacks": found.stacks,
        "stack_uses": found.stack_uses,
    }
    columns = make[table]()
    # behind what a row is about
    columns["own"] = columns.pop("own")
    return PlainTable(
        columns,
        short=short_of(table, columns),
        total=found.total(table),
        selected=found.selected(table),
        unknown=found.unsure(table),
        said=found.said(),
    )


def short_of(table: str, columns: Columns) -> tuple[str, ...]:
    """The columns of a table that fit a terminal."""
    short = [name for name in _SHORT[table] if name != "lies_in" or columns[name][1].any()]
    # where a row is mptrace's own, that it is
    return (*short, *(["own"] if columns["own"][0].any() else []))


def short_names(table: str, names: Collection[str]) -> tuple[str, ...]:
    """Such columns in their order."""
    return tuple(name for name in (*_SHORT[table], "own") if name in names)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Report, its JSON, dump and explain of one recording, and checks that they have the same numbers.

What is mptrace's own is in the rows of dump, marked, and in no sum of the others.
"""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from mptrace.cli import main
from mptrace.cli.dump import TABLES
from mptrace.recording.reader import Recording

FAILED = ("failed", "not_attempted")


class Views:
    """What each command says of one recording."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tables = Recording.open(path).tables()
        self.report = json.loads(self.run("report", "--json"))

    def run(self, *arguments: str) -> str:
        """Standard output of a command."""
        result = CliRunner().invoke(main, [*arguments, str(self._path)])
        assert result.exit_code == 0
        return result.stdout

    def rows(self, command: str, *arguments: str) -> list[dict[str, Any]]:
        """Rows that a command has as JSON lines."""
        form = ("--json",) if command == "explain" else ("--format", "jsonl")
        lines = self.run(command, *form, *arguments).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def dump(self, table: str, *arguments: str) -> list[dict[str, Any]]:
        """Rows of a table."""
        return self.rows("dump", "--table", table, *arguments)

    def others(self, table: str, *arguments: str) -> list[dict[str, Any]]:
        """Those that are not mptrace's own."""
        return [row for row in self.dump(table, *arguments) if not row["own"]]


def every_row_is_dumped_in_every_format(views: Views) -> None:
    """As many as the recording has; of what failed no more than of all, and no other."""
    for table in TABLES:
        every = views.dump(table)
        assert len(every) == len(views.tables.get(table, ()))
        lines = views.run("dump", "--table", table).splitlines()
        # what does not fit is continued in a line that is indented
        assert sum(not line.startswith(" ") for line in lines) == len(every) + 1
        csv = views.run("dump", "--table", table, "--format", "csv")
        assert len(csv.splitlines()) == len(every) + 1
        failed = views.dump(table, "--failed")
        assert all(row in every for row in failed)


def entries_that_stayed(views: Views) -> None:
    """In dump, explain, the outcomes and the causes of the report."""
    every = [row["outcome"] in FAILED for row in views.others("entries")]
    dumped = views.others("entries", "--failed")
    assert every.count(True) == len(dumped)
    explained = [row for row in views.rows("explain") if "entry" in row]
    assert [(row["call"], row["entry"]) for row in dumped] == [
        (row["call"], row["entry"]) for row in explained
    ]
    outcomes = views.report["outcomes"]
    assert sum(outcomes[name] for name in FAILED) == len(dumped)
    assert sum(group["count"] for group in views.report["failure_causes"]) == len(dumped)
    by_call = {row["call"] for row in dumped}
    assert by_call <= {row["call"] for row in views.others("calls", "--failed")}


def folios_that_stayed(views: Views) -> None:
    """In dump, in the report's rows by path, and without a call in explain."""
    dumped = views.others("folios", "--failed")
    of_migrations = [row for row in dumped if row["migration"] is not None]
    paths = views.report["paths"]
    assert sum(path["folios"]["failed"] for path in paths) == len(of_migrations)
    assert sum(path["pages"]["failed"] for path in paths) == sum(
        row["nr_pages"] for row in of_migrations
    )
    alone = [row for row in of_migrations if row["call"] is None]
    explained = [row for row in views.rows("explain") if row.get("kind") == "folio"]
    assert [row["folio"] for row in explained] == [row["folio"] for row in alone]
    assert [row["cause"]["name"] for row in explained] == [row["cause"] for row in alone]


def migrations_that_left_something_behind(views: Views) -> None:
    """In dump, by path, and with and without a call."""
    dumped = views.others("migrations", "--failed")
    assert sum(path["failed_migrations"] for path in views.report["paths"]) == len(dumped)
    numbers = views.report["migrations"]
    without = sum(group["failed"] for group in numbers["without_call"])
    assert numbers["failed"] + without == len(dumped)
    assert without == sum(row["call"] is None for row in dumped)


def pages_that_moved(views: Views) -> None:
    """By path, by reason, from node to node, and in the rows of dump."""
    paths, folios = views.report["paths"], views.others("folios")
    migrations = views.dump("migrations")
    moved = [row for row in folios if row["outcome"] == "moved"]
    assert sum(path["folios"]["moved"] for path in paths) == len(moved)
    pages = sum(path["pages"]["moved"] for path in paths)
    assert sum(cell["pages"] for path in paths for cell in path["matrix"]) == pages
    without = [row for row in moved if migrations[row["migration"]]["call"] is None]
    numbers = views.report["migrations"]["without_call"]
    assert sum(group["moved_pages"] for group in numbers) == sum(row["nr_pages"] for row in without)
    assert views.report["rates"]["pages"] == sum(c["pages"] for c in views.report["matrix"])


def witnesses_and_names(views: Views) -> None:
    """Each witness as often as in dump; the names of report and dump are those of one process."""
    agreement = views.report["agreement"]
    dumped = [row["witnesses"] for row in views.others("entries")]
    for name in ("agree", "silent", "disagree", "not_asked", "unknown"):
        assert agreement[name] == dumped.count(name)
    people = {row["tgid"]: row["comm"] for row in views.dump("processes")}
    owners = [owner for path in views.report["paths"] for owner in path["owners"]]
    known = [owner for owner in owners if owner["tgid"] in people]
    assert all(owner["comm"] == people[owner["tgid"]] for owner in known)
    assert {owner["tgid"] for owner in owners} <= {0, *people}


def what_is_mptraces_own(views: Views) -> None:
    """Left out of the report as often as dump marks it."""
    own = views.report["own"]
    for table in ("calls", "migrations", "waits"):
        marked = sum(row["own"] for row in views.dump(table))
        assert marked == (own[table] if own else 0)


CHECKS = (
    every_row_is_dumped_in_every_format,
    entries_that_stayed,
    folios_that_stayed,
    migrations_that_left_something_behind,
    pages_that_moved,
    witnesses_and_names,
    what_is_mptraces_own,
)

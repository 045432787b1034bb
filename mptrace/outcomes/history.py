# SPDX-License-Identifier: GPL-2.0-or-later
"""The history of a page: each recorded migration, by whom, from where to where.  Pure.

A page is an address in a process: equal addresses of several processes are pages of
their own.  Where the process is not known that is said.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mptrace.arrays import Bools, Ints, Tables
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.correlate import ALREADY_THERE, NOT_ATTEMPTED, Correlation
from mptrace.outcomes.fates import fates
from mptrace.outcomes.joined import MOVED, UNKNOWN
from mptrace.outcomes.later import owners, tail_row
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.paths import BY_KEY, PATHS, Path, of_migrations
from mptrace.outcomes.places import Place
from mptrace.outcomes.processes import Initiator, RecordedProcesses, initiator_of
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.joins import rows_of_ids
from mptrace.recording.layouts import OUTCOMES
from mptrace.recording.meta import Meta
from mptrace.recording.when import iso


@dataclass(frozen=True)
class Step:
    """One attempt to move the page.  All values are JSON-able.

    ``folio``, ``migration`` and ``call`` are numbers as in ``mptrace dump``; of a folio
    that no migration took ``migration`` is None.  ``since_start_ns``, ``wall_ns`` and
    ``start_utc`` (of its first event) are None where the recording does not say when it began.
    """

    start_ns: int
    since_start_ns: int | None
    wall_ns: int | None
    start_utc: str | None
    #: None where only the whole migration was timed.
    took_ns: int | None
    initiator: Initiator | None
    path: Path | None
    call: int | None
    migration: int | None
    folio: int
    address: int
    nr_pages: int
    source_nid: int | None
    target_nid: int | None
    outcome: str
    cause: str


@dataclass(frozen=True)
class History:
    """What was done to the page at ``address`` of a process (0: unknown), in time."""

    address: int
    owner_tgid: int
    owner_comm: str
    steps: tuple[Step, ...]
    #: At the first of them.
    lies_in: Place

    def as_dict(self) -> dict[str, Any]:
        """For JSON: addresses in hexadecimal, as everywhere."""
        plain = {"kind": "history", **asdict(self)}
        plain["address"] = hex(self.address)
        plain["lies_in"] = self.lies_in.as_dict()
        for step in plain["steps"]:
            step["address"] = hex(step["address"])
        return plain


class Histories:
    """Histories of the pages of a recording.

    :param tables: tables of a recording by name.
    :param meta: its meta.json.
    :param found: of these tables.
    :param chosen: rows of `folios` that are selected; None: all.
    """

    def __init__(
        self, tables: Tables, meta: Meta, found: Correlation, chosen: Bools | None = None
    ) -> None:
        self._chosen = chosen
        self._tables, self._meta, self._found = tables, meta, found
        self._page = meta.kernel.page_size
        self._processes = RecordedProcesses(tables, meta)
        self._paths = of_migrations(tables["migrations"], meta)
        self._owners, self._lying = owners(tables), Lying(tables, meta)

    def of(self, address: int, *pids: int) -> list[History]:
        """A history for each process that has a page of the recording there, by its number.

        :param pids: of these processes alone, and of what may be theirs.
        """
        page = address // self._page * self._page
        row, outcome, cause, pages = self._steps_at(page)
        owner = self._owners[row]
        found = []
        for tgid in np.unique(owner).tolist():
            if pids and tgid not in (*pids, 0):
                continue
            mine = np.flatnonzero(owner == tgid)
            mine = mine[np.argsort(self._tables["folios"]["start_ns"][row[mine]], kind="stable")]
            steps = tuple(
                self._step(int(row[at]), int(outcome[at]), int(cause[at]), int(pages[at]))
                for at in mine
            )
            comm = self._processes.comm(tgid) if tgid else ""
            place = self._lying.at(tgid, page, steps[0].start_ns)
            found.append(History(page, tgid, comm, steps, place))
        return found

    def step(self, folio: int) -> Step:
        """What a row of `folios` says, of a folio that moved."""
        pages = int(self._tables["folios"]["nr_pages"][folio])
        return self._step(folio, MOVED, 0, pages)

    def _steps_at(self, page: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Rows of `folios` of a page's migrations, their outcomes, causes and base pages."""
        folios = self._tables["folios"]
        # A large folio lies at a multiple of its size, in the process, too.
        size = np.maximum(folios["nr_pages"], 1).astype(np.uint64) * np.uint64(self._page)
        here = (folios["address"] != 0) & (folios["address"] // size == np.uint64(page) // size)
        part = fates(self._tables, self._meta)
        outcome = np.full(folios.size, -1, np.int64)
        cause, pages = np.zeros(folios.size, np.int64), np.zeros(folios.size, np.int64)
        outcome[part.row], cause[part.row], pages[part.row] = part.outcome, part.cause, part.pages
        # What a call looked up and no migration took has its outcome from the call's loop.
        rows = self._found.rows
        own = np.flatnonzero(
            (rows["folio"] >= 0) & ~np.isin(rows["outcome"], (ALREADY_THERE, NOT_ATTEMPTED))
        )
        own = own[(folios["migration_id"][rows["folio"][own]] == 0)]
        of_loop = rows["folio"][own]
        outcome[of_loop], cause[of_loop] = rows["outcome"][own], rows["cause"][own]
        pages[of_loop] = folios["nr_pages"][of_loop]
        # Of a folio that was split each page has its own record.
        split = part.row[part.is_split]
        for head in split[here[split]].tolist():
            index = int(np.uint64(page) % size[head]) // self._page
            here[head] = False
            tail = tail_row(folios, head, index)
            if tail >= 0 and outcome[tail] >= 0:
                here[tail] = True
        if self._chosen is not None:
            here &= self._chosen
        found = np.flatnonzero(here & (outcome >= 0))
        return found, outcome[found], cause[found], pages[found]

    def _step(self, row: int, outcome: int, cause: int, pages: int) -> Step:
        folio = self._tables["folios"][row]
        migrations, calls = self._tables["migrations"], self._tables["calls"]
        number = int(rows_of_ids(migrations["migration_id"], folio["migration_id"][None])[0])
        number = number if folio["migration_id"] else -1
        of_call = int(rows_of_ids(calls["call_id"], folio["call_id"][None])[0])
        of_call = of_call if folio["call_id"] else -1
        call = int(rows_of_ids(self._found.call_ids, folio["call_id"][None])[0])
        target = int(folio["dst_nid"]) if folio["dst"] else -1
        initiator = None
        if number >= 0:
            migration = migrations[number]
            target = int(migration["dst_nid"]) if target < 0 else target
            initiator = initiator_of(migration, self._processes)
        elif of_call >= 0:
            initiator = initiator_of(calls[of_call], self._processes)
        path = PATHS[int(self._paths[number])] if number >= 0 else None
        if path is None and folio["call_id"]:
            path = BY_KEY["move_pages"]
        began = self._meta.started
        begin, wall = (began.monotonic_ns, began.wall_ns) if began else (None, None)
        since = None if begin is None else int(folio["start_ns"]) - begin
        source = int(folio["src_nid"])
        return Step(
            start_ns=int(folio["start_ns"]),
            since_start_ns=since,
            wall_ns=None if since is None or not wall else wall + since,
            start_utc=None if since is None or not wall else iso(wall + since),
            took_ns=None
            if self._meta.detail == LEVEL_OUTCOMES
            else max(int(folio["end_ns"]) - int(folio["start_ns"]), 0),
            initiator=initiator,
            path=path,
            call=call if folio["call_id"] and call >= 0 else None,
            migration=number if number >= 0 else None,
            folio=row,
            address=int(folio["address"]),
            nr_pages=max(pages, 1),
            source_nid=source if source >= 0 else None,
            target_nid=target if target >= 0 else None,
            outcome=OUTCOMES[outcome if outcome >= 0 else UNKNOWN],
            cause="" if outcome == MOVED else cause_name(cause),
        )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Why folios that no call asked for stayed: who wanted to move them, and what refused.  Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mptrace.arrays import Ints, Tables
from mptrace.explain.entries import cause_of
from mptrace.explain.evidence import Evidence
from mptrace.explain.findings import Finding
from mptrace.explain.stories import MOST_NAMED
from mptrace.explain.words import Worded, gap_words, worded
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.causes.table import Cause
from mptrace.outcomes.chosen import Chosen
from mptrace.outcomes.fates import Fates, fates
from mptrace.outcomes.joined import FAILED, MOVED, UNKNOWN
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.own import own_of
from mptrace.outcomes.paths import PATHS, Path, mode_name, of_migrations, reason_name
from mptrace.outcomes.places import Place
from mptrace.outcomes.processes import Initiator, RecordedProcesses, initiator_of
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import NOT_COUNTED, OUTCOMES
from mptrace.recording.meta import Meta
from mptrace.recording.when import Clock

# Phase in which a path's targets are allocated, where it is not the calls' own.
_ALLOCATE = {
    "compaction": "alloc_compaction",
    "numa": "alloc_numa",
    "demotion": "alloc_demotion",
    "damon": "alloc_demotion",
    "mbind": "alloc_policy",
}


@dataclass(frozen=True)
class FolioExplanation:
    """One folio of a migration without a call.  All values are JSON-able.

    ``folio`` and ``migration`` are row numbers, as in ``mptrace dump``; ``address``
    is the first user address that was unmapped, None where none was; ``owner_tgid``
    a process that maps it, 0 where none is known.  ``path``, ``initiator`` and
    ``migration`` are None where the migration's record is missing.
    """

    kind: str
    folio: int
    migration: int | None
    address: int | None
    owner_tgid: int
    owner_comm: str
    lies_in: Place
    nr_pages: int
    path: Path | None
    reason: str
    mode: str
    initiator: Initiator | None
    source_nid: int | None
    target_nid: int | None
    outcome: str
    cause: Cause
    evidence: tuple[Worded, ...]
    gap: str
    delay: Worded | None
    start_ns: int
    start_utc: str | None
    blackout_ns: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the address in hexadecimal, as everywhere."""
        plain = asdict(self)
        plain["address"] = None if self.address is None else hex(self.address)
        plain["lies_in"] = self.lies_in.as_dict()
        return plain


@dataclass(frozen=True)
class FolioBlock:
    """Folios with one initiator, path, cause and kind of evidence: the first, and how many.

    ``others`` names a few more by row number and address (0: unknown).
    """

    count: int
    pages: int
    first: FolioExplanation
    others: tuple[tuple[int, int], ...]
    ranges: dict[str, list[int]]


class FolioExplainer:
    """Explains folios that were migrated without a call.

    :param tables: tables of a recording by name.
    :param meta: its meta.json.
    :param chosen: rows that are selected, of these tables; None: all.
    """

    def __init__(self, tables: Tables, meta: Meta, chosen: Chosen | None = None) -> None:
        self._tables, self._meta = tables, meta
        found = fates(tables, meta)
        alone = tables["folios"]["call_id"][found.row] == 0
        self._every = found.select(alone)
        self._migrations_in = np.ones(tables["migrations"].size, np.bool_)
        if chosen is not None:
            alone &= chosen.masks["folios"][found.row]
            self._migrations_in = chosen.masks["migrations"]
        self._fates: Fates = found.select(alone)
        own = own_of(tables, meta)
        self._is_own, self._own_migrations = own.folios[self._fates.row], own.migrations
        self._evidence = Evidence(tables, meta)
        self._paths = of_migrations(tables["migrations"], meta)
        self._processes = RecordedProcesses(tables, meta)
        self._page = meta.kernel.page_size
        self._clock = Clock(meta.raw.get("started"), meta.raw.get("ended"))
        self._lying = Lying(tables, meta)

    @property
    def count(self) -> int:
        """Folios of the recording that were migrated without a call, but for mptrace's own."""
        return int((~self._is_own).sum())

    @property
    def unknown(self) -> int:
        """Those of them whose outcome is unknown."""
        return int(((self._fates.outcome == UNKNOWN) & ~self._is_own).sum())

    @property
    def own_stayed(self) -> int:
        """Folios of mptrace itself that stayed."""
        return int(((self._fates.outcome == FAILED) & self._is_own).sum())

    @property
    def unrecorded_pages(self) -> int:
        """Base pages that the kernel counted as failed beyond those of the folios here.

        Of mptrace's own migrations none.
        """
        migrations = self._tables["migrations"]
        counted = (migrations["call_id"] == 0) & (migrations["failed"] != NOT_COUNTED)
        counted &= ~self._own_migrations & self._migrations_in
        every = self._every
        stayed = (every.outcome == FAILED) | (every.outcome == UNKNOWN)
        stayed &= every.migration >= 0
        of_each = np.bincount(every.migration[stayed], every.pages[stayed], migrations.size).astype(
            np.int64
        )
        # one by one: what another migration has too many of makes up for nothing
        lacking = migrations["failed"].astype(np.int64) - of_each
        return int(np.maximum(lacking[counted], 0).sum())

    def select(self, address: int | None = None, *pids: int) -> Ints:
        """Those at an address (of processes), else all that stayed but for mptrace's own.

        May be empty.
        """
        if address is None:
            return np.flatnonzero((self._fates.outcome == FAILED) & ~self._is_own)
        folios = self._tables["folios"][self._fates.row]
        # A large folio lies at a multiple of its size, in the process, too.
        size = np.maximum(folios["nr_pages"], 1).astype(np.uint64) * np.uint64(self._page)
        same = folios["address"] // size == np.uint64(address) // size
        if pids:
            same &= np.isin(folios["owner_tgid"], (*pids, 0))
        return np.flatnonzero(same & (folios["address"] != 0))

    @property
    def addresses_hint(self) -> str:
        """Where the addresses of the recording's folios lie, for an error's hint."""
        known = self._tables["folios"]["address"]
        known = known[known != 0]
        if not known.size:
            return "no folio's address was recorded"
        return f"addresses of folios lie in {known.min():#x}..{known.max():#x}: mptrace dump"

    def each(self, which: Ints) -> Iterator[FolioExplanation]:
        """An explanation for each of these."""
        for at, obstacle in zip(which.tolist(), self._obstacles(which).tolist(), strict=True):
            yield self._explain(at, obstacle)

    def blocks(self, which: Ints) -> list[FolioBlock]:
        """The same, equal ones together, most pages first."""
        if not which.size:
            return []
        part, migrations = self._fates.select(which), self._tables["migrations"]
        obstacles = self._obstacles(which)
        known, safe = part.migration >= 0, np.maximum(part.migration, 0)
        columns = [part.cause.astype(np.int64), part.outcome.astype(np.int64)]
        if migrations.size:
            # With its index np.unique sorts stably: see joins.ranks().
            _, _, comm = np.unique(migrations["comm"][safe], return_index=True, return_inverse=True)
            columns += [
                np.where(known, column, -1).astype(np.int64)
                for column in (self._paths[safe], migrations["tgid"][safe], comm)
            ]
        shape = np.zeros(which.size, np.int64)
        for column in (*columns, *self._evidence.shape(obstacles)):
            values, place = ranks(column)
            shape = ranks(shape * values.size + place)[1]
        addresses = self._tables["folios"]["address"]
        found = []
        for group in members(shape, int(shape.max()) + 1):
            rows = part.row[group]
            found.append(
                FolioBlock(
                    int(group.size),
                    int(part.pages[group].sum()),
                    self._explain(int(which[group[0]]), int(obstacles[group[0]])),
                    tuple((int(row), int(addresses[row])) for row in rows[1 : 1 + MOST_NAMED]),
                    self._evidence.ranges(obstacles[group]),
                )
            )
        return sorted(found, key=lambda block: -block.pages)

    def _obstacles(self, which: Ints) -> Ints:
        nothing = np.zeros(which.size, np.uint64)
        return self._evidence.rows_of(self._fates.row[which], nothing, nothing)

    def _explain(self, at: int, obstacle: int) -> FolioExplanation:
        row, number = int(self._fates.row[at]), int(self._fates.migration[at])
        folio = self._tables["folios"][row]
        outcome = int(self._fates.outcome[at])
        migration = self._tables["migrations"][number] if number >= 0 else None
        path = PATHS[int(self._paths[number])] if number >= 0 else None
        evidence: tuple[Finding, ...] = ()
        gap = ""
        if outcome == FAILED:
            key = "" if path is None else path.key.split("_")[0]
            allocate = _ALLOCATE.get(key, "allocate")
            evidence = self._evidence.all_of(obstacle, folio, allocate=allocate)
            gap = gap_words(self._evidence.gap(obstacle, folio))
        delay = None if outcome == FAILED else self._evidence.delay(obstacle)
        nids = [int(folio[name]) for name in ("src_nid", "dst_nid")]
        owner = int(folio["owner_tgid"])
        return FolioExplanation(
            kind="folio",
            folio=row,
            migration=number if number >= 0 else None,
            address=int(folio["address"]) or None,
            owner_tgid=owner,
            owner_comm=self._processes.comm(owner) if owner else "",
            lies_in=self._lying.at(owner, int(folio["address"]), int(folio["start_ns"])),
            nr_pages=int(self._fates.pages[at]),
            path=path,
            reason="" if migration is None else reason_name(self._meta, int(migration["reason"])),
            mode="" if migration is None else mode_name(self._meta, int(migration["mode"])),
            initiator=None if migration is None else initiator_of(migration, self._processes),
            source_nid=nids[0] if nids[0] >= 0 else None,
            target_nid=nids[1] if nids[1] >= 0 and folio["dst"] else None,
            outcome=OUTCOMES[outcome],
            cause=cause_of("" if outcome == MOVED else cause_name(int(self._fates.cause[at]))),
            evidence=tuple(worded(finding) for finding in evidence),
            gap=gap,
            delay=None if delay is None else worded(delay),
            start_ns=int(folio["start_ns"]),
            start_utc=self._clock.utc(int(folio["start_ns"])),
            blackout_ns=int(folio["blackout_ns"].astype(np.int64)),
        )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Who migrated, by which path, what and with what success: the numbers.  Pure.

One row for each (path, process or kernel thread): a call's migrations and
everybody else's alike.  Outcomes are the folios' (``fates``); the kernel's own
count of base pages stands beside them, and a difference is shown.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints, Table
from mptrace.explain.entries import cause_of
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.fates import Fates, failed_migrations
from mptrace.outcomes.joined import FAILED, MOVED, UNKNOWN
from mptrace.outcomes.later import owners
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.own import Own
from mptrace.outcomes.paths import PATHS, mode_name, of_migrations, reason_name
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.outcomes.syscalls import syscall_name
from mptrace.recording.joins import members, ranks
from mptrace.recording.layouts import FOLIO_CHOSEN, MIGRATION_COMPAT, MIGRATION_KTHREAD, NOT_COUNTED
from mptrace.recording.lookup_layouts import LEVEL_OUTCOMES
from mptrace.recording.meta import Meta
from mptrace.recording.when import first_and_last
from mptrace.reporting.numbers.path_phases import phases_of_folios
from mptrace.reporting.numbers.sizes import sizes_of
from mptrace.reporting.numbers.sums import Numbers, distribution, span, summed_over_folios

#: Processes named as owners of one row's pages, beside those that were asked for; the rest
#: is summed.
MAX_OWNERS = 50


def paths_of(
    tables: Mapping[str, Table],
    meta: Meta,
    found: Fates,
    processes: RecordedProcesses,
    own: Own,
    out: Own,
    lying: Lying,
) -> list[Numbers]:
    """One dict for each path and initiator, the most time first; all times in ns.

    What is mptrace's own is in none of them, but for ``own_pages`` and what the
    kernel counted of migrations that had others' pages, too.  ``difference`` is that of all
    folios of these migrations, also of those that were not selected.

    :param own: what is mptrace's own.
    :param out: that, and what was not selected: in no sum.
    """
    migrations, folios = tables["migrations"], tables["folios"]
    kept = np.flatnonzero(~out.migrations)
    if not kept.size:
        return []
    some, first = _groups(migrations[kept], of_migrations(migrations[kept], meta))
    group = np.full(migrations.size, -1, np.int64)
    group[kept] = some
    of_folio = np.where(found.migration >= 0, group[np.maximum(found.migration, 0)], -1)
    of_group, folios_of = members(group, first.size), members(of_folio, first.size)
    codes = of_migrations(migrations[kept[first]], meta)
    failed = failed_migrations(migrations, found, own.beside(found))
    rows, asked, whose = [], _asked_for(folios, meta), owners(tables)
    for number, code in enumerate(codes.tolist()):
        mine = migrations[of_group[number]]
        part = found.select(folios_of[number])
        rows.append(
            {
                "path": PATHS[code].key,
                "label": PATHS[code].label,
                "meaning": PATHS[code].meaning,
                "initiator": _initiator(mine, processes),
                "failed_migrations": int(failed[of_group[number]].sum()),
                **_of_migrations(mine, meta),
                **_of_folios(mine, folios, part, processes, own, out, asked),
                **_kernels_count(mine, found, of_group[number], meta),
                "failures": _failures(folios, part.select(~out.folios[part.row]), whose, lying),
                "sizes": sizes_of(folios, part.select(~out.folios[part.row]), meta),
                "phases": phases_of_folios(
                    folios,
                    part.row[~out.folios[part.row]],
                    mine,
                    meta.phases,
                    meta.detail,
                    of_calls=PATHS[code].key == "move_pages",
                ),
            }
        )
    return sorted(rows, key=lambda row: -int(row["time_ns"]))


def _groups(migrations: Table, path: Ints) -> tuple[Ints, Ints]:
    """Group of each migration, and the first migration of each group."""
    # With its index np.unique sorts stably: see joins.ranks().
    _, _, comm = np.unique(migrations["comm"], return_index=True, return_inverse=True)
    group = comm.astype(np.int64)
    for column in (
        path,
        migrations["tgid"].astype(np.int64),
        migrations["cgroup_id"],
        (migrations["flags"] & MIGRATION_KTHREAD).astype(np.int64),
    ):
        values, place = ranks(column)
        group = ranks(group * values.size + place)[1]
    first = np.zeros(int(group.max()) + 1, np.int64)
    first[group[::-1]] = np.arange(group.size)[::-1]
    return group, first


def _initiator(mine: Table, processes: RecordedProcesses) -> Numbers:
    row = mine[0]
    tgid, cgroup_id = int(row["tgid"]), int(row["cgroup_id"])
    return {
        "tgid": tgid,
        "comm": text(row["comm"]),
        "process": processes.comm(tgid) or text(row["comm"]),
        "kernel_thread": bool(row["flags"] & MIGRATION_KTHREAD),
        "threads": int(np.unique(mine["tid"]).size),
        "cgroup_id": cgroup_id,
        "cgroup": processes.cgroup(cgroup_id) if cgroup_id else None,
    }


def _of_migrations(mine: Table, meta: Meta) -> Numbers:
    machine = meta.kernel.syscall_machine
    counted = (mine["succeeded"] != NOT_COUNTED) & (mine["failed"] != NOT_COUNTED)
    closed = mine[(mine["enter_ns"] != 0) & (mine["exit_ns"] != 0)]
    syscalls: dict[str, int] = {}
    pairs = mine["syscall"].astype(np.int64) * 4 + (mine["flags"] & MIGRATION_COMPAT)
    for pair, count in _counted(pairs):
        name = syscall_name(pair >> 2, is_compat=bool(pair & 3), machine=machine)
        known = "unknown" if name is None else name or "none"
        syscalls[known] = syscalls.get(known, 0) + count
    return {
        "migrations": int(mine.size),
        "lost": int(mine["lost"].astype(np.int64).sum()),
        "reasons": {reason_name(meta, code): n for code, n in _counted(mine["reason"])},
        "modes": {mode_name(meta, code): n for code, n in _counted(mine["mode"])},
        "syscalls": syscalls,
        "time_ns": span(closed, "enter_ns", "exit_ns"),
        "duration": distribution((closed["exit_ns"] - closed["enter_ns"]).astype(np.int64)),
        **first_and_last(mine["enter_ns"], mine["exit_ns"]),
        "kernel_counted": {
            "migrations": int(counted.sum()),
            "moved_pages": int(mine["succeeded"][counted].astype(np.int64).sum()),
            "failed_pages": int(mine["failed"][counted].astype(np.int64).sum()),
        },
    }


def _of_folios(
    mine: Table,
    folios: Table,
    every: Fates,
    processes: RecordedProcesses,
    own: Own,
    out: Own,
    asked: frozenset[int],
) -> Numbers:
    is_own = own.folios[every.row]
    part = every.select(~out.folios[every.row])

    # column by column: whole rows of a million folios would be copied
    def column(name: str) -> npt.NDArray[Any]:
        return folios[name][part.row]

    moved, failed = part.outcome == MOVED, part.outcome == FAILED
    unknown = part.outcome == UNKNOWN

    def sums(mask: Bools) -> tuple[int, int]:
        return int(mask.sum()), int(part.pages[mask].sum())

    counts = {
        name: sums(mask)
        for name, mask in (("moved", moved), ("failed", failed), ("unknown", unknown))
    }
    dark = column("n_dark") > 0
    blackout = column("blackout_ns").astype(np.int64)
    whole = dark & (blackout >= 0)
    return {
        "folios": {"seen": int(part.row.size), **{name: n for name, (n, _) in counts.items()}},
        "pages": {name: pages for name, (_, pages) in counts.items()},
        "own_pages": int(every.pages[is_own].sum()),
        "difference": _difference(mine, every),
        "matrix": _matrix(column("src_nid")[moved], column("dst_nid")[moved], part.pages[moved]),
        "owners": _owners(folios, part, processes, asked),
        "blackout": {
            "unit": "folio",
            "folios": int(whole.sum()),
            "open": int((dark & ~whole).sum()),
            **summed_over_folios(blackout[whole]),
            **distribution(blackout[whole]),
        },
    }


def _kernels_count(mine: Table, every: Fates, rows: Ints, meta: Meta) -> Numbers:
    """Pages of migrations without a call where folios that moved are not traced.

    :param rows: of ``mine`` in `migrations`.
    """
    if meta.detail != LEVEL_OUTCOMES or mine["call_id"].any():
        return {}
    counted = (mine["succeeded"] != NOT_COUNTED) & (mine["failed"] != NOT_COUNTED)
    # of one that an error ended the kernel does not count what it did not come to
    put_back = np.array([every.pages[every.migration == row].sum() for row in rows], np.int64)
    failed = np.maximum(np.where(counted, mine["failed"], 0), put_back)
    return {
        "pages": {
            "moved": int(mine["succeeded"][counted].astype(np.int64).sum()),
            "failed": int(failed.sum()),
            "unknown": 0,
        },
        "difference": None,
    }


def _difference(mine: Table, every: Fates) -> Numbers | None:
    """Base pages of all folios' records less the kernel's; None where it did not count all."""
    if ((mine["succeeded"] == NOT_COUNTED) | (mine["failed"] == NOT_COUNTED)).any():
        return None
    return {
        f"{name}_pages": int(every.pages[every.outcome == outcome].sum())
        - int(mine[column].astype(np.int64).sum())
        for name, outcome, column in (
            ("moved", MOVED, "succeeded"),
            ("failed", FAILED, "failed"),
        )
    }


def _matrix(
    source: npt.NDArray[np.int16], target: npt.NDArray[np.int16], pages: Ints
) -> list[Numbers]:
    pairs, place = ranks((source.astype(np.int64) << 16) + (target.astype(np.int64) & 0xFFFF))
    sums = np.bincount(place, weights=pages, minlength=pairs.size)
    return [
        {"from": int(pair >> 16), "to": int(np.int16(pair & 0xFFFF)), "pages": int(count)}
        for pair, count in zip(pairs, sums, strict=True)
    ]


def _asked_for(folios: Table, meta: Meta) -> frozenset[int]:
    """Processes that a session was about by their numbers, and what they forked."""
    if meta.scope is None or meta.scope.kind not in ("pids", "command"):
        return frozenset()
    chosen = folios["owner_tgid"][(folios["flags"] & FOLIO_CHOSEN) != 0]
    return frozenset([*meta.scope.pids, *np.unique(chosen).tolist()]) - {0}


def _owners(
    folios: Table, part: Fates, processes: RecordedProcesses, asked: frozenset[int]
) -> list[Numbers]:
    """Processes whose pages they were; tgid 0: mapped by none, or by one that was not seen."""
    tgids, place = ranks(folios["owner_tgid"][part.row].astype(np.int64))
    columns = [
        np.bincount(place, weights=part.pages * (part.outcome == code), minlength=tgids.size)
        for code in (MOVED, FAILED, UNKNOWN)
    ]
    counts = np.bincount(place, minlength=tgids.size)
    found: list[Numbers] = [
        {
            "tgid": int(tgid),
            "comm": processes.comm(int(tgid)) if tgid else "",
            "gone": processes.is_gone(int(tgid)),
            "asked": int(tgid) in asked,
            "folios": int(counts[number]),
            "moved_pages": int(columns[0][number]),
            "failed_pages": int(columns[1][number]),
            "unknown_pages": int(columns[2][number]),
        }
        for number, tgid in enumerate(tgids)
    ]
    found.sort(key=lambda each: -(each["moved_pages"] + each["failed_pages"]))
    rest = [each for each in found[MAX_OWNERS:] if not each["asked"]]
    if rest:
        summed = {
            name: sum(each[name] for each in rest)
            for name in ("folios", "moved_pages", "failed_pages", "unknown_pages")
        }
        kept = [each for each in found[MAX_OWNERS:] if each["asked"]]
        more = {"tgid": None, "comm": f"{len(rest)} more", "asked": False, "processes": len(rest)}
        found[MAX_OWNERS:] = [*kept, {**more, **summed}]
    return found


def _failures(folios: Table, part: Fates, whose: Ints, lying: Lying) -> list[Numbers]:
    """Folios that stayed, and those unknown, by cause; most pages first."""
    where = np.flatnonzero(part.outcome != MOVED)
    codes, place = ranks(part.cause[where].astype(np.int64) * 2 + (part.outcome[where] == UNKNOWN))
    groups: list[Numbers] = []
    for number, code in enumerate(codes.tolist()):
        members = where[place == number]
        cause = cause_of(cause_name(code >> 1))
        row = int(part.row[members[0]])
        example = folios[row]
        address, start_ns = int(example["address"]), int(example["start_ns"])
        groups.append(
            {
                "outcome": "unknown" if code & 1 else "failed",
                "cause": cause.name,
                "meaning": cause.meaning,
                "remedy": cause.remedy,
                "source": cause.source,
                "folios": int(members.size),
                "pages": int(part.pages[members].sum()),
                "example": {
                    "folio": row,
                    "migration": int(part.migration[members[0]]),
                    "address": hex(address) if address else None,
                    "lies_in": lying.at(int(whose[row]), address, start_ns).as_dict(),
                    "owner_tgid": int(example["owner_tgid"]),
                    "nid": int(example["src_nid"]) if example["src_nid"] >= 0 else None,
                    "start_ns": int(example["start_ns"]) or None,
                },
            }
        )
    return sorted(groups, key=lambda group: -int(group["pages"]))


def _counted(values: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Distinct values with their counts, most frequent first."""
    distinct, place = ranks(values.astype(np.int64))
    counts = np.bincount(place, minlength=distinct.size)
    order = np.argsort(-counts, kind="stable")
    return [(int(distinct[at]), int(counts[at])) for at in order]

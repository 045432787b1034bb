# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a report's first screen, from those of the whole report.  Pure.

Who moved how many pages, by what, when and for how long; who stood still; why pages
stayed; and what of all this the recording can't tell.
"""

from collections.abc import Sequence
from typing import Any

from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.when import Clock
from mptrace.reporting.numbers.advice import advice_of
from mptrace.reporting.numbers.lying import There
from mptrace.reporting.numbers.sums import Numbers

#: Owners of the pages of one row that are named.
_MOST_OWNERS = 3
_CALL = "move_pages"
#: How causes begin that are the consequence of another page's.
_FOLLOWS = ("aborted_", "ended_before_its_turn")
#: What a recording that lost some records of these kinds has of pages is a least number.
PAGE_LOSSES = (
    "folio_ring_full",
    "call_ring_full",
    "folio_map_full",
    "thread_map_full",
    "nested_too_deep",
    "chosen_map_full",
    "return_missed",
    "handler_skipped",
)
#: The same of waits.
WAIT_LOSSES = ("wait_ring_full", "wait_map_full", "chosen_map_full", "handler_skipped")


def summary_of(numbers: Numbers, slowest: Sequence[Numbers], there: There) -> Numbers:
    """What the first screen says, as JSON-able values.

    Times of it are ``{"monotonic_ns", "utc"}``, durations ns, pages base pages.

    :param numbers: all other numbers of the report (``profile.profile``).
    :param slowest: of the calls (``slowest.SlowestCalls``).
    :param there: what lies at the folios of the examples.
    """
    clock = Clock(numbers["started"], numbers["ended"])
    who = _who(numbers, clock)
    waits = numbers["stalls"]
    coverage = numbers["coverage"]
    return {
        "watched": {
            "from": clock.at(clock.started[1]) if clock.started else None,
            "to": clock.at(clock.ended[1]) if clock.ended else None,
            "duration_ns": clock.duration_ns(),
            "clock_step_ns": clock.step_ns(),
            "kernel": numbers["kernel"].get("release"),
            "nodes": len(numbers["nodes"]) or None,
        },
        "phases": {
            "all": len(coverage),
            "proved": sum(phase.get("state") == "proved" for phase in coverage),
        },
        "lost": {cause: count for cause, count in numbers["lost"].items() if count},
        "pages_are_least": _lost(numbers, PAGE_LOSSES)
        or any(row["lost"] for row in who)
        or bool(numbers["missing_parts"]),
        "waits_are_least": _lost(numbers, WAIT_LOSSES) or bool(numbers["missing_parts"]),
        "own_pages": numbers["own"]["pages"] if numbers["own"] else None,
        "totals": {
            "moved_pages": sum(row["moved_pages"] for row in who),
            "stayed_pages": sum(row["stayed_pages"] for row in who),
            "unknown_pages": sum(row["unknown_pages"] for row in who)
            + numbers["folios_without_migration"]["pages"],
            "already_there": numbers["outcomes"]["already_there"],
            "waits_traced": waits["traced"],
            "waits": waits["count"],
            "waiting_threads": waits["threads"],
            "waited_ns": waits["total_ns"],
        },
        "who": who,
        "calls": [_call(row, clock) for row in slowest] if numbers["workload"] else None,
        "waited": [_waited(row, clock) for row in waits["by_thread"]],
        "stayed": _stayed(numbers, there, clock),
        "balancing": _balancing(numbers["balancing"]),
        "unknown": _unknown(numbers),
        "advice": advice_of(numbers),
    }


def _lost(numbers: Numbers, causes: Sequence[str]) -> bool:
    return any(numbers["lost"].get(cause) for cause in causes)


def _who(numbers: Numbers, clock: Clock) -> list[Numbers]:
    """A row for each path and initiator, the most time first.

    Those of move_pages(2) are the callers: their time is that of the calls, and what
    stayed are entries of their arrays, also those that no migration had.
    """
    rows = [_row(row, clock) for row in _without_caller(numbers)]
    of_caller: dict[tuple[int, str], list[Numbers]] = {}
    for row in numbers["paths"]:
        if row["path"] == _CALL:
            of_caller.setdefault(_key(row), []).append(row)
    for caller in numbers["callers"]:
        mine = of_caller.get((caller["tgid"], caller["comm"]), [])
        rows.append(_of_caller(caller, mine, clock, numbers["detail"]))
    return sorted(rows, key=lambda row: -int(row["time_ns"]))


def _without_caller(numbers: Numbers) -> list[Numbers]:
    """Rows of `paths` but those of calls; and those of calls without a record of their own."""
    callers = {(caller["tgid"], caller["comm"]) for caller in numbers["callers"]}
    return [row for row in numbers["paths"] if row["path"] != _CALL or _key(row) not in callers]


def _key(row: Numbers) -> tuple[int, str]:
    return row["initiator"]["tgid"], row["initiator"]["comm"]


def _row(row: Numbers, clock: Clock) -> Numbers:
    pages, counted = row["pages"], row["kernel_counted"]
    seen = sum(pages.values()) + row["own_pages"]
    return {
        "path": row["path"],
        "label": row["label"],
        "initiator": row["initiator"],
        "migrations": row["migrations"],
        "calls": None,
        "moved_pages": pages["moved"],
        "stayed_pages": pages["failed"],
        "unknown_pages": pages["unknown"],
        "kernel_counted": counted,
        "lost": row["lost"],
        "time_ns": row["time_ns"],
        "first": clock.at(row["first_ns"]),
        "last": clock.at(row["last_ns"]),
        "longest_dark_ns": row["blackout"]["max"],
        "matrix": sorted(row["matrix"], key=lambda cell: -int(cell["pages"])),
        "owners": _owners([row]),
        "phases": row["phases"],
        # of a part of the folios nobody can say what share of the whole it was
        "has_all_folios": not row["lost"]
        and counted["moved_pages"] + counted["failed_pages"] <= seen,
    }


def _of_caller(caller: Numbers, rows: Sequence[Numbers], clock: Clock, detail: str) -> Numbers:
    """A caller of move_pages(2), with the migrations of its calls."""
    outcomes = caller["outcomes"]
    parts = [_row(row, clock) for row in rows]
    dark = [part["longest_dark_ns"] for part in parts if part["longest_dark_ns"] is not None]
    phases = {"drain": caller["drain_ns"]}
    if detail == LEVEL_OUTCOMES:
        phases["migrate"] = sum(part["time_ns"] for part in parts)
    for part in parts:
        for name, ns in part["phases"].items():
            phases[name] = None if ns is None else (phases.get(name) or 0) + ns
    matrix: dict[tuple[int, int], int] = {}
    for part in parts:
        for cell in part["matrix"]:
            pair = cell["from"], cell["to"]
            matrix[pair] = matrix.get(pair, 0) + cell["pages"]
    return {
        "path": _CALL,
        "label": parts[0]["label"] if parts else "move_pages(2)",
        "initiator": parts[0]["initiator"]
        if parts
        else {
            "tgid": caller["tgid"],
            "comm": caller["comm"],
            "process": caller["process"],
            "kernel_thread": False,
            "threads": caller["threads"],
            "cgroup_id": 0,
            "cgroup": None,
        },
        "migrations": sum(part["migrations"] for part in parts),
        "calls": caller["calls"],
        "moved_pages": sum(part["moved_pages"] for part in parts),
        "stayed_pages": outcomes.get("failed", 0) + outcomes.get("not_attempted", 0),
        "unknown_pages": outcomes.get("unknown", 0),
        "kernel_counted": {
            name: sum(part["kernel_counted"][name] for part in parts)
            for name in ("migrations", "moved_pages", "failed_pages")
        },
        "lost": caller["lost"] + sum(part["lost"] for part in parts),
        "time_ns": caller["time_ns"],
        "first": clock.at(caller["first_ns"]),
        "last": clock.at(caller["last_ns"]),
        "longest_dark_ns": max(dark, default=None),
        "matrix": [
            {"from": source, "to": target, "pages": pages}
            for (source, target), pages in sorted(matrix.items(), key=lambda cell: -cell[1])
        ],
        "owners": _owners(rows, caller["targets"]),
        "phases": phases,
        "has_all_folios": not caller["lost"] and all(part["has_all_folios"] for part in parts),
    }


def _owners(rows: Sequence[Numbers], targets: Sequence[Numbers] = ()) -> Numbers:
    """The processes with most of these pages, and how many more there are.

    :param targets: of calls: where no folio's record says whose it is, they do;
        how many pages then is null.
    """
    pages: dict[int, int] = {}
    names: dict[int, Numbers] = {}
    summed = 0
    for row in rows:
        for owner in row["owners"]:
            if owner["tgid"] is None:
                summed += owner["processes"]
                continue
            tgid = owner["tgid"]
            names[tgid] = owner
            pages[tgid] = pages.get(tgid, 0) + sum(
                owner[f"{outcome}_pages"] for outcome in ("moved", "failed", "unknown")
            )
    ordered = sorted(pages, key=lambda tgid: -pages[tgid])
    known = [target for target in targets if target["tgid"]]
    if known and not any(pages):
        return {
            "named": [
                {**{name: each[name] for name in ("tgid", "comm", "gone")}, "pages": None}
                for each in known[:_MOST_OWNERS]
            ],
            "more": max(len(known) - _MOST_OWNERS, 0),
        }
    return {
        "named": [
            {
                "tgid": tgid,
                "comm": names[tgid]["comm"],
                "gone": names[tgid].get("gone", False),
                "pages": pages[tgid],
            }
            for tgid in ordered[:_MOST_OWNERS]
        ],
        "more": max(len(ordered) - _MOST_OWNERS, 0) + summed,
    }


def _call(row: Numbers, clock: Clock) -> Numbers:
    """One call of a run."""
    outcomes = row["outcomes"]
    return {
        "call": row["call"],
        "start": clock.at(row["start_ns"]),
        "time_ns": row["time_ns"],
        "ret": row["ret"],
        "entries": row["entries"],
        "moved_pages": row["moved_pages"],
        "stayed_entries": outcomes["failed"] + outcomes["not_attempted"],
        "unknown_entries": outcomes["unknown"],
        "matrix": row["matrix"],
        "targets": row["targets"],
        "longest_dark_ns": row["longest_dark_ns"],
    }


def _waited(row: Numbers, clock: Clock) -> Numbers:
    """A thread that stood still."""
    longest = row["longest"]
    return {
        **{name: row[name] for name in ("tid", "tgid", "comm", "process")},
        "waits": row["count"],
        "open": row["open"],
        "waited_ns": row["total_ns"],
        "first": clock.at(row["first_ns"]),
        "last": clock.at(row["last_ns"]),
        "initiators": row["initiators"],
        "longest_ns": longest and longest["wait_ns"],
        "longest_start": longest and clock.at(longest["start_ns"]),
        "address": longest and (longest["address"] or longest["mapped_at"]),
        "mapping": longest and longest["mapping"],
        "lies_in": longest and longest["lies_in"],
        "kind": longest and longest["kind"],
        "initiator": longest and longest["initiator"],
    }


def _balancing(found: Numbers) -> Numbers | None:
    """Of all processes, and that of most time; None where nothing was seen."""
    if not found["processes"]:
        return None
    names = ("tgid", "comm", "scan_ns", "fault_ns")
    return {
        "processes": len(found["processes"]),
        **{name: value for name, value in found["totals"].items() if not name.endswith("_at_ns")},
        "is_least": found["is_least"],
        "most": {name: found["processes"][0][name] for name in names},
    }


def _stayed(numbers: Numbers, there: There, clock: Clock) -> list[Numbers]:
    """Why pages stayed, of calls and of other migrations: the causes of most pages first.

    What only follows from another page's failure comes last.
    """
    found: dict[str, Numbers] = {}
    for group in numbers["failure_causes"]:
        example = group["example"]
        _add(found, group, group["count"], example, example["target_tgid"], there, numbers, clock)
    for row in _without_caller(numbers):
        for group in row["failures"]:
            example = group["example"]
            if group["outcome"] == "failed":
                owner = example["owner_tgid"]
                _add(found, group, group["pages"], example, owner, there, numbers, clock)
    return sorted(
        found.values(),
        key=lambda group: (str(group["cause"]).startswith(_FOLLOWS), -int(group["pages"])),
    )


def _add(
    found: dict[str, Numbers],
    group: Numbers,
    pages: int,
    example: Numbers,
    tgid: int,
    there: There,
    numbers: Numbers,
    clock: Clock,
) -> None:
    name = group["cause"]
    if name in found:
        found[name]["pages"] += pages
        return
    found[name] = {
        "cause": name,
        "meaning": group["meaning"],
        "remedy": group["remedy"],
        "pages": pages,
        "first": clock.at(example["start_ns"]),
        "address": example["address"],
        "nid": example["nid"],
        "tgid": tgid or None,
        "comm": _name(tgid, numbers),
        "mapping": example.get("mapping"),
        "lies_in": example["lies_in"],
        **there.at(example["folio"]),
    }


def _name(tgid: int, numbers: Numbers) -> str:
    """The name of a process whose pages were moved, "" where it is not known."""
    owners: list[Any] = [owner for row in numbers["paths"] for owner in row["owners"]]
    owners += [target for caller in numbers["callers"] for target in caller["targets"]]
    return next((str(each["comm"]) for each in owners if each["tgid"] == tgid and tgid), "")


def _unknown(numbers: Numbers) -> dict[str, int]:
    """Why it is unknown what became of pages: cause -> pages."""
    found = dict(numbers["unknown_reasons"])
    for row in _without_caller(numbers):
        for group in row["failures"]:
            if group["outcome"] == "unknown":
                found[group["cause"]] = found.get(group["cause"], 0) + group["pages"]
    strays = numbers["folios_without_migration"]["pages"]
    return found | ({"migration_without_record": strays} if strays else {})

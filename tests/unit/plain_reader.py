# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a recording by pyarrow and json alone: what the first screen must say of it.

Knows nothing of mptrace but the layout of its files (docs/architecture.md and the comments of
recording/layouts.py): a second opinion about every number.  For recordings without calls and for
those of `mptrace run`; for these the driver's own look at the locations tells what moved.
"""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as parquet

MOVED, NOT_COUNTED = 0, 0xFFFFFFFF
#: Phase -> what of a folio's row it is.
PHASES = {
    "allocate": ("alloc_ns",),
    "lock": ("lock_ns",),
    "unmap": ("unmap_ns", "flush_ns"),
    "tlb_flush": ("flush_ns",),
    "move": ("move_ns", "copy_ns"),
    "copy": ("copy_ns",),
    "lru_add": ("lru_ns",),
    "remap": ("remap_ns",),
    "release": ("release_ns",),
}


class Plain:
    """The tables of a recording as lists of dicts, and its meta.json."""

    def __init__(self, path: Path) -> None:
        self.meta = json.loads((path / "meta.json").read_text())
        self._path = path

    def rows(self, table: str) -> list[dict]:
        """The rows of a table, in order."""
        parts = sorted(self._path.glob(f"{table}-[0-9]*.parquet"))
        return [row for part in parts for row in parquet.read_table(part).to_pylist()]

    def utc(self, monotonic_ns: int) -> str:
        """A time of the recording as ISO 8601 with nanoseconds."""
        started = self.meta["started"]
        wall = started["wall_ns"] + monotonic_ns - started["monotonic_ns"]
        seconds = datetime.fromtimestamp(wall // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{seconds}.{wall % 10**9:09d}Z"

    def moment(self, monotonic_ns: int) -> dict:
        """The same beside the time itself."""
        return {"monotonic_ns": monotonic_ns, "utc": self.utc(monotonic_ns)}

    def watched(self) -> dict:
        """When the session was, and where."""
        started, ended = self.meta["started"], self.meta["ended"]
        monotonic = ended["monotonic_ns"] - started["monotonic_ns"]
        return {
            "from": self.moment(started["monotonic_ns"]),
            "to": self.moment(ended["monotonic_ns"]),
            "duration_ns": monotonic,
            "clock_step_ns": ended["wall_ns"] - started["wall_ns"] - monotonic,
            "kernel": self.meta["kernel"]["release"],
            "nodes": len(self.meta["nodes"]),
        }

    def who(self) -> list[dict]:
        """A row for each process that migrated (by one path only), without a call."""
        groups = defaultdict(list)
        for row in self.rows("migrations"):
            groups[row["tgid"], _text(row["comm"])].append(row)
        folios = self.rows("folios")
        found = []
        for (tgid, comm), mine in groups.items():
            ids = {row["migration_id"] for row in mine}
            theirs = [row for row in folios if row["migration_id"] in ids]
            assert not {row["owner_tgid"] for row in theirs} & set(self.meta.get("own", ()))
            found.append({"tgid": tgid, "comm": comm} | self._of(mine, theirs))
        return sorted(found, key=lambda row: -row["time_ns"])

    def _of(self, mine: list[dict], folios: list[dict]) -> dict:
        pages, owners, phases = Counter(), Counter(), Counter()
        dark = []
        for row in folios:
            is_moved = row["move_rc"] == MOVED
            pages["moved" if is_moved else "stayed"] += row["nr_pages"]
            owners[row["owner_tgid"]] += row["nr_pages"]
            if is_moved:
                pages[row["src_nid"], row["dst_nid"]] += row["nr_pages"]
            if row["n_dark"]:
                dark.append(row["blackout_ns"])
            for name, (whole, *inside) in PHASES.items():
                phases[name] += row[whole] - sum(row[part] for part in inside)
        phases["tlb_flush"] += sum(row["flush_ns"] for row in mine)
        return {
            "migrations": len(mine),
            "moved_pages": pages["moved"],
            "stayed_pages": pages["stayed"],
            "kernel_counted": {
                "migrations": len(mine),
                "moved_pages": sum(row["succeeded"] for row in mine),
                "failed_pages": sum(row["failed"] for row in mine),
            },
            "lost": sum(row["lost"] for row in mine),
            "time_ns": sum(row["exit_ns"] - row["enter_ns"] for row in mine),
            "first": self.moment(min(row["enter_ns"] for row in mine)),
            "last": self.moment(max(row["exit_ns"] for row in mine)),
            "longest_dark_ns": max(dark),
            "matrix": sorted(
                (
                    {"from": pair[0], "to": pair[1], "pages": count}
                    for pair, count in pages.items()
                    if isinstance(pair, tuple)
                ),
                key=lambda cell: -cell["pages"],
            ),
            "owners": dict(owners),
            "phases": dict(phases),
        }

    def waited(self) -> list[dict]:
        """A row for each thread that waited."""
        groups = defaultdict(list)
        for row in self.rows("waits"):
            groups[row["tid"]].append(row)
        migrations = {row["migration_id"]: row for row in self.rows("migrations")}
        found = []
        for tid, mine in groups.items():
            longest = max(mine, key=lambda row: row["end_ns"] - row["start_ns"])
            holder = migrations[longest["holder_id"]]
            found.append(
                {
                    "tid": tid,
                    "tgid": longest["tgid"],
                    "comm": _text(longest["comm"]),
                    "waits": len(mine),
                    "waited_ns": sum(row["end_ns"] - row["start_ns"] for row in mine),
                    "first": self.moment(min(row["start_ns"] for row in mine)),
                    "last": self.moment(max(row["end_ns"] for row in mine)),
                    "longest_ns": longest["end_ns"] - longest["start_ns"],
                    "longest_start": self.moment(longest["start_ns"]),
                    "address": hex(longest["address"]) if longest["address"] else None,
                    "for": (holder["tgid"], _text(holder["comm"])),
                }
            )
        return sorted(found, key=lambda row: -row["waited_ns"])

    def calls(self) -> list[dict]:
        """A row for each call of a run: what became of its pages by where they were, and are."""
        places = defaultdict(list)
        for row in self.rows("locations"):
            places[row["driver_call"]].append(row)
        folios, targets = self.rows("folios"), {}
        for row in self.rows("entries"):
            targets[row["call_id"], row["entry"]] = row["target_nid"]
        found = []
        calls = sorted(self.rows("calls"), key=lambda row: row["call_id"])
        driven = self.rows("driver_calls")
        for number, row in enumerate(calls):
            (asked,) = (
                each["driver_call"]
                for each in driven
                if each["before_ns"] <= row["enter_ns"] and row["exit_ns"] <= each["after_ns"]
            )
            dark = [
                folio["blackout_ns"]
                for folio in folios
                if folio["call_id"] == row["call_id"] and folio["n_dark"]
            ]
            outcomes, matrix = Counter(), Counter()
            for place in places[asked]:
                target = targets[row["call_id"], place["entry"]]
                before, after = place["before_nid"], place["final_nid"]
                outcome = "stayed" if after != target else "moved"
                outcomes["there" if before == target else outcome] += 1
                if before != target == after:
                    matrix[before, after] += 1
            found.append(
                {
                    "call": number,
                    "start": self.moment(row["enter_ns"]),
                    "time_ns": row["exit_ns"] - row["enter_ns"],
                    "ret": row["ret"],
                    "entries": row["nr_pages"],
                    "moved_pages": outcomes["moved"],
                    "stayed_entries": outcomes["stayed"],
                    "already_there": outcomes["there"],
                    "matrix": [{"from": a, "to": b, "pages": n} for (a, b), n in matrix.items()],
                    "longest_dark_ns": max(dark),
                }
            )
        return sorted(found, key=lambda row: -row["time_ns"])

    def addresses_that_stayed(self) -> list[str | None]:
        """Of all folios that a migration had and did not move, in order; None: not mapped."""
        return [
            hex(row["address"]) if row["address"] else None
            for row in self.rows("folios")
            if row["migration_id"] and row["move_rc"] != MOVED
        ]


def _text(comm: bytes | str) -> str:
    return comm if isinstance(comm, str) else comm.split(b"\0")[0].decode()

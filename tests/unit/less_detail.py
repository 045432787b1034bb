# SPDX-License-Identifier: GPL-2.0-or-later
"""What is recorded at the level of detail `outcomes` of calls that the model of the kernel made.

Written from what BPF does at that level: a lookup is 24 bytes, and a folio has a record only if
its migration left it behind.
"""

from typing import Any

import numpy as np

from mptrace.recording.layouts import (
    END_LOOKUP,
    END_PUTBACK,
    FOLIO,
    FOLIO_HUGETLB,
    FOLIO_UNEXPECTED,
    ISOLATE_NOT_TRIED,
    MOVE_NOT_TRIED,
    NO_LOOKUP,
    OBSTACLE,
    SEEN_STATE,
    STAGE_PUTBACK,
    WAIT,
)
from mptrace.recording.lookup_layouts import FOUND_KSM, LOOKUP

Tables = dict[str, np.ndarray[Any, Any]]


def at_outcomes(tables: Tables, merged: frozenset[int] = frozenset()) -> Tables:
    """The tables that this level would have, of those of the level `all`.

    :param merged: pages of folios that KSM merged, by address // 4096.
    """
    folios, migrations = tables["folios"], tables["migrations"].copy()
    looked = folios[folios["lookup_seq"] != NO_LOOKUP]
    lookups = np.zeros(looked.size, LOOKUP)
    for name in ("call_id", "lookup_seq", "address", "src"):
        lookups[name] = looked[name]
    lookups["rc"] = looked["lookup_rc"]
    lookups["nid"] = looked["src_nid"]
    lookups["order"] = np.log2(np.maximum(looked["nr_pages"], 1)).astype(np.uint8)
    lookups["flags"] = looked["flags"] & FOLIO_HUGETLB
    pages = (lookups["address"] // 4096).tolist()
    lookups["flags"] |= np.array([FOUND_KSM * (page in merged) for page in pages], np.uint8)
    refused, evidence = [], []
    migrations["failed"] = migrations["succeeded"] = 0
    for row in looked:
        if row["isolate_rc"] or row["end"] == END_LOOKUP:
            continue
        # its group is the first that was moved after its lookup
        mine = np.flatnonzero(migrations["call_id"] == row["call_id"])
        mine = mine[migrations["lookups_before"][mine] > row["lookup_seq"]]
        group = migrations[mine[0]]
        has_moved = row["move_rc"] == 0
        group["succeeded" if has_moved else "failed"] += row["nr_pages"]
        migrations[mine[0]] = group
        if has_moved or row["end"] != END_PUTBACK:
            continue
        left = np.zeros(1, FOLIO)[0]
        for name in ("call_id", "src", "nr_pages", "src_nid", "tid"):
            left[name] = row[name]
        left["migration_id"] = group["migration_id"]
        left["lookup_seq"] = NO_LOOKUP
        left["start_ns"] = left["end_ns"] = group["exit_ns"] + 1
        left["isolate_rc"], left["move_rc"] = ISOLATE_NOT_TRIED, MOVE_NOT_TRIED
        left["dst_nid"] = -1
        left["end"], left["flags"] = END_PUTBACK, FOLIO_UNEXPECTED
        refused.append(left)
        state = np.zeros(1, OBSTACLE)[0]
        for name in ("call_id", "migration_id", "src", "nr_pages", "tid"):
            state[name] = left[name]
        state["first_ns"] = state["last_ns"] = left["start_ns"]
        state["lookup_seq"], state["allowed"] = NO_LOOKUP, -1
        state["stage"], state["seen"] = STAGE_PUTBACK, SEEN_STATE
        state["mapping"], state["refcount"], state["mapcount"] = 0xFFFF888000000001, 3, 1
        evidence.append(state)
    early = tables["obstacles"]
    early = early[early["migration_id"] == 0]
    return {
        **tables,
        "waits": np.zeros(0, WAIT),
        "lookups": lookups,
        "migrations": migrations,
        "folios": np.array(refused, FOLIO) if refused else np.zeros(0, FOLIO),
        "obstacles": np.concatenate([early, np.array(evidence, OBSTACLE)]) if evidence else early,
    }


def meta_at_outcomes(meta: dict[str, Any]) -> dict[str, Any]:
    """A meta.json of that level."""
    phases = ("call", "lookup", "migration", "outcome", "putback")
    coverage = [{"phase": phase, "state": "proved"} for phase in phases]
    return {**meta, "detail": "outcomes", "coverage": coverage}

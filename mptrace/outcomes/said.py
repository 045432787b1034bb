# SPDX-License-Identifier: GPL-2.0-or-later
"""What a selection has of a recording, and what there is, as JSON-able values.  Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mptrace.arrays import Tables
from mptrace.outcomes.balancing import balancing_of
from mptrace.outcomes.chosen import COUNTED, Chosen
from mptrace.outcomes.correlate import Correlation
from mptrace.outcomes.own import Own
from mptrace.outcomes.paths import PATHS, of_migrations, path_of_balancing
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.outcomes.selection import Selection
from mptrace.outcomes.waiting import waits_of
from mptrace.recording.meta import Meta
from mptrace.recording.when import Clock, first_and_last

#: JSON-able: see :func:`said_of`.
Said = dict[str, Any]


def said_of(
    selection: Selection,
    chosen: Chosen,
    tables: Tables,
    meta: Meta,
    found: Correlation,
    own: Own | None = None,
) -> Said:
    """What was asked for, how much of the recording that is, and what there is besides.

    ``from`` and ``to`` are ``{"monotonic_ns", "utc"}`` or None; ``rows``: table ->
    ``{"chosen", "of"}``; ``unsure``: table -> rows left out as nobody can say whether
    they fit; ``there_is``: times, processes, paths and nodes of the recording.

    :param own: what is mptrace's own, to be in no count; None: it is counted.
    """
    clock = Clock(meta.raw.get("started"), meta.raw.get("ended"))
    theirs: dict[str, Any] = {table: slice(None) for table in COUNTED}
    if own is not None:
        of_calls = own.of_calls(tables["calls"], found.call_ids)
        theirs |= {
            "calls": ~own.calls,
            "entries": ~of_calls[found.rows["call"]],
            "migrations": ~own.migrations,
            "folios": ~own.folios,
            "waits": ~own.waits,
            "balancing": ~own.balancing,
        }
    rows, unsure = {}, {}
    for table in COUNTED:
        mask = chosen.masks[table][theirs[table]]
        rows[table] = {"chosen": int(mask.sum()), "of": int(mask.size)}
        unsure[table] = int(chosen.unsure[table][theirs[table]].sum())
    rows["entries"]["chosen"] += chosen.beyond_bound
    rows["entries"]["of"] += found.beyond_bound
    unsure["entries"] += chosen.unsure_beyond
    return {
        "from": None if selection.from_ns is None else _moment(clock, selection.from_ns),
        "to": None if selection.to_ns is None else _moment(clock, selection.to_ns),
        "pids": list(selection.pids),
        "paths": list(selection.names),
        "nodes": list(selection.nids),
        "failed": selection.failed,
        "top": selection.top,
        "rows": rows,
        "unsure": unsure,
        "there_is": _there_is(tables, meta, clock, own),
    }


def is_filter(said: Mapping[str, Any]) -> bool:
    """Whether rows may be left out: lists that are cut alone leave out none."""
    names = ("from", "to", "pids", "paths", "nodes", "failed")
    return any(said[name] for name in names)


def is_empty(said: Mapping[str, Any]) -> bool:
    """Whether nothing is chosen; of a selection of failures alone what can't fail doesn't count."""
    only_failed = said["failed"] and not any(
        (said["from"], said["to"], said["pids"], said["paths"], said["nodes"])
    )
    return not any(
        row["chosen"]
        for table, row in said["rows"].items()
        if table not in ("waits", "balancing") or not only_failed
    )


def _moment(clock: Clock, ns: int) -> dict[str, Any]:
    # 0 is a time here, if a strange one
    return clock.at(ns) or {"monotonic_ns": ns, "utc": None}


def _there_is(tables: Tables, meta: Meta, clock: Clock, own: Own | None) -> Said:
    calls, migrations, folios = tables["calls"], tables["migrations"], tables["folios"]
    waits, balancing = waits_of(tables), balancing_of(tables)
    if own is not None:
        calls, migrations = calls[~own.calls], migrations[~own.migrations]
        folios, waits = folios[~own.folios], waits[~own.waits]
        balancing = balancing[~own.balancing]
    times = first_and_last(
        np.concatenate(
            [
                calls["enter_ns"],
                migrations["enter_ns"],
                waits["start_ns"],
                balancing["from_ns"],
            ]
        ),
        np.concatenate(
            [calls["exit_ns"], migrations["exit_ns"], waits["end_ns"], balancing["to_ns"]]
        ),
    )
    columns = (
        calls["tgid"],
        calls["target_tgid"],
        migrations["tgid"],
        folios["owner_tgid"],
        waits["tgid"],
        balancing["tgid"],
    )
    people = RecordedProcesses(tables, meta)
    keys = {PATHS[code].key for code in np.unique(of_migrations(migrations, meta)).tolist()}
    keys |= {"move_pages"} if calls.size else set()
    keys |= {PATHS[path_of_balancing(meta)].key} if balancing.size else set()
    nids = np.concatenate(
        [folios["src_nid"], folios["dst_nid"][folios["dst"] != 0], migrations["dst_nid"]]
    )
    return {
        "first": clock.at(times["first_ns"]),
        "last": clock.at(times["last_ns"]),
        "processes": [
            {"tgid": tgid, "comm": people.comm(tgid)}
            for tgid in np.unique(np.concatenate(columns)).tolist()
            if tgid
        ],
        "paths": sorted(keys),
        "nodes": [nid for nid in np.unique(nids).tolist() if nid >= 0],
    }

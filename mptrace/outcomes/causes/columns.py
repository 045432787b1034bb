# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of `obstacles` as the columns that the rules look at.  Pure, vectorized."""

from typing import Any

import numpy as np

from mptrace.arrays import Ints, Tables
from mptrace.outcomes.causes import obstacles
from mptrace.recording.layouts import SEEN_STATE
from mptrace.recording.meta import Meta


def state_of(tables: Tables, meta: Meta, rows: Ints) -> dict[str, Any]:
    """Fields of ``rule_columns.RuleColumns`` that rows of `obstacles` (-1: none) give."""
    table = obstacles.of(tables)
    has = rows >= 0
    # a row of zeros stands for those without
    states = np.zeros(rows.size, table.dtype)
    states[has] = table[rows[has]]
    states["allowed"][~has] = -1
    expected = obstacles.expected_references(states, meta)
    seen = has & ((states["seen"] & SEEN_STATE) != 0)
    mapped = np.maximum(states["mapcount"].astype(np.int64), 0)
    mapcount = np.maximum(states["mapcount"], states["page_mapcount"])
    return {
        "seen": seen,
        "stage": states["stage"].astype(np.int64),
        "pte": obstacles.pte_kind(states, meta.kernel.machine),
        "mapping": obstacles.mapping_kind(states),
        "mapcount": mapcount.astype(np.int64),
        "extra": states["refcount"].astype(np.int64) - expected - mapped,
        "extra_known": seen & (expected >= 0),
        "pinned": has & obstacles.is_pinned(states, meta),
        "locked": obstacles.flag(states, meta, "PG_locked"),
        "writeback": obstacles.flag(states, meta, "PG_writeback"),
        "dirty": obstacles.flag(states, meta, "PG_dirty"),
        "private": obstacles.flag(states, meta, "PG_private"),
        "private_2": obstacles.flag(states, meta, "PG_private_2"),
        "reserved": obstacles.flag(states, meta, "PG_reserved"),
        "allowed": states["allowed"].astype(np.int64),
        "n_release": states["n_release"].astype(np.int64),
        "n_split": states["n_split"].astype(np.int64),
        "has_ops": states["a_ops"] != 0,
        "has_migrate_op": states["migrate_op"] != 0,
        "moves_buffers": obstacles.named(states["migrate_op"], meta, "buffer_migrate_folio"),
        "is_hugetlb": obstacles.in_hugetlb(states),
        "has_holder": states["holder_id"] != 0,
        "fs": states["fs"],
    }

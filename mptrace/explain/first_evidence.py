# SPDX-License-Identifier: GPL-2.0-or-later
"""The evidence of one of several entries, and where the evidence of entries is.  Pure."""

from typing import Any

import numpy as np

from mptrace.arrays import Ints, Table, Tables
from mptrace.explain.evidence import Evidence
from mptrace.explain.words import line
from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.correlate import FAILED, NOT_ATTEMPTED, Correlation


def evidence_of(
    evidence: Evidence, tables: Tables, found: Correlation, some: Table
) -> tuple[bool, str]:
    """The evidence of the first of some entries that has any, in one line; "" for none.

    :param evidence: of a recording, or of the slice that ``tables`` are.
    :param some: rows of the correlation.
    :returns: whether one has a record of what refused it, and the line.
    """
    obstacles = obstacles_of(evidence, found, some)
    has = np.flatnonzero(obstacles >= 0)
    at = int(has[0]) if has.size else 0
    row = some[at]
    if row["outcome"] != FAILED:
        return bool(has.size), ""
    findings = evidence.all_of(int(obstacles[at]), folio_of(tables, row))
    return bool(has.size), line(cause_name(int(row["cause"])), findings)


def obstacles_of(evidence: Evidence, found: Correlation, some: Table) -> Ints:
    """The obstacle of each of some rows of the correlation, -1: none."""
    rows = evidence.rows_of(some["folio"], found.call_ids[some["call"]], some["address"])
    # Of entries that nobody looked at there is nothing to be said.
    return np.where(some["outcome"] == NOT_ATTEMPTED, -1, rows)


def folio_of(tables: Tables, row: Any) -> Any | None:
    """The record of the folio that decided about an entry, None: nobody looked at one."""
    if row["folio"] < 0 or row["outcome"] == NOT_ATTEMPTED:
        return None
    return tables["folios"][int(row["folio"])]

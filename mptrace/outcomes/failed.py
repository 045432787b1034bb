# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows of each table did not succeed, and of which nobody can say.  Pure, vectorized."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Bytes, Ints, Tables
from mptrace.outcomes.causes import obstacles
from mptrace.outcomes.correlate import (
    ALREADY_THERE,
    FAILED,
    MOVED,
    NOT_ATTEMPTED,
    UNKNOWN,
    Correlation,
)
from mptrace.outcomes.fates import Fates, failed_migrations, outcomes
from mptrace.outcomes.own import Own
from mptrace.outcomes.plain_table import places_in
from mptrace.recording.layouts import STAGE_NONE
from mptrace.recording.meta import Meta

#: For each row of a table: it did not succeed, and nobody can say whether it did.
Verdict = tuple[Bools, Bools]


class Failed:
    """What `--failed` keeps of each table: by what became of the pages, whoever moved them.

    :param tables: tables of a recording by name.
    :param found: its entries, of all calls.
    :param fate: its folios that migrations had.
    """

    def __init__(
        self, tables: Tables, meta: Meta, found: Correlation, fate: Fates, own: Own
    ) -> None:
        self._tables, self._meta = tables, meta
        self._found, self._fates, self._own = found, fate, own

    def entries(self) -> Verdict:
        """Those whose page stayed or was never attempted."""
        outcome = self._found.rows["outcome"]
        return np.isin(outcome, (FAILED, NOT_ATTEMPTED)), outcome == UNKNOWN

    def calls(self) -> Verdict:
        """Those with such an entry, or that returned another value than 0."""
        rows, entries = self._tables["calls"], self._found.rows
        numbers, known = places_in(self._found.call_ids, rows["call_id"])
        bad, unknown = self.entries()
        stayed = np.zeros(self._found.call_ids.size, np.bool_)
        stayed[entries["call"][bad]] = True
        # what was returned says little of the pages: 0 also where one was refused
        failed = rows["ret"] != 0
        failed[known] |= stayed[numbers[known]]
        doubt = (rows["lost"] != 0) | (rows["exit_ns"] == 0)
        doubt |= (rows["nr_pages"] > self._meta.max_entries) & (rows["nodes_ptr"] != 0)
        unclear = np.zeros(stayed.size, np.bool_)
        unclear[entries["call"][unknown]] = True
        doubt[known] |= unclear[numbers[known]]
        return failed, doubt & ~failed

    def migrations(self) -> Verdict:
        """Those that left something behind."""
        rows = self._tables["migrations"]
        failed = failed_migrations(rows, self._fates, self._own.beside(self._fates))
        doubt = rows["lost"] != 0
        of_unknown = self._fates.migration[self._fates.outcome == UNKNOWN]
        doubt[of_unknown[of_unknown >= 0]] = True
        return failed, doubt & ~failed

    def folios(self) -> Verdict:
        """Those that stayed."""
        outcome, _, is_told = self.outcomes
        # a lookup that found nothing has no folio
        has = is_told | (self._tables["folios"]["nr_pages"] > 0)
        return is_told & (outcome == FAILED), (outcome == UNKNOWN) & has

    def obstacles(self) -> Bools:
        """Those that refused a folio which did not move in the end."""
        rows = obstacles.of(self._tables)
        folio = self.folio_of_obstacles
        # one that has no stage only delayed its folio; another may have been overcome
        bad: Bools = rows["stage"] != STAGE_NONE
        outcome, _, is_told = self.outcomes
        fine = is_told & np.isin(outcome, (MOVED, ALREADY_THERE))
        bad[folio >= 0] &= ~fine[folio[folio >= 0]]
        return bad

    @cached_property
    def folio_of_obstacles(self) -> Ints:
        """Row of the folio that each obstacle refused or delayed, -1."""
        of_folio = obstacles.of_folios(self._tables)
        folio = np.full(obstacles.of(self._tables).size, -1, np.int64)
        has = np.flatnonzero(of_folio >= 0)
        folio[of_folio[has]] = has
        return folio

    @cached_property
    def outcomes(self) -> tuple[Bytes, npt.NDArray[np.int64], Bools]:
        """Outcome and cause of each folio, and whether they are known.

        By its own records, else by those of the entries that it decided: one that was
        not isolated stayed, too, or was there already.
        """
        rows = self._tables["folios"]
        outcome, is_told = outcomes(self._tables, self._meta, self._fates)
        cause = np.zeros(rows.size, np.int64)
        cause[self._fates.row] = self._fates.cause
        entries = self._found.rows
        entries = entries[(entries["folio"] >= 0) & (entries["outcome"] != NOT_ATTEMPTED)]
        # of several entries of one folio one that failed decides: it comes last
        entries = entries[np.argsort(entries["outcome"] == FAILED, kind="stable")]
        folio = entries["folio"]
        # a lookup that found nothing has no folio
        of_entry = ~is_told[folio] & (rows["nr_pages"][folio] > 0)
        outcome[folio[of_entry]] = entries["outcome"][of_entry]
        is_told[folio[of_entry]] = True
        # of one that no migration had only the entry knows why
        alone = is_told[folio] & (rows["migration_id"][folio] == 0)
        cause[folio[alone]] = entries["cause"][alone]
        return outcome, cause, is_told

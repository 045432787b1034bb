# SPDX-License-Identifier: GPL-2.0-or-later
"""What stays unknown after losses, with phases missing or arrays unreadable; no guesses.  Pure."""

import numpy as np

from mptrace.arrays import Codes
from mptrace.outcomes.causes.rules import cause_code
from mptrace.outcomes.joined import CANT_TELL, PMD_BYTES
from mptrace.outcomes.steps import CallRecords, Loop, Settled, Shared
from mptrace.recording.joins import any_near


def doubt(records: CallRecords, loop: Loop, shared: Shared) -> Settled:
    """The outcomes, unknown where one of these holds, the first of them being the cause.

    1. Of the call nothing can be known: it has no end, or the session did not see enough.
    2. The entry's address or target could not be read.
    3. A lookup of the call is missing and may have been of the entry's page.
    """
    calls, entries = records.calls, records.entries
    of_call = calls.reason[entries.call]
    unread = ~entries.readable
    of_entry = np.where(entries.absent, calls.lost_code, cause_code("unread"))
    of_losses = _doubt_incomplete(records, loop, shared)
    cause = np.select([of_call != 0, unread], [of_call, of_entry], of_losses)
    outcomes = shared.outcomes.unknown(cause != 0, cause)
    # Whether such an entry that was never attempted shares another's folio is in doubt, too.
    outcomes = outcomes.changed((of_losses != 0) & loop.is_left, folio=-1)

    written = loop.written.copy()
    written[(of_call != 0) | (unread & ~loop.is_left)] = CANT_TELL
    return Settled(outcomes, written)


def _doubt_incomplete(records: CallRecords, loop: Loop, shared: Shared) -> Codes:
    """The cause of each entry that a lost lookup makes unknown, 0 for none.

    In a call that lost lookups a page may have been touched by a lost one.  A verdict
    about an entry stands only where no unknown entry of the call can be of the same
    folio; "busy" never stands, for who isolated it may be lost.
    """
    calls, entries, lookups = records.calls, records.entries, records.lookups
    found = np.zeros(entries.count, np.uint16)
    rows = np.flatnonzero(~lookups.sound[entries.call])
    if not rows.size:
        return found
    # Entries whose address is lost may be of any page.
    blind = np.zeros(calls.count, np.bool_)
    blind[entries.call[~entries.readable]] = True
    look = lookups.of_entry[rows]
    has = look >= 0
    busy, reach = np.zeros(rows.size, np.bool_), np.full(rows.size, PMD_BYTES // calls.page_size)
    if lookups.row.size:
        look = np.maximum(look, 0)
        busy = has & (lookups.isolate_rc[look] < 0) & shared.by_own_lookup[rows]
        reach = np.where(has, np.maximum(lookups.nr_pages[look], 1), reach)
    page = (entries.address // np.uint64(calls.page_size)).astype(np.int64)
    unknown = rows[~loop.is_known[rows]]
    near = any_near(entries.call[unknown], page[unknown], entries.call[rows], page[rows], reach - 1)
    open_ = rows[busy | near | blind[entries.call[rows]]]
    # Where no record is missing, what lies beyond the bound or the arrays are to blame.
    code = np.where(lookups.complete, cause_code("ambiguous"), calls.lost_code)
    code[calls.nr_pages > calls.max_entries] = cause_code("beyond_bound")
    found[open_] = code[entries.call[open_]]
    return found

# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's loop (do_pages_move() in mm/migrate.c), replayed over the arrays.  Pure.

* an entry without a lookup has no suitable mapping: -EFAULT, stored at once;
* an entry whose folio was not isolated gets its status at once, and that
  flushes the group collected so far;
* an isolated one is queued; consecutive queued entries of one target node are
  a group, moved by one migrate_pages(), and get their status only when that
  returns 0.  Anything else ends the loop: what comes later is never attempted.

Sources: mm/migrate.c of 6.1.y and 6.12.y, do_pages_move(),
move_pages_and_store_status(), add_page_for_migration(), add_folio_for_migration().

Everything is vectorized over the whole recording: no loop runs per page, and
none per call but for the few calls whose lookups don't fit in order.
"""

import errno
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints
from mptrace.outcomes.causes.rules import cause_code
from mptrace.outcomes.joined import (
    ALREADY_THERE,
    CANT_TELL,
    FAILED,
    NOT_ATTEMPTED,
    UNKNOWN,
    UNTOUCHED,
    WRITTEN,
    CallColumns,
    EntryColumns,
)
from mptrace.outcomes.lookups import Lookups
from mptrace.outcomes.steps import CallRecords, EntryOutcomes, Loop
from mptrace.recording.joins import rows_of_calls
from mptrace.recording.layouts import ISOLATE_NOT_TRIED, LOOKUP_NONE, READ_STATUS

# Returned before the loop began.
_REFUSALS = (-errno.EINVAL, -errno.EPERM, -errno.ESRCH, -errno.EINTR)


def replay_loop(records: CallRecords) -> Loop:
    """What the kernel's loop did with each entry of every call, in the order of ``entries``."""
    calls, entries, lookups = records.calls, records.entries, records.lookups
    groups = records.groups
    call, ordinal = entries.call, entries.ordinal
    has = lookups.of_entry >= 0
    look = np.maximum(lookups.of_entry, 0)
    if not lookups.row.size:
        has = np.zeros(entries.count, np.bool_)

    def of(values: npt.NDArray[Any], absent: int) -> npt.NDArray[Any]:
        """A column of lookups by entry."""
        if not lookups.row.size:
            return np.full(entries.count, absent, values.dtype)
        return np.where(has, values[look], np.array(absent, values.dtype))

    queued = of(lookups.queued, 0).astype(np.bool_)
    whole = lookups.sound[call]
    # What the loop stores for the entry by itself.
    target = entries.target
    rc, isolate_rc = of(lookups.rc, 0), of(lookups.isolate_rc, ISOLATE_NOT_TRIED)
    nid = of(lookups.nid, -1)
    there = has & ~queued & (rc == 0) & (isolate_rc == ISOLATE_NOT_TRIED) & (nid == target)
    expected = np.select(
        [
            ~has,
            queued | there,
            rc == LOOKUP_NONE,
            rc == -errno.EEXIST,
            rc < 0,
            isolate_rc != ISOLATE_NOT_TRIED,
        ],
        [-errno.EFAULT, target, -errno.ENOENT, -errno.EFAULT, rc, -errno.EBUSY],
        -errno.EACCES,
    )
    # A page was found and the status says none: the zero page, or a device's
    # (folio_walk_start() with FW_ZEROPAGE, since 6.12).
    bare = has & ~queued & (rc == 0) & (isolate_rc == ISOLATE_NOT_TRIED)
    told = (entries.unread & READ_STATUS) == 0
    told_now = told & (entries.changed | (calls.ret != -errno.EFAULT)[call])
    special = bare & told_now & np.isin(entries.after, (-errno.EFAULT, -errno.ENOENT))
    expected = np.where(special, entries.after, expected)
    there &= ~special

    end, doubtful, refused = _loop_ends(records, expected)
    sure_end = end >= 0
    # Without a lookup: passed over before the loop's end, and before the last lookup.
    last = _last_lookup(lookups, calls.count) - entries.start[:-1]
    passed = (ordinal < (end - doubtful)[call]) | (ordinal < last[call])
    left = sure_end[call] & (ordinal >= end[call]) & ~has
    known = has | (passed & whole) | left

    group_known = of(groups.known, 0).astype(np.bool_)
    group_rc = of(groups.rc, 0)
    written = np.select(
        [
            ~known,
            left,
            ~queued,
            group_known & (group_rc == 0),
            group_known,
        ],
        [CANT_TELL, UNTOUCHED, WRITTEN, WRITTEN, UNTOUCHED],
        CANT_TELL,
    ).astype(np.int8)
    # In a call that ended with -EFAULT, and in the last group of any that ended
    # with an error (the first error wins), the store itself may have failed.
    broken = (calls.ret == -errno.EFAULT)[call]
    broken |= (calls.ret < 0)[call] & queued & (of(groups.flush, 0) >= calls.n_lookups[call])
    written[broken & (written == WRITTEN) & ~entries.changed] = CANT_TELL

    untraced = of(lookups.fate_cause, 0) == cause_code("not_traced")
    fate = of(lookups.fate, UNKNOWN).astype(np.int64)
    outcome = np.select(
        [~known, left, queued | untraced, there],
        [UNKNOWN, NOT_ATTEMPTED, fate, ALREADY_THERE],
        FAILED,
    ).astype(np.uint8)
    cause = np.where(known & (queued | untraced), of(lookups.fate_cause, 0), 0).astype(np.uint16)
    fits = lookups.complete & np.where(lookups.misfit, True, groups.complete)
    code = np.where(fits, cause_code("ambiguous"), calls.lost_code).astype(np.uint16)
    cause = np.where(known, cause, code[call])

    return Loop(
        end=end,
        refused=refused,
        is_known=known,
        is_left=left,
        written=written,
        expected=expected,
        outcomes=EntryOutcomes(
            outcome=outcome,
            cause=cause,
            reason=np.zeros(entries.count, np.uint8),
            end_nid=np.full(entries.count, -1, np.int64),
            folio=of(lookups.row, -1),
        ),
    )


def _last_lookup(lookups: Lookups, calls: int) -> Ints:
    """Row of the last entry of each call that was looked up; the call's start - 1 for none."""
    last = np.full(calls, -1, np.int64)
    matched = lookups.entry >= 0
    # Lookups are in order, so the last assignment of a call is its last lookup.
    last[lookups.call[matched]] = lookups.entry[matched]
    return last


def _loop_ends(records: CallRecords, expected: Ints) -> tuple[Ints, Ints, Bools]:
    """Number of entries that each call's loop processed, -1 where unknown; of how
    many before that it is unknown; whether the call was refused before its loop began."""
    calls, entries, lookups = records.calls, records.entries, records.lookups
    count = calls.count
    size = np.diff(entries.start)
    start = entries.start[:-1]
    ret, fail_rc = calls.ret, records.groups.fail_rc
    end = np.full(count, -1, np.int64)
    last_row = _last_lookup(lookups, count)
    last = np.where(last_row >= 0, last_row - start, -1)
    doubtful = np.zeros(count, np.int64)

    refused = np.isin(ret, _REFUSALS) & (calls.n_lookups == 0) & (calls.n_migrations == 0)
    # Any other error, by a security module: the loop begins with a drain.
    refused |= (ret < 0) & calls.never_began
    end[refused] = 0
    # The loop ran to the end of the arrays: wherever it stops before that, its count
    # is positive.  (0 does not say that every group moved: up to 6.0, see below.)
    through = ret == 0
    end[through] = size[through]

    # 1. A group failed: its flush was caused by the end, by another node, or by
    #    the status of the entry behind it, in this order of the loop.
    sound = lookups.sound
    whole = sound & records.groups.complete
    whole[entries.call[~entries.readable]] = False
    next_row = start + last + 1
    inside = last + 1 < size
    safe = np.minimum(next_row, max(entries.count - 1, 0))
    queued_last = np.zeros(count, np.bool_)
    target_last = np.full(count, -1, np.int64)
    some = last_row >= 0
    if lookups.row.size and entries.count:
        look = np.maximum(lookups.of_entry[np.maximum(last_row, 0)], 0)
        queued_last[some] = lookups.queued[look[some]]
        target_last[some] = entries.target[last_row[some]]
        same = inside & (entries.target[safe] == target_last) & entries.readable[safe]
        known = ~inside | (entries.readable[safe] & entries.readable[np.maximum(last_row, 0)])
        known |= some & ~queued_last
    else:
        same = np.zeros(count, np.bool_)
        known = same
    # Nothing is looked up once a group has failed: the last lookup says where that was,
    # unless one belongs to an entry whose address could not be read.
    placed = np.bincount(entries.call[lookups.of_entry >= 0], minlength=count) == calls.n_lookups
    sound &= placed & some
    by_events = (ret != 0) & (fail_rc != 0) & ~refused & sound & known & (whole | (ret > 0))
    end[by_events] = (last + 1 + (queued_last & same))[by_events]

    # Where lookups are missing, a positive return value has the count of those that
    # were never processed: to what the migration returned it adds the entries from the
    # one at which the group was flushed on, less one where that entry's own status
    # came first ("We have accounted for page i").  Up to 6.0 it is one less in any
    # case (a7504ed14f9b, "migrate: fix syscall move_pages() return value for failure",
    # in 6.1): the entry before the place may be processed or not, unless it is of the
    # node of the one before it, for then only its own status can have flushed.
    counted = (ret > 0) & (fail_rc > 0) & ~by_events
    nr_pages = calls.nr_pages.astype(np.int64)
    place = nr_pages + fail_rc - ret
    counted &= (place > last) & (place <= nr_pages + 1)
    end[counted] = np.minimum(place, nr_pages)[counted]
    if entries.count:
        at = np.clip(start + place - 1, 0, entries.count - 1)
        before = np.maximum(at - 1, 0)
        settled = (place > nr_pages) | (last == place - 1) | (place <= 1)
        settled |= (
            (entries.target[at] == entries.target[before])
            & entries.readable[at]
            & entries.readable[before]
        )
        doubtful[counted & ~settled] = 1

    # Errors: nothing but the records tells where, so all of them must be there.
    error = (ret < 0) & ~refused & whole

    # 2. An entry's node or the arrays are bad.
    rest = error & (fail_rc == 0)
    tail = np.flatnonzero(rest)
    if tail.size and entries.count:
        _ends_by_error(calls, entries, lookups, tail, last, queued_last & same, expected, end)
    return end, doubtful, refused


def _ends_by_error(
    calls: CallColumns,
    entries: EntryColumns,
    lookups: Lookups,
    which: Ints,
    last: Ints,
    triggered: Bools,
    expected: Ints,
    end: Ints,
) -> None:
    # The first entry behind the last lookup where the loop could have ended.
    rows = rows_of_calls(entries.start, which)
    rows = rows[entries.ordinal[rows] > last[entries.call[rows]]]
    call, target = entries.call[rows], entries.target[rows]
    ret = calls.ret[call]
    # This status was stored: the loop had come to the entry.
    stored = entries.changed[rows] & (entries.after[rows] == -errno.EFAULT)

    bad = target < 0
    if calls.memory_nodes.size:
        bad |= ~np.isin(target, calls.memory_nodes)
    # A node that a lookup of the call was made for is in the target's cpuset.
    seen = lookups.entry[lookups.entry >= 0]
    allowed = np.isin((call << 32) + target, (entries.call[seen] << 32) + entries.target[seen])
    ends = np.select(
        [ret == -errno.ENODEV, ret == -errno.EACCES, ret == -errno.EFAULT],
        [bad, ~allowed & ~stored, ~stored],
        False,
    )
    first_call, first = np.unique(call[ends], return_index=True)
    place = entries.ordinal[rows[ends][first]]
    end[first_call] = place

    # -EACCES with several nodes that may be the one: only a status tells them apart.
    doubtful = np.flatnonzero(calls.ret[first_call] == -errno.EACCES)
    if doubtful.size:
        others = (ret == -errno.EACCES) & ~allowed & ~stored
        own_target = np.full(calls.count, -1, np.int64)
        own_target[first_call] = target[ends][first]
        compared = np.zeros(calls.count, np.bool_)
        own_row = rows[ends][first]
        compared[first_call] = entries.compared[own_row] & (
            entries.before[own_row] != -errno.EFAULT
        )
        open_ = others & (target != own_target[call]) & ~compared[call]
        end[call[open_]] = -1

    # -EFAULT: the entry where it happened was processed if its own status could
    # not be stored, not if an earlier store failed; the page stays either way.
    is_fault = calls.ret[first_call] == -errno.EFAULT
    fault, here = first_call[is_fault], rows[ends][first][is_fault]
    if fault.size:
        behind = end[fault] > last[fault] + 1
        before = np.maximum(here - 1, 0)
        follows = (last[fault] >= 0) & ~behind
        # The entry before has its status: then it was this one's that could not be stored.
        stored_last = follows & entries.changed[before]
        end[fault] += triggered[fault] | behind | (last[fault] < 0) | stored_last
        # A status that was there before tells nothing.
        vague = follows & ~triggered[fault] & entries.compared[before]
        vague &= entries.before[before] == expected[before]
        vague |= entries.compared[here] & (entries.before[here] == -errno.EFAULT)
        end[fault[vague]] = -1

# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in no sum of a report: mptrace's own rows, and what is not selected.  Pure."""

from dataclasses import replace

import numpy as np

from mptrace.arrays import Tables
from mptrace.outcomes.chosen import Chosen
from mptrace.outcomes.correlate import Correlation
from mptrace.outcomes.own import Own
from mptrace.recording.meta import Meta


def chosen_calls(
    found: Correlation, tables: Tables, meta: Meta, own: Own, chosen: Chosen, *, whole: bool
) -> Correlation:
    """The chosen entries of everybody else's calls; ordinals of calls stay as they were.

    :param whole: all entries of the chosen calls.
    """
    calls = tables["calls"]
    out = own.of_calls(calls, found.call_ids) | ~chosen.ordinals
    kept = ~out[found.rows["call"]]
    if not whole:
        kept &= chosen.masks["entries"]
    pages = calls["nr_pages"][found.call_row[~out & (found.call_row >= 0)]]
    bound = meta.max_entries
    beyond = sum(int(count) - bound for count in pages[pages > bound])
    return replace(
        found,
        rows=found.rows if kept.all() else found.rows[kept],
        queued=found.queued if kept.all() else found.queued[kept],
        call_row=np.where(out, -1, found.call_row),
        beyond_bound=beyond if whole or not chosen.unsure_beyond else 0,
    )


def left_out(own: Own, chosen: Chosen) -> Own:
    """What is in no sum: mptrace's own rows, and those that are not chosen."""
    masks = chosen.masks
    return Own(
        own.tgids,
        own.calls | ~masks["calls"],
        own.migrations | ~masks["migrations"],
        own.folios | ~masks["folios"],
        own.waits | ~masks["waits"],
        own.balancing | ~masks["balancing"],
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a recording is mptrace's own, as numbers of a report.  Pure."""

from mptrace.outcomes.chosen import Chosen
from mptrace.outcomes.fates import Fates
from mptrace.outcomes.own import Own
from mptrace.reporting.numbers.sums import Numbers


def numbers_of(own: Own, found: Fates, chosen: Chosen) -> Numbers | None:
    """How much of what is chosen is in no sum of a report; None where it is not known."""
    if own.tgids is None:
        return None
    masks = chosen.masks
    mine = (own.folios & masks["folios"])[found.row]
    return {
        "tgids": list(own.tgids),
        "calls": int((own.calls & masks["calls"]).sum()),
        "migrations": int((own.migrations & masks["migrations"]).sum()),
        "folios": int(mine.sum()),
        "pages": int(found.pages[mine].sum()),
        "waits": int((own.waits & masks["waits"]).sum()),
    }

# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a recording is mptrace's own, as numbers of a report.  Pure."""

from mptrace.outcomes.fates import Fates
from mptrace.outcomes.own import Own
from mptrace.reporting.numbers.sums import Numbers


def numbers_of(own: Own, found: Fates) -> Numbers | None:
    """How much was left out of a report's sums; None where the recording can't say."""
    if own.tgids is None:
        return None
    mine = own.folios[found.row]
    return {
        "tgids": list(own.tgids),
        "calls": int(own.calls.sum()),
        "migrations": int(own.migrations.sum()),
        "folios": int(mine.sum()),
        "pages": int(found.pages[mine].sum()),
        "waits": int(own.waits.sum()),
    }

# SPDX-License-Identifier: GPL-2.0-or-later
"""Levels of detail: which phases each one traces, and what it can't tell.  Pure.

``outcomes`` follows calls, not folios: of a page it has the lookup alone, one probe, and what the
kernel refused.  A page that moved is known by the migration that left nothing behind.
``all`` follows each folio through every phase.
"""

from mptrace.recording.detail import LEVEL_ALL, LEVEL_OUTCOMES
from mptrace.tracing.plan.balancing import BALANCING_PHASES

_OF_OUTCOMES = frozenset(
    {
        "call",
        "drain",
        "lookup",
        "migration",
        "outcome",
        "putback",
        "putback_hugetlb",
        "wait_pte",
        "wait_pmd",
        "wait_hugetlb",
        "wait_locked",
        "fork",
        "end_process",
    }
)

#: Sentences for `unseen` of a recording.
_UNSEEN = {
    LEVEL_OUTCOMES: (
        "phases and blackouts of pages are not traced at --detail outcomes",
        "whose pages a migration without a call moves is not traced at --detail outcomes",
        "waits for a folio's lock are not traced at --detail outcomes",
        "a page that was freed while it was being moved counts as moved at --detail outcomes",
    ),
    LEVEL_ALL: (),
}


def is_traced(detail: str, phase: str) -> bool:
    """Whether a level of detail traces a phase."""
    return detail == LEVEL_ALL or phase in _OF_OUTCOMES or phase in BALANCING_PHASES


def essential(detail: str) -> frozenset[str]:
    """Phases without which no verdict about a page is possible: a session refuses to start."""
    if detail == LEVEL_OUTCOMES:
        return frozenset({"call", "lookup", "migration", "outcome", "putback"})
    return frozenset({"call", "lookup", "isolate", "migration", "move"})


def unseen(detail: str, *, others: bool) -> tuple[str, ...]:
    """What a level can't tell; of programs other than mptrace's driver only if ``others``."""
    sentences = _UNSEEN[detail]
    return sentences if others else sentences[:1] + sentences[3:]

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario is: what it provokes, what is documented, and what a kernel is expected to do.

Expectations are keyed on what is in the kernel (a function, a struct, an
operation of a file system), asked of :class:`Known`; never on a version.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


class Known(Protocol):
    """What an expectation may ask about the running kernel."""

    def function(self, name: str) -> bool:
        """Whether BTF has a function of this name."""

    def member(self, name: str) -> bool:
        """Whether BTF has this ``struct.member`` (or the ``struct``, without a dot)."""

    def operation(self, table: str, member: str) -> str | None:
        """Name of the function in a table of operations: ``("ramfs_aops", "migrate_folio")``.

        "" where the pointer is NULL; None where the table can't be read.
        """


@dataclass(frozen=True)
class Entry:
    """What is expected of one entry of the call, or of several in a row.

    ``status``: ``"target"`` (its target node), ``"untouched"``, or an errno's
    name.  ``outcome`` is one of ``layouts.OUTCOMES``, the page's.  ``cause`` is a
    name of ``table.CAUSES`` where the page stayed or was not attempted.
    ``entry_reason`` where the status differs from the page's outcome; ``delay``
    what the page waited for (``"folio_lock"``, ``"writeback"``), else "".
    ``times`` entries in a row look like this; 0 means all that are left.
    """

    status: str
    outcome: str
    cause: str = ""
    entry_reason: str = ""
    delay: str = ""
    times: int = 1


MOVED = Entry("target", "moved")
#: A page that moved in a group of which another stayed: nothing is written for either.
UNTOLD = Entry("untouched", "moved")


@dataclass(frozen=True)
class Expectation:
    """What this kernel is expected to do.

    ``ret``: ``"0"``, a positive number as text, ``">0"``, or an errno's name.
    ``entries``: empty where the call is refused as a whole.  ``why``: "" where
    that is as documented, else the kernel change that made it different, with
    its function and commit or version.
    """

    ret: str
    entries: tuple[Entry, ...]
    why: str = ""


def one_stays(cause: str, why: str = "") -> Expectation:
    """Of three pages of one group the middle one stays, and only the return value says so."""
    return Expectation(
        "1",
        (UNTOLD, Entry("untouched", "failed", cause), UNTOLD),
        "since 4.17 (a49bd4d71637) a failed migration writes no status: the return value counts it"
        + (f"; {why}" if why else ""),
    )


@dataclass(frozen=True)
class Scenario:
    """One provoked outcome.

    ``documented`` is what the manual says, ``subject`` which part of it: a page
    state, a return code, or a reason for which a page stays.  ``function`` is
    the kernel function that decides, ``cause`` what ``explain`` must say of the
    page concerned ("" where every page moves).  ``source`` cites both.
    ``changes`` names what it changes of the host ("" for nothing beyond its own
    processes): such scenarios need a virtual machine or ``--disruptive``.
    ``everyone`` traces the calls of all processes, not only of the scenario's.
    """

    name: str
    subject: str
    title: str
    documented: str
    function: str
    source: str
    provoke: "Callable[[Stage], None]"
    expect: Callable[[Known], Expectation]
    cause: str = ""
    changes: str = ""
    everyone: bool = False
    nodes: int = 2


PAGE_STATE = "page state"
RETURN_CODE = "return code"
REASON = "reason"

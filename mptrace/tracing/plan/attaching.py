# SPDX-License-Identifier: GPL-2.0-or-later
"""Replaces candidates that the kernel refuses to attach, until all of a plan attaches.

Every plan is settled by it: of a session, of `mptrace stat`, of `mptrace doctor`.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

#: (phase, function or tracepoint, method) -> why it is not used.
Excluded = dict[tuple[str, str, str], str]


class Attachable(Protocol):
    """What was made of a plan: attached as a whole, or not at all."""

    def open(self) -> Excluded:
        """Attach it; the kernel's answer for each part that it refused."""
        ...

    def close(self) -> None:
        """Detach what was attached."""
        ...


_Made = TypeVar("_Made", bound=Attachable)


def attached(make: Callable[[], _Made], refused: Excluded) -> _Made:
    """The first that attaches whole of those that ``make`` makes, which leaves out ``refused``.

    Each refusal is added there, so that one candidate less is left; ``make`` raises
    where none is left of a phase that it can't do without.
    """
    while found := (made := make()).open():
        made.close()
        refused.update(found)
    return made

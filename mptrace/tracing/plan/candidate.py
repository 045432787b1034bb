# SPDX-License-Identifier: GPL-2.0-or-later
"""A row of a table that probe plans are made from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One way to see a phase on some kernels.

    ``function`` is a kernel function, or a tracepoint as ``category:name``.
    ``enter`` and ``exit`` name handlers of ``bpf/move_pages/``, empty where
    that side is not needed; ``kprobe_enter`` is one that only a kretprobe needs,
    which has no arguments.  ``methods`` are ways to attach, the first preferred.
    ``min_parameters`` refuses a function whose prototype is another than the row describes.
    ``nargs`` is the macro that gets the number of parameters (where fexit
    finds the return value); ``bool_macro`` is defined where the function
    returns bool.  ``defines`` are further macros of this row.  ``needs`` are
    facts that must hold: ``"offset:struct.member"``, or the same with a
    leading ``!`` that must not.
    """

    phase: str
    function: str
    unit: str
    enter: str = ""
    exit: str = ""
    min_parameters: int = 0
    nargs: str = ""
    bool_macro: str = ""
    defines: tuple[tuple[str, int], ...] = ()
    needs: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("fentry", "kprobe")
    kprobe_enter: str = ""
    #: Wanted only by a session that traces programs other than mptrace's own driver.
    for_others: bool = False

    @property
    def is_tracepoint(self) -> bool:
        """Whether ``function`` names a tracepoint."""
        return ":" in self.function


#: What a process that is followed forks, and when a process has ended.
FOLLOWING = (
    Candidate(
        "fork",
        "sched:sched_process_fork",
        "process",
        enter="fork",
        methods=("raw_tracepoint",),
        for_others=True,
    ),
    Candidate(
        "end_process",
        "sched:sched_process_exit",
        "thread",
        enter="end_process",
        methods=("raw_tracepoint",),
        for_others=True,
    ),
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The table at the top of the BPF program is that of the candidates."""

from recorded_facts import facts_of

from mptrace.tracing.plan.candidate import Candidate
from mptrace.tracing.plan.candidates import CANDIDATES
from mptrace.tracing.program.source import BPF_DIRECTORY

#: Kernels with recorded facts, the oldest first.
KERNELS = ("6.1", "6.12")
HEAD = ("phase", "kernel function or tracepoint", "since", "flag")
Row = tuple[str, str, str, str]


def since(function: str) -> str:
    """The first of the kernels that has it, or the last where it is gone; "-" where none has."""
    there = []
    for name in KERNELS:
        facts = facts_of(name)
        if function in {*facts.functions, *facts.symbols, *facts.tracepoints}:
            there.append(name)
    if not there:
        return "-"
    return there[0] if there[-1] == KERNELS[-1] else f"until {there[-1]}"


def flags(candidate: Candidate) -> list[str]:
    """What distinguishes a row from others of its phase, and phases from each other."""
    macros = [*filter(None, [candidate.bool_macro]), *(name for name, _ in candidate.defines)]
    return ["others"] * candidate.for_others + macros


def rows() -> list[Row]:
    """A row for each function of each phase, the best candidate first."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in CANDIDATES:
        found.setdefault((each.phase, each.function), []).extend(flags(each))
    return [
        (phase, function, since(function), ", ".join(dict.fromkeys(names)))
        for (phase, function), names in found.items()
    ]


def table() -> list[str]:
    """The lines of the comment; a phase is named in its first row only."""
    told: list[Row] = [HEAD]
    named = ""
    for phase, *rest in rows():
        told.append(("" if phase == named else phase, *rest))  # type: ignore[arg-type]
        named = phase
    widths = [max(len(row[column]) for row in told) for column in range(4)]
    lines = [
        " * " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in told
    ]
    lines.insert(1, " * " + "-+-".join("-" * width for width in widths))
    return [line.rstrip() for line in lines]


def test_the_table_has_each_phase_with_its_attach_points() -> None:
    """In the order of preference; where it differs, the lines that belong there are shown."""
    text = (BPF_DIRECTORY / "move_pages.c").read_text()
    lines = [line for line in text.partition("*/")[0].splitlines() if "|" in line or "-+-" in line]
    assert lines == table(), "\n".join(table())


def test_a_function_is_dated_by_what_kernels_have() -> None:
    """Newer, older, of all of them, of none."""
    dates = [since(name) for name in ("folio_walk_start", "follow_page", "migrate_pages", "x")]
    assert dates == ["6.12", "until 6.1", "6.1", "-"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""A page's history as text of so many columns.  Returns, never prints."""

from datetime import UTC, datetime

from mptrace.outcomes.history import History, Step
from mptrace.reporting.text.layout import WIDTH, columns, many, process_name, wrapped
from mptrace.reporting.text.lying import where_of
from mptrace.units import format_ns


def history(one: History, *, width: int = WIDTH) -> str:
    """Every recorded migration of a page, the first one first.

    :param width: columns that there are, 80 at the least.
    """
    with columns(width):
        return "\n".join(_history(one))


def _history(one: History) -> list[str]:
    whose = (
        f"of {process_name(one.owner_comm, one.owner_tgid)}"
        if one.owner_tgid
        else "of a process that is not known"
    )
    moved = sum(step.outcome == "moved" for step in one.steps)
    lines = wrapped(
        "",
        f"history of {one.address:#x} {whose}{where_of(one.lies_in)}: "
        f"{many(len(one.steps), 'attempt')} to move it, {moved:,} moved it",
        hang="    ",
    )
    for step in one.steps:
        lines += wrapped("  ", f"{_when(step)}  {_nodes(step)}  {_outcome(step)}", hang="    ")
        lines += wrapped("      ", _by(step))
    return lines


def later_move(step: Step) -> str:
    """A move that came after the one that is told of, in a clause."""
    return f"moved again afterwards by {_who(step)} ({_path(step)}), {_nodes(step)}"


def _when(step: Step) -> str:
    if step.since_start_ns is None:
        return f"at {step.start_ns:,} ns of an unknown clock"
    since = f"{step.since_start_ns / 1e9:.6f} s"
    if step.wall_ns is None:
        return since
    seconds, rest = divmod(step.wall_ns, 10**9)
    wall = datetime.fromtimestamp(seconds, UTC)
    return f"{since}  {wall:%Y-%m-%d %H:%M:%S}.{rest // 10**6:03} UTC"


def _nodes(step: Step) -> str:
    source = "?" if step.source_nid is None else f"{step.source_nid}"
    target = "?" if step.target_nid is None else f"{step.target_nid}"
    return f"node {source} -> {target}"


def _outcome(step: Step) -> str:
    word = step.outcome.replace("_", " ")
    return f"{word}: {step.cause}" if step.cause else word


def _who(step: Step) -> str:
    who = step.initiator
    if who is None:
        return "an unknown process"
    return process_name(who.comm, who.tgid)


def _path(step: Step) -> str:
    return "unknown path" if step.path is None else step.path.label


def _by(step: Step) -> str:
    who = step.initiator
    parts = [f"by {_who(step)}" + (", a kernel thread" if who and who.kernel_thread else "")]
    parts[0] += f": {_path(step)}"
    if step.call is not None:
        parts.append(f"call {step.call}")
    if step.migration is not None:
        parts.append(f"migration {step.migration}")
    size = "" if step.nr_pages == 1 else f" of {many(step.nr_pages, 'page')}"
    parts.append(f"folio {step.folio}{size}")
    if step.took_ns is not None:
        parts.append(f"in {format_ns(step.took_ns)}")
    return ", ".join(parts)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The first screen's first lines: what was watched, is it whole, and the totals.  Pure."""

from collections.abc import Iterator

from mptrace.outcomes.said import is_empty, is_filter
from mptrace.reporting.text import balancing
from mptrace.reporting.text.head import filters_text, parts_text, states_of_recording, whose
from mptrace.reporting.text.layout import Numbers, clip, many, short, wrapped
from mptrace.reporting.text.selection import selected
from mptrace.reporting.text.summary_when import clock, day
from mptrace.reporting.text.summary_words import FORBIDS, NEEDED
from mptrace.reporting.text.times import times_note
from mptrace.units import format_count, format_ns, times

#: The wall clock was set by so much while recording: said.
_STEP_NS = 10**9
_LONGEST_NAME = 60


def head(profile: Numbers) -> list[str]:
    """What was watched, when and where; and whether all of it was seen."""
    summary = profile["summary"]
    lines = wrapped("", _watched(profile), hang="  ")
    is_part = bool(profile["selection"]) and is_filter(profile["selection"])
    if is_part:
        lines += selected(profile["selection"])
    warnings = list(_warnings(profile))
    proof = _proof(summary["phases"])
    notes = list(_notes(profile))
    if warnings:
        for number, text in enumerate(warnings):
            lines += wrapped("" if number else "WARNING: ", text, hang="  ")
        return lines + wrapped("", "; ".join([proof, *notes]), hang="  ")
    # of what was left out nothing is said
    whole = "of the whole session nothing was lost" if is_part else "complete: nothing lost"
    return lines + wrapped("", "; ".join([f"{whole}, {proof}", *notes]), hang="  ")


def _watched(profile: Numbers) -> str:
    """``every process and kernel thread: 4.1 s, 2026-11-29 06:17:05 to 06:17:09 UTC; ...``."""
    watched = profile["summary"]["watched"]
    start, end = watched["from"], watched["to"]
    if profile["scope"]:
        what = whose(profile["scope"])
    elif profile["workload"]:
        what = _workload(profile["workload"])
    else:
        what = " ".join(["mptrace", *map(str, profile["command"])])
    parts = [] if watched["duration_ns"] is None else [format_ns(watched["duration_ns"])]
    if start is None:
        parts.append("when was not recorded")
    elif end is None:
        parts.append(f"from {day(start)} {clock(start)} UTC, its end was not recorded")
    else:
        until = clock(end) if day(start) == day(end) else f"{day(end)} {clock(end)}"
        parts.append(f"{day(start)} {clock(start)} to {until} UTC")
    kernel = watched["kernel"] or "kernel not recorded"
    nodes = "" if watched["nodes"] is None else f", {many(watched['nodes'], 'node')}"
    return f"{clip(what, _LONGEST_NAME)}: {', '.join(parts)}; {kernel}{nodes}"


def _workload(workload: Numbers) -> str:
    """What `mptrace run` moved: ``run of 61 pages (4k), node 0 to 1 and back``."""
    pages = f"{many(int(workload.get('pages') or 0), 'page')} ({workload.get('kind', 'any')})"
    if workload.get("target") == "pid":
        pages = f"pages of process {workload.get('pid')}"
    elif workload.get("target") == "child":
        pages += " of a child"
    nids = [", ".join(map(str, workload.get(key) or ())) for key in ("source_nids", "target_nids")]
    way = f", node {nids[0]} to {nids[1]}" if all(nids) else ""
    back = " and back" if workload.get("back") and way else ""
    repeats = int(workload.get("repeats") or 1)
    often = f", {times(repeats)}" if repeats > 1 else ""
    return f"run of {pages}{way}{back}{often}"


def _proof(phases: Numbers) -> str:
    if not phases["all"]:
        return "coverage not recorded"
    return f"{phases['proved']} of {phases['all']} phases proved (--coverage)"


def _notes(profile: Numbers) -> Iterator[str]:
    """What else must be known to read the numbers."""
    if note := times_note(counted=bool(profile["counted"]), emulated=profile["emulated"]):
        yield note
    filters = filters_text(profile["filters"])
    if filters:
        yield f"only {', '.join(filters)} was recorded"
    rotation = profile["rotation"]
    if rotation:
        yield f"recording {parts_text(rotation)} of {rotation.get('of')}"
    step = profile["summary"]["watched"]["clock_step_ns"]
    if abs(step) >= _STEP_NS:
        yield f"the clock was set by {'-' if step < 0 else '+'}{format_ns(abs(step))} meanwhile"


def _warnings(profile: Numbers) -> Iterator[str]:
    """What is not whole, and what that forbids to say; nothing of a recording that is."""
    summary = profile["summary"]
    lost = summary["lost"]
    if lost:
        counts = ", ".join(f"{cause} {format_count(count)}" for cause, count in lost.items())
        forbids = dict.fromkeys(FORBIDS.get(cause, "events are missing") for cause in lost)
        yield f"lost {counts}: {', '.join(forbids)}"
    yield from states_of_recording(profile)
    if profile["tier"] == "tracepoints":
        more = many(len(profile["unseen"]), "sentence")
        yield (
            "tracepoints only: whose pages, who waited, why pages stayed, where the time went "
            f"are unknown ({more} about that: --coverage)"
        )
    missing: dict[str, None] = {}
    refuted: dict[str, None] = {}
    for phase in profile["coverage"]:
        means = NEEDED.get(str(phase.get("phase")))
        counts_differ = phase.get("expected") is not None and (
            phase.get("expected") != phase.get("seen")
        )
        if means and phase.get("state") == "missing" and profile["tier"] != "tracepoints":
            missing[means] = None
        elif means and phase.get("state") == "unproved" and counts_differ:
            refuted[str(phase.get("phase"))] = None
    if missing:
        yield f"not seen: {', '.join(missing)} (--coverage)"
    if refuted:
        names = ", ".join(refuted)
        yield f"calibration refuted {names}: what rests on it may be wrong (--coverage)"
    if summary["unknown"]:
        reasons = ", ".join(f"{name} {short(n)}" for name, n in summary["unknown"].items())
        yield f"{many(sum(summary['unknown'].values()), 'page')} unknown: {reasons}"
    disagree = profile["agreement"]["disagree"]
    if disagree:
        yield f"the witnesses disagree about {many(disagree, 'entry', 'entries')} (--calls)"


def pages_of(count: int, *, unknown: int, lost: int) -> str:
    """A count of pages; the least that there were where records were lost, or pages are unknown.

    Where the least is nothing it is unknown.
    """
    if not unknown and not lost:
        return short(count)
    return f">= {short(count)}" if count else "unknown"


def totals(profile: Numbers) -> list[str]:
    """Pages moved and stayed, who waited, and what NUMA balancing took beside."""
    return [*_totals(profile), *balancing.line(profile)]


def _totals(profile: Numbers) -> list[str]:
    """Pages moved and stayed, threads that waited, in one line; of an idle session that, too."""
    summary = profile["summary"]
    sums, own = summary["totals"], summary["own_pages"]
    left_out = f"; {many(own, 'page')} of mptrace itself left out" if own else ""
    idle = not summary["who"] and not sums["waits"] and not sums["unknown_pages"]
    if idle and profile["selection"] and is_empty(profile["selection"]):
        return []
    if idle:
        seen = "no page was seen to move" if summary["pages_are_least"] else "no page was migrated"
        return wrapped("", f"{seen}, {_waits(summary)}{left_out}")
    doubt = {"unknown": sums["unknown_pages"], "lost": int(summary["pages_are_least"])}
    moved, stayed = (pages_of(sums[name], **doubt) for name in ("moved_pages", "stayed_pages"))
    if moved == stayed == "unknown":
        parts = ["pages moved and stayed: unknown"]
    else:
        noun = "page" if sums["moved_pages"] == 1 else "pages"
        parts = [f"{moved} {noun} moved"] if moved != "unknown" else ["how many moved is unknown"]
        parts.append(f"{stayed} stayed" if stayed != "unknown" else "how many stayed is unknown")
    if sums["already_there"]:
        parts.append(f"{format_count(sums['already_there'])} there before")
    if sums["unknown_pages"]:
        parts.append(f"{many(sums['unknown_pages'], 'page')} unknown")
    parts.append(_waits(summary))
    checked = profile["agreement"]["checked"]
    if checked and profile["workload"]:
        none = "none disagrees" if not profile["agreement"]["disagree"] else "see above"
        parts.append(f"{many(checked, 'entry', 'entries')} checked by location: {none}")
    return wrapped("", ", ".join(parts) + left_out, hang="  ")


def _waits(summary: Numbers) -> str:
    sums = summary["totals"]
    if not sums["waits"]:
        if sums["waits_traced"]:
            return "no thread was seen to wait"
        how = " (mptrace record does)" if summary["calls"] is not None else ""
        return f"waits not traced{how}"
    least = ">= " if summary["waits_are_least"] else ""
    return f"{least}{many(sums['waiting_threads'], 'thread')} waited {format_ns(sums['waited_ns'])}"

# SPDX-License-Identifier: GPL-2.0-or-later
"""The first screen of a report: who, when, how long, why, at what, and what to do.  Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mptrace.reporting.text.layout import (
    DARK,
    Numbers,
    clip,
    clip_process,
    many,
    most_rows,
    ns_text,
    process_name,
    short,
    table,
    unproved,
    wrapped,
)
from mptrace.reporting.text.lying import where, why_unknown
from mptrace.reporting.text.summary_head import head, pages_of, totals
from mptrace.reporting.text.summary_when import clock, span_of
from mptrace.reporting.text.summary_words import PHASES
from mptrace.units import and_more, format_count, format_ns, times

__all__ = ["LINES", "first_screen", "head"]

#: Lines that the first screen takes at most, where its lists can be cut to that.
LINES = 25
_PAIRS, _SHARES, _LEAST_SHARE = 2, 2, 0.03
_UNKNOWN_OWNER = "not seen"
#: How many rows of each list are worth one of another; of equals the first is cut.
_WEIGHTS = {"todo": 1.0, "calls": 1.0, "stayed": 1.0, "waited": 1.0, "who": 1.5, "phases": 2.5}


@dataclass(frozen=True)
class _Rows:
    """How many rows of each list are shown."""

    who: int = 6
    calls: int = 4
    phases: int = 7
    waited: int = 4
    stayed: int = 5
    todo: int = 5


def first_screen(profile: Numbers) -> list[str]:
    """At most :data:`LINES` lines: the list of most rows is cut until they are enough."""
    rows = _Rows()
    top = most_rows(0)
    if top:
        # who asks for so many gets them, however many lines that are
        rows = _Rows(**dict.fromkeys(_WEIGHTS, top))
    while True:
        sections = _sections(profile, rows)
        lines = [line for _, _, section in sections for line in section]
        cuttable = [
            (shown / _WEIGHTS[name], -list(_WEIGHTS).index(name), name)
            for name, shown, _ in sections
            if shown > 1
        ]
        if len(lines) + len(sections) - 1 <= LINES or not cuttable or top:
            break
        *_, name = max(cuttable)
        shown = next(shown for other, shown, _ in sections if other == name)
        rows = replace(rows, **{name: shown - 1})
    found: list[str] = []
    for _, _, section in sections:
        found += [*([""] if found else []), *section]
    return found


def _sections(profile: Numbers, rows: _Rows) -> list[tuple[str, int, list[str]]]:
    """Name, rows shown and lines of each section that has something to say."""
    summary = profile["summary"]
    is_run = summary["calls"] is not None
    todo = summary["advice"]
    sections: list[tuple[str, int, list[str]]] = [
        ("", 0, [*head(profile), *totals(profile)]),
        *(
            [
                _list("calls", summary["calls"], rows.calls, _calls, profile),
                _list("phases", _phases_of(profile), rows.phases, _phases, profile),
            ]
            if is_run
            else [_list("who", summary["who"], rows.who, _who, profile)]
        ),
        _list("waited", summary["waited"], rows.waited, _waited, profile),
        _list("stayed", summary["stayed"], rows.stayed, _stayed, profile),
        ("todo", min(len(todo), rows.todo), _todo(todo, rows.todo)),
    ]
    return [section for section in sections if section[2]]


Lines = Callable[[Sequence[Numbers], int, Numbers], list[str]]


def _list(
    name: str, rows: Sequence[Numbers], most: int, lines: Lines, profile: Numbers
) -> tuple[str, int, list[str]]:
    return name, min(len(rows), most), lines(rows, most, profile) if rows else []


def _with_details(
    rows: Sequence[Sequence[str]], details: Sequence[list[str]], lines: list[str]
) -> list[str]:
    """Lines of a table with further lines below each of its rows."""
    found = [lines[0]]
    for number in range(len(rows)):
        found += [lines[1 + number], *details[number]]
    return found


# ---- who moved pages -----------------------------------------------------------


def _who(rows: Sequence[Numbers], most: int, profile: Numbers) -> list[str]:
    shown = rows[:most]
    cells = [
        [
            process_name(row["initiator"]["comm"] or row["initiator"]["process"], _tgid(row)),
            *(
                pages_of(row[name], unknown=row["unknown_pages"], lost=row["lost"])
                for name in ("moved_pages", "stayed_pages")
            ),
            format_ns(row["time_ns"]),
            _dark(row, profile),
            _owners(row["owners"], profile),
        ]
        for row in shown
    ]
    heads = ["who, by what", "pages moved", "stayed", "time", "longest dark", "whose"]
    align = ("left", *["right"] * 4, "left")
    lines = table(cells, heads, align, {0: clip_process, 5: clip})
    details = [wrapped("  ", _how(row, profile), hang="    ") for row in shown]
    lines = _with_details(cells, details, lines)
    rest = rows[most:]
    moved = many(sum(row["moved_pages"] for row in rest), "moved page")
    # an old recording may have calls' migrations without their calls: no section has these
    where = "--calls" if profile["scope"] or profile["callers"] else "--json"
    return lines + _more(len(rest), "row", where, of=moved)


def _tgid(row: Numbers) -> int:
    return int(row["initiator"]["tgid"])


def _more(count: int, what: str, where: str, of: str = "") -> list[str]:
    return wrapped("  ", and_more(count, what, where, of=of)) if count > 0 else []


def _dark(row: Numbers, profile: Numbers) -> str:
    """The longest time that a folio was inaccessible."""
    if row["longest_dark_ns"] is None:
        return "unknown" if _is_unseen(profile, "dark") else "-"
    least = ">= " if row.get("lost") else ""
    return least + format_ns(row["longest_dark_ns"]) + ("?" if unproved(profile, *DARK) else "")


def _is_unseen(profile: Numbers, *phases: str) -> bool:
    known = [phase.get("state") for phase in profile["coverage"] if phase.get("phase") in phases]
    return not known or all(state in ("missing", "not_separable") for state in known)


def _owners(owners: Numbers, profile: Numbers) -> str:
    """The process with most of the pages, and how many others."""
    named = owners["named"]
    if not any(owner["tgid"] for owner in named):
        return "unknown" if _is_unseen(profile, "owner") else _UNKNOWN_OWNER if named else "-"
    first = named[0]
    name = _UNKNOWN_OWNER
    if first["tgid"]:
        name = process_name(first["comm"], first["tgid"], gone=first["gone"])
    more = len(named) - 1 + owners["more"]
    name += "?" if unproved(profile, "owner") else ""
    return name + (f" +{format_count(more)}" if more else "")


def _how(row: Numbers, profile: Numbers) -> str:
    """By which path, how often, from where to where, when, and where the time went."""
    parts = [row["label"]]
    often = row["migrations"] if row["calls"] is None else row["calls"]
    parts += [times(often)] if often > 1 else []
    parts += [pairs] if (pairs := _pairs(row["matrix"])) else []
    parts += [when] if (when := span_of(row["first"], row["last"])) else []
    text = ", ".join(parts)
    if row["unknown_pages"]:
        text += f"; {many(row['unknown_pages'], 'page')} unknown"
    if not row["has_all_folios"]:
        counted = row["kernel_counted"]
        lost = f"{many(row['lost'], 'record')} lost: " if row["lost"] else ""
        text += (
            f"; {lost}the kernel itself counted {format_count(counted['moved_pages'])} moved, "
            f"{format_count(counted['failed_pages'])} stayed"
        )
    # without a call the level `outcomes` times the whole alone
    alone = profile["detail"] == "outcomes" and row["calls"] is None
    return text if alone else f"{text}; {_shares(row)}"


def _pairs(matrix: Sequence[Numbers]) -> str:
    """From node to node, the pairs with most pages first."""
    texts = [f"{cell['from']}->{cell['to']}" for cell in matrix]
    if len(texts) > 1:
        pages = [format_count(cell["pages"]) for cell in matrix]
        texts = [f"{text} {count}" for text, count in zip(texts, pages, strict=True)]
    more = len(texts) - _PAIRS
    return ", ".join(texts[:_PAIRS]) + (f", {more} more" if more > 0 else "")


def _shares(row: Numbers) -> str:
    """The phases that took most of the time."""
    if row["lost"]:
        return "where the time went is unknown"
    phases = {name: ns for name, ns in row["phases"].items() if ns}
    if not phases:
        return "where the time went was not seen"
    # of a part of the folios: what share these had of the whole is unknown
    whole = row["time_ns"] if row["has_all_folios"] else sum(phases.values())
    if not whole:
        return "where the time went is unknown"
    if row["has_all_folios"]:
        phases["unattributed"] = whole - sum(phases.values())
    ordered = sorted(phases.items(), key=lambda item: -item[1])[:_SHARES]
    texts = [
        f"{100 * ns / whole:.0f} % {_phase_name(name, row['phases'])}"
        for name, ns in ordered
        if ns >= whole * _LEAST_SHARE
    ]
    note = "" if row["has_all_folios"] else " of the recorded folios' time"
    return ", ".join(texts) + note


def _phase_name(name: str, phases: Numbers) -> str:
    """A phase as people read it; one that holds another's time names that, too."""
    for inside, outer in (("copy", "move"), ("tlb_flush", "unmap")):
        if name == outer and phases.get(inside, 0) is None:
            return f"{name} with {PHASES.get(inside, inside)}"
    return PHASES.get(name, name)


# ---- a run's calls and phases --------------------------------------------------


def _calls(rows: Sequence[Numbers], most: int, profile: Numbers) -> list[str]:
    cells = [
        [
            f"call {row['call']}",
            _pairs(row["matrix"]) or "to " + ", ".join(map(str, row["targets"][:2])),
            short(row["entries"]),
            short(row["moved_pages"]),
            short(row["stayed_entries"])
            + (f", {short(row['unknown_entries'])} unknown" if row["unknown_entries"] else ""),
            format_ns(row["time_ns"]),
            _dark(row, profile),
            clock(row["start"], ms=True),
        ]
        for row in rows[:most]
    ]
    heads = ["slowest", "nodes", "entries", "moved", "stayed", "time", "longest dark", "when"]
    lines = table(cells, heads, ("left", "left", *["right"] * 5, "left"), {1: clip})
    rest = profile["calls"]["count"] - profile["calls"]["without_end"] - len(cells)
    return lines + _more(rest, "call", "mptrace dump --table calls")


def _phases_of(profile: Numbers) -> list[Numbers]:
    """Phases of the calls' time that have some, the longest first."""
    phases = [
        {"name": name, **phase} for name, phase in profile["phases"].items() if phase["total_ns"]
    ]
    return sorted(phases, key=lambda phase: -int(phase["total_ns"]))


def _phases(rows: Sequence[Numbers], most: int, profile: Numbers) -> list[str]:
    names = {name: phase["total_ns"] for name, phase in profile["phases"].items()}
    cells = [
        [
            _phase_name(row["name"], names),
            row["unit"],
            format_ns(row["total_ns"]),
            "" if row["share"] is None else f"{100 * row['share']:.1f}",
            *(ns_text(row[name]) for name in ("p50", "p99", "max")),
        ]
        for row in rows[:most]
    ]
    whole = format_ns(profile["calls"]["time_ns"])
    heads = [f"time, {whole} in all", "unit", "total", "%", "p50", "p99", "max"]
    lines = table(cells, heads, ("left", "left", *["right"] * 5))
    rest = rows[most:]
    of = format_ns(sum(row["total_ns"] for row in rest))
    return lines + _more(len(rest), "phase", "--phases", of=of)


# ---- who stood still -----------------------------------------------------------


def _waited(rows: Sequence[Numbers], most: int, profile: Numbers) -> list[str]:
    shown = rows[:most]
    cells = [
        [
            _thread(row),
            short(row["waits"]),
            format_ns(row["waited_ns"]),
            "unknown" if row["longest_ns"] is None else format_ns(row["longest_ns"]),
            clock(row["longest_start"] or row["first"], ms=True),
        ]
        for row in shown
    ]
    heads = ["who stood still", "waits", "in all", "longest", "when"]
    lines = table(cells, heads, ("left", *["right"] * 3, "left"), {0: clip})
    details = [wrapped("  ", _for_whom(row, profile), hang="    ") for row in shown]
    lines = _with_details(cells, details, lines)
    rest = profile["summary"]["totals"]["waiting_threads"] - len(shown)
    return lines + _more(rest, "thread", "--stalls")


def _thread(row: Numbers) -> str:
    name = process_name(row["comm"], row["tid"])
    if row["tid"] == row["tgid"]:
        return name
    return f"{name} of {process_name(row['process'], row['tgid'])}"


def _for_whom(row: Numbers, profile: Numbers) -> str:
    """For whom a thread waited, the longest time first, and at what the longest time."""
    texts = []
    for each in row["initiators"]:
        who = each["initiator"]
        texts.append(
            "nobody that is known"
            if who is None
            else f"{process_name(who['comm'], who['tgid'])}: {who['label']}"
        )
    more = len(texts) - 2
    text = "for " + ", ".join(texts[:2]) + (f", {more} more" if more > 0 else "")
    if row["longest_ns"] is None:
        return text + "; no end of it was seen"
    if row["address"] is None:
        return text + "; at an address that is unknown"
    text += f"; longest at {row['address']}{where(row['lies_in'], row['mapping'])}"
    why = why_unknown(row["lies_in"], row["mapping"], profile["mappings"]["gap"])
    return (
        text
        + (f", {why}" if why else "")
        + (", for the page's lock" if row["kind"] == "lock" else "")
    )


# ---- why pages stayed ----------------------------------------------------------


def _stayed(rows: Sequence[Numbers], most: int, _profile: Numbers) -> list[str]:
    shown = rows[:most]
    cells = [
        [row["cause"], short(row["pages"]), row["address"] or "unknown", _what_lies(row)]
        for row in shown
    ]
    heads = ["why pages stayed", "pages", "first at", "what lies there"]
    lines = table(cells, heads, ("left", "right", "left", "left"), {0: clip, 3: clip})
    details = [wrapped("  ", _first(row) + row["meaning"] + _remedy(row)) for row in shown]
    lines = _with_details(cells, details, lines)
    rest = rows[most:]
    of = many(sum(row["pages"] for row in rest), "page")
    return lines + _more(len(rest), "cause", "--failures", of=of)


def _first(row: Numbers) -> str:
    return f"first {clock(row['first'], ms=True)}: " if row["first"] else ""


def _remedy(row: Numbers) -> str:
    return f" -> {row['remedy']}" if row["remedy"] else ""


def _what_lies(row: Numbers) -> str:
    """What the recording knows of a page: its mapping or kind, whose it is, on which node."""
    parts = []
    file = row["file"]
    if row["lies_in"]["what"]:
        parts.append(row["lies_in"]["what"])
    elif file:
        # at no address of a process that is known, or not read in time
        unnamed = f"{file['fs']} file (inode {file['inode']})".lstrip()
        parts.append(file["path"] or unnamed)
    elif row["mapping"] or row["kind"]:
        parts.append(row["mapping"] or row["kind"])
    if row["tgid"]:
        parts.append(f"of {process_name(row['comm'], row['tgid'])}")
    if row["nid"] is not None:
        parts.append(f"on node {row['nid']}")
    return " ".join(parts) or "unknown"


def _todo(todo: Sequence[str], most: int) -> list[str]:
    lines = []
    for text in todo[:most]:
        lines += wrapped("-> ", text)
    return lines + _more(len(todo) - most, "hint", "--json")

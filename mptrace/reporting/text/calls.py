# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of the pages of calls, and why some stayed, as text.  Pure."""

from collections.abc import Sequence

from mptrace.outcomes.causes.statuses import RETURN_CODES, page_status, status_text
from mptrace.reporting.text.layout import (
    LABEL,
    Numbers,
    big,
    clip,
    item,
    many,
    most_rows,
    place,
    short,
    table,
    wrapped,
)
from mptrace.reporting.text.lying import where, why_unknown
from mptrace.reporting.text.summary_when import clock, moment
from mptrace.units import and_more, format_count, format_ns

_OUTCOME_NAMES = {
    "moved": "moved",
    "already_there": "already there",
    "failed": "failed",
    "not_attempted": "never attempted",
    "unknown": "unknown",
}


def counts(profile: Numbers) -> list[str]:
    calls, migrations = profile["calls"], profile["migrations"]
    entries, outcomes, folios = profile["entries"], profile["outcomes"], profile["folios"]
    returned = [f"{format_count(calls['returned_zero'])} returned 0"]
    if calls["returned_positive"]:
        returned.append(f"{format_count(calls['returned_positive'])} a positive count")
    for name, count in calls["errors"].items():
        returned.append(f"{format_count(count)} -{name}")
    if calls["without_end"]:
        returned.append(f"{format_count(calls['without_end'])} not seen to return")
    threads = f" from {many(calls['threads'], 'thread')}" if calls["threads"] > 1 else ""
    lines = item("calls", f"{format_count(calls['count'])}{threads}: {', '.join(returned)}")
    for name in calls["errors"]:
        meaning = next((code.meaning for code in RETURN_CODES if code.name == name), "")
        lines += item("", f"-{name}: {meaning}") if meaning else []
    text = format_count(migrations["count"])
    if migrations["failed"]:
        text += f", {format_count(migrations['failed'])} left folios behind"
    lines += item("migrations", text)
    for other in migrations["without_call"]:
        lines += item(
            "",
            f"{format_count(other['count'])} without a call ({other['name']}): "
            f"{many(other['moved_pages'], 'page')} moved, {format_ns(other['time_ns'])}",
        )
    sizes = [
        f"{format_count(count)} of {many(int(size), 'page')}"
        for size, count in folios["moved_by_size"].items()
    ]
    lines += item(
        "folios",
        f"{format_count(folios['isolated'])} isolated, {format_count(folios['moved'])} moved"
        + (f" ({', '.join(sizes)})" if sizes else ""),
    )
    asked = entries["asked"]
    lines += item("entries", f"{big(asked)} asked for")
    for name, label in _OUTCOME_NAMES.items():
        count = outcomes[name]
        share = f"{100 * count / asked:6.1f} %" if asked else ""
        note = ""
        if name == "unknown" and count:
            note = "  " + ", ".join(
                f"{reason} {big(number)}" for reason, number in profile["unknown_reasons"].items()
            )
        lines += wrapped(
            " " * LABEL, f"{label:<16}{big(count):>11} {share}{note}", keep_spaces=True
        )
    if entries["untouched"]:
        lines += item("status[]", f"left untouched for {format_count(entries['untouched'])}")
    reasons = {name: count for name, count in profile["entry_reasons"].items() if count}
    if reasons:
        lines += item(
            "reasons",
            ", ".join(f"{name} {format_count(count)}" for name, count in reasons.items()),
        )
    return lines


def agreement(profile: Numbers) -> list[str]:
    agreement = profile["agreement"]
    parts = []
    if agreement["checked"] or agreement["unknown"] or not agreement["not_asked"]:
        parts.append(
            f"{many(agreement['checked'], 'entry', 'entries')} checked: "
            f"{format_count(agreement['agree'])} agree, "
            f"{format_count(agreement['silent'])} silent (status untouched), "
            f"{format_count(agreement['disagree'])} disagree; "
            f"{big(agreement['unknown'])} unknown"
        )
    if agreement["not_asked"]:
        count = many(agreement["not_asked"], "entry", "entries")
        parts.append(
            f"of {count} nobody asked where the pages are, and no status contradicts the events"
        )
    lines = item("witnesses", "; ".join(parts))
    for entry in profile["disagreements"]:
        location = "nowhere asked" if entry["final_nid"] is None else place(entry["final_nid"])
        text = (
            f"{entry['address']} (call {entry['call']}, entry {entry['entry']}) to node "
            f"{entry['target_nid']}: events say {entry['outcome']}, status says "
            f"{status_text(entry['status'])}, location {location}"
        )
        if entry["mapping"]:
            text += f", in {entry['mapping']}"
        lines += item("", text)
    more = agreement["disagree"] - len(profile["disagreements"])
    if more > 0:
        lines += item("", and_more(more, "", "mptrace dump --format jsonl"))
    return lines


def failures(profile: Numbers) -> list[str]:
    """Pages that stayed, by cause; what to do about each, and where to read on."""
    every = profile["failure_causes"]
    groups = every[: most_rows(len(every))]
    if not groups:
        return []
    rows = [
        [
            short(group["count"]),
            group["cause"],
            _told(group["statuses"]),
            group["example"]["address"],
        ]
        for group in groups
    ]
    lines = table(
        rows,
        ["stayed", "cause", "status told", "example"],
        ("right", "left", "left", "left"),
        {1: clip, 2: clip},
    )
    for group in groups:
        lines += wrapped("  ", f"{group['cause']}: {group['meaning']}")
        mapping = group["example"]["mapping"]
        place = group["example"]["lies_in"]
        lies = where(place, None if mapping == "anonymous" else mapping).strip()
        when = f"first at {clock(moment(group['example'], 'start'), ms=True)}"
        when += f", {lies}" if lies else ""
        why = why_unknown(place, mapping, profile["mappings"]["gap"])
        seen = "; ".join(part for part in (group["evidence"], when, why) if part)
        if seen:
            lines += wrapped("    ", seen)
        if group["remedy"]:
            lines += wrapped("    -> ", group["remedy"])
    told: dict[int | None, int] = {}
    if rest := every[len(groups) :]:
        of = many(sum(group["count"] for group in rest), "entry", "entries")
        lines += wrapped("  ", and_more(len(rest), "cause", "--failures without --top", of=of))
    for group in every:
        for each in group["statuses"]:
            told[each["status"]] = told.get(each["status"], 0) + each["count"]
    for status, count in sorted(told.items(), key=lambda item: -item[1]):
        row = page_status(status)
        text = f"{status_text(status)} {format_count(count)}"
        if row is not None:
            text += f": {row.meaning}" + (f" -> {row.remedy}" if row.remedy else "")
        lines += wrapped("  ", text)
    lines += wrapped("  ", "each page's evidence: mptrace explain")
    return lines


def _told(statuses: Sequence[Numbers]) -> str:
    """Statuses of one cause: the name of the only one, or each with its count."""
    if len(statuses) == 1:
        return status_text(statuses[0]["status"])
    return ", ".join(
        f"{status_text(each['status'])} {format_count(each['count'])}" for each in statuses
    )

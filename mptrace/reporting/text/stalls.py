# SPDX-License-Identifier: GPL-2.0-or-later
"""Who waited for pages under migration, and what batch a budget allows, as text.  Pure."""

from mptrace.reporting.numbers.budget import MIN_BATCHES, MIN_SAMPLES
from mptrace.reporting.text.layout import (
    DARK,
    WAITS,
    Numbers,
    asked_for,
    clip,
    clip_process,
    cut,
    item,
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
from mptrace.reporting.text.summary_when import clock, moment
from mptrace.units import and_more, format_count, format_ns

MOST_ROWS = 10
_ALIGN = ("left", *["right"] * 6)
_MEASURES = {
    "call_duration": "whole call",
    "migration_duration": "migration",
    "blackout_per_page": "blackout",
}


def stalls(profile: Numbers) -> list[str]:
    """By victim, by initiator, and the longest, with who migrated the page and why."""
    found = profile["stalls"]
    doubt = unproved(profile, *WAITS)
    doubt = f"; {doubt}" if doubt else ""
    if not found["count"]:
        nobody = f"no thread was seen to wait for a page under migration{doubt}"
        return item("stalls", nobody) if found["traced"] else []
    matches = found["matches"]
    joined = [f"{format_count(matches['holder'])} by the kernel's record"]
    joined += [f"{format_count(matches['time'])} by time"] if matches["time"] else []
    joined += [f"{format_count(matches['unknown'])} unknown"] if matches["unknown"] else []
    still = f", {many(found['open'], 'wait')} not seen to end" if found["open"] else ""
    summed = "in all" if found["threads"] == 1 else "summed over threads"
    lines = item(
        "stalls",
        f"{many(found['count'], 'wait')} of {many(found['threads'], 'thread')} for pages under "
        f"migration, {format_ns(found['total_ns'])} {summed}{still}; who migrated: "
        + ", ".join(joined)
        + doubt,
    )
    asked = asked_for(profile)
    victims, others = cut(found["by_victim"], MOST_ROWS, lambda row: row["tgid"], asked)
    rows = [[process_name(row["comm"], row["tgid"]), *_times(row), _dark(row)] for row in victims]
    head = ["waited", "waits", "total", "p50", "p99", "max", "dark"]
    lines += table(rows, head, _ALIGN, {0: clip_process})
    initiators, rest = cut(found["by_initiator"], MOST_ROWS, _initiator_tgid, asked)
    rows = [
        [*_who(row["initiator"]), *(cell for at, cell in enumerate(_times(row)) if at != 2)]
        for row in initiators
    ]
    head = ["migrated by path", "by", "waits", "total", "p99", "max"]
    lines += table(rows, head, ("left", "left", *["right"] * 4), {0: clip, 1: clip_process})
    waited = "processes that waited"
    for more in (
        and_more(len(others), "process that waited", "--json", plural=waited),
        and_more(len(rest), "initiator", "--json"),
    ):
        lines += wrapped("  ", more) if more else []
    dark, doubt = (
        "p99 of the blackout of the folios that it maps",
        unproved(profile, *DARK, "owner"),
    )
    lines += wrapped("  ", f"dark: {dark}" + (f", {doubt}" if doubt else ""))
    longest = found["longest"][: most_rows(len(found["longest"]))]
    for each in longest:
        lines += wrapped("  ", _sentence(each, profile["mappings"]["gap"]), hang="    ")
    # of one that was not seen to end nobody knows how long it was
    more = and_more(
        found["count"] - found["open"] - len(longest),
        "wait",
        "mptrace dump --table waits",
    )
    lines += wrapped("  ", more) if more else []
    return lines


def _times(row: Numbers) -> list[str]:
    return [
        short(row["count"]),
        format_ns(row["total_ns"]),
        *(ns_text(row[name]) for name in ("p50", "p99", "max")),
    ]


def _dark(row: Numbers) -> str:
    return ns_text(row["blackout"]["p99"])


def _initiator_tgid(row: Numbers) -> int | None:
    """None where who migrated is unknown."""
    return None if row["initiator"] is None else int(row["initiator"]["tgid"])


def _who(initiator: Numbers | None) -> list[str]:
    if initiator is None:
        return ["unknown", "unknown"]
    return [str(initiator["label"]), _name(initiator)]


def _name(initiator: Numbers) -> str:
    return process_name(initiator["comm"], initiator["tgid"])


def _sentence(wait: Numbers, gap: str) -> str:
    mapped = "" if wait["mapped_at"] is None else f" at {wait['mapped_at']}"
    page = wait["address"] or f"a page{mapped}"
    if wait["kind"] == "lock":
        page = f"the lock of {page}"
    thread = "" if wait["tid"] == wait["tgid"] else f" (thread {wait['tid']})"
    when = clock(moment(wait, "start"), ms=True)
    text = (
        f"{when}: {process_name(wait['comm'], wait['tgid'])}{thread} waited "
        f"{format_ns(wait['wait_ns'])} for {page}{where(wait['lies_in'], wait['mapping'])}"
    )
    if why := why_unknown(wait["lies_in"], wait["mapping"], gap):
        text += f" ({why})"
    initiator = wait["initiator"]
    if initiator is None:
        if wait["holder_tid"]:
            return f"{text}; thread {wait['holder_tid']} migrated it, no more is known of that"
        return f"{text}; who migrated it is unknown"
    text += f", migrated by {_name(initiator)}: {initiator['label']}"
    if wait["reason"]:
        text += f" (reason {wait['reason']})"
    return text + (", by time" if wait["match"] == "time" else "")


def budget(profile: Numbers) -> list[str]:
    """The largest batches whose measured p99 stays below what was asked for."""
    answers = profile["budget"]
    if answers is None:
        return []
    if not answers:
        return item("budget", "no call and no migration was measured: no batch can be named")
    limit = format_ns(answers[0]["budget_ns"])
    rows, notes = [], []
    for each in answers:
        pages = "unknown" if each["state"] == "unknown" else "none"
        if each["pages"] is not None:
            pages = f"{'>= ' if each['state'] == 'at_least' else ''}{format_count(each['pages'])}"
        rows.append(
            [
                each["label"],
                _MEASURES[each["measure"]],
                pages,
                ns_text(each["p99_ns"]),
                short(each["samples"]),
            ]
        )
        if each["state"] != "unknown":
            notes += wrapped("  ", _note(each), hang="    ")
    if any(each["state"] == "unknown" for each in answers):
        notes += wrapped(
            "  ",
            f"unknown: no size has {MIN_SAMPLES} samples of {MIN_BATCHES} batches, as a p99 needs",
        )
    doubt = unproved(profile, *DARK)
    if doubt and any(each["measure"] == "blackout_per_page" for each in answers):
        notes += wrapped("  ", f"blackout: {doubt}")
    if profile["emulated"] is not False:
        notes += wrapped("  ", "measured under emulation: no figure for real hardware")
    head = [f"batch below {limit}", "p99 of", "pages", "p99", "samples"]
    return [*table(rows, head, ("left", "left", *["right"] * 3), {0: clip}), *notes]


def _note(each: Numbers) -> str:
    name = f"{each['label']}, {_MEASURES[each['measure']]}"
    beyond = each["extrapolated_pages"]
    guess = "" if beyond is None else f"; extrapolated, not measured: about {many(beyond, 'page')}"
    if each["state"] == "none":
        least = each["next"]
        return (
            f"{name}: the smallest measured, {many(least['pages'], 'page')}, had "
            f"{format_ns(least['p99_ns'])}{guess}"
        )
    if each["state"] == "at_least":
        return f"{name}: {each['pages']:,} is the largest that was measured{guess}"
    over = each["next"]
    return f"{name}: {many(over['pages'], 'page')} had {format_ns(over['p99_ns'])}"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanations as text of so many columns.  Returns, never prints."""

from collections.abc import Mapping, Sequence

from mptrace.explain.entries import MOST_BLOCKS, Block, Explanation
from mptrace.explain.folios import FolioBlock, FolioExplanation
from mptrace.outcomes.causes.statuses import status_text
from mptrace.reporting.text.history import later_move
from mptrace.reporting.text.layout import WIDTH, columns, item, many, wrapped
from mptrace.reporting.text.lying import where_of
from mptrace.reporting.text.summary_when import clock, day
from mptrace.units import and_more, format_count

_OUTCOMES = {
    "failed": "stayed",
    "not_attempted": "was never attempted",
    "moved": "moved",
    "already_there": "was there already",
    "unknown": "is unknown",
}
_OF_MANY = {
    "failed": "stayed",
    "not_attempted": "were never attempted",
    "moved": "moved",
    "already_there": "were there already",
    "unknown": "are unknown",
}
_WITNESSES = {
    "agree": "the witnesses agree",
    "silent": "the status is silent",
    "disagree": "the witnesses disagree: status and location against the kernel's events",
    "not_asked": "the status does not contradict the events",
    "unknown": "not judged",
}


def render(blocks: Sequence[Block], *, most: int = MOST_BLOCKS, width: int = WIDTH) -> str:
    """Blocks of equal pages, those of most pages first.

    :param most: blocks shown; the rest is counted.
    :param width: columns that there are, 80 at the least.
    """
    with columns(width):
        parts = [_block(block) for block in blocks[:most]]
        return shortened(parts, blocks[most:], "entry", "entries")


def shortened(
    parts: list[list[str]], rest: Sequence[Block | FolioBlock], unit: str, units: str = ""
) -> str:
    """The blocks that are shown as lines each, and what is said of the ``rest``."""
    if rest:
        count = many(sum(block.count for block in rest), unit, units)
        text = and_more(len(rest), "kind", "--all", of=count)
        parts = [*parts, wrapped("", text)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def explanation(one: Explanation, *, width: int = WIDTH) -> str:
    """One entry by itself."""
    with columns(width):
        return "\n".join(_block(Block(1, one, (), {})))


def nothing(entries: int, unknown: int, *, is_part: bool = False) -> str:
    """What is said where no page stayed; ``is_part``: of those that are selected."""
    if not entries and is_part:
        return "of these no entry is of a call that asked for a move"
    if not entries:
        return "no entries: the recording has no call that asked for a move"
    count = many(entries, "entry", "entries")
    if unknown:
        return (
            f"of {count} none is known to have failed; {format_count(unknown)} unknown: "
            "mptrace report says why"
        )
    if is_part:
        return f"of these no page stayed: {count}, none failed"
    return f"no page stayed: {count}, none failed, none left out"


def left_out(count: int, *, width: int = WIDTH) -> str:
    """What is said of pages of mptrace itself that stayed."""
    stayed = many(count, "page or folio of mptrace itself", "pages or folios of mptrace itself")
    text = f"{stayed} stayed, too, and {'is' if count == 1 else 'are'} not shown: column own of "
    with columns(width):
        return "\n".join(wrapped("", text + "mptrace dump --failed --format csv"))


def _block(block: Block) -> list[str]:
    one = block.first
    lines = wrapped("", _title(block), hang="    ")
    if block.others:
        named = ", ".join(f"{address:#x} ({call}:{entry})" for call, entry, address in block.others)
        more = and_more(block.count - 1 - len(block.others), "", "--all", inline=True)
        named += f" {more}" if more else ""
        lines += _item("also", named)
    lines += _item("when", when(one))
    if one.cause.name:
        lines += _item("cause", f"{one.cause.name}: {one.cause.meaning}")
    lines += _item("status", _status(one))
    for story in one.status_story:
        lines += _item("", story)
    if not one.mapping:
        lines += not_known(one)
    lines += evidence(one, block.ranges)
    lines += _item("location", _location(one))
    # Of a page that is where it should be only its status may need a remedy.
    silent = one.status_state == "untouched" and not one.cause.name
    remedy = one.status_remedy if silent else one.cause.remedy
    if remedy:
        lines += _item("remedy", remedy)
    if one.cause.source:
        lines += _item("kernel", one.cause.source)
    return lines


def when(one: Explanation | FolioExplanation) -> str:
    """``2026-11-29 22:43:38.951 UTC``: when the kernel took up the page."""
    moment = {"monotonic_ns": one.start_ns, "utc": one.start_utc} if one.start_ns else None
    if moment is None or moment["utc"] is None:
        return clock(moment)
    return f"{day(moment)} {clock(moment, ms=True)} UTC"


def not_known(one: Explanation | FolioExplanation) -> list[str]:
    """Why it is not known what lies there, where a recording has that of other pages."""
    place = one.lies_in
    if place.is_known or not place.is_recorded or one.address is None:
        return []
    return _item("lies in", f"unknown: {place.why_unknown}")


def evidence(one: Explanation | FolioExplanation, ranges: Mapping[str, Sequence[int]]) -> list[str]:
    """What was seen of a page, in what equal ones differ, what can't be told, and the delay."""
    lines: list[str] = []
    label = "evidence"
    for finding in one.evidence:
        lines += _item(label, finding.words)
        label = ""
    for name, (least, most) in ranges.items():
        lines += _item(label, f"{name} differ among them: {least:,} to {most:,}")
        label = ""
    if one.gap:
        lines += _item(label, f"can't tell{'' if label else ' more'}: {one.gap}")
    if one.delay is not None:
        lines += _item("delay", one.delay.words)
    return lines


def _title(block: Block) -> str:
    one = block.first
    address = "an address that was not read" if one.address is None else hex(one.address)
    where = where_of(one.lies_in, one.mapping)
    name = f"{address} (call {one.call}, entry {one.entry}{where})"
    to = "" if one.target_nid is None else f", asked for node {one.target_nid}"
    reason = f" ({one.entry_reason.replace('_', ' ')})" if one.entry_reason else ""
    if block.count == 1:
        return f"{name} {_OUTCOMES[one.outcome]}{reason}{to}"
    count = many(block.count, "entry", "entries")
    return f"{count} {_OF_MANY[one.outcome]}{reason}; the first: {name}{to}"


def _status(one: Explanation) -> str:
    if one.status_state == "unknown":
        return "not known: it could not be read, or records were lost"
    text = status_text(one.status)
    return f"{text}: {one.status_meaning}" if one.status_meaning else text


def _location(one: Explanation) -> str:
    if one.final_nid is None:
        # where it was asked, what came back belongs to no entry for certain
        asked = "not known" if one.witnesses == "unknown" else "not asked"
        if one.outcome == "unknown":
            return f"{asked}; {_WITNESSES['unknown']}"
        return f"{asked}; {_WITNESSES[one.witnesses]}"
    before = "" if one.before_nid is None else f", {_place(one.before_nid)} before"
    later = "" if one.later is None else f"; {later_move(one.later)}"
    return f"{_place(one.final_nid)} after the call{before}{later}; {_WITNESSES[one.witnesses]}"


def _place(nid: int) -> str:
    return f"node {nid}" if nid >= 0 else status_text(nid)


def _item(label: str, text: str) -> list[str]:
    return item(label, text, indent="  ")

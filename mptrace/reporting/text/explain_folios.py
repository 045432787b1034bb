# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanations of folios without a call as text of so many columns.  Returns, never prints."""

from collections.abc import Sequence

from mptrace.explain.entries import MOST_BLOCKS
from mptrace.explain.folios import FolioBlock, FolioExplanation
from mptrace.reporting.text.explain import evidence, not_known, shortened, when
from mptrace.reporting.text.layout import WIDTH, columns, item, many, wrapped
from mptrace.reporting.text.lying import where_of
from mptrace.units import and_more, format_count, format_ns

_OUTCOMES = {"failed": "stayed", "moved": "moved", "unknown": "is unknown"}
_OF_MANY = {"failed": "stayed", "moved": "moved", "unknown": "are unknown"}
_INDENT = "  "


def render(blocks: Sequence[FolioBlock], *, most: int = MOST_BLOCKS, width: int = WIDTH) -> str:
    """Blocks of equal folios, those of most pages first.

    :param most: blocks shown; the rest is counted.
    :param width: columns that there are, 80 at the least.
    """
    with columns(width):
        return shortened([_block(block) for block in blocks[:most]], blocks[most:], "folio")


def explanation(one: FolioExplanation, *, width: int = WIDTH) -> str:
    """One folio by itself."""
    with columns(width):
        return "\n".join(_block(FolioBlock(1, one.nr_pages, one, (), {})))


def nothing(folios: int, unknown: int = 0) -> str:
    """What is said where none of them stayed, or none is known to have."""
    count = f"{many(folios, 'folio')} migrated without a call"
    if unknown:
        return f"of {count} none is known to have failed; {format_count(unknown)} unknown"
    return f"no page stayed: {count}, none failed"


def unrecorded(pages: int, *, width: int = WIDTH) -> str:
    """What is said of pages that the kernel counted and nobody saw."""
    has, which = ("has", "it is") if pages == 1 else ("have", "they are")
    text = (
        f"the kernel counted {many(pages, 'more base page')} as failed that {has} no record "
        f"here: which {which}, and why, is unknown"
    )
    with columns(width):
        return "\n".join(wrapped("", text))


def _block(block: FolioBlock) -> list[str]:
    one = block.first
    lines = wrapped("", _title(block), hang="    ")
    if block.others:
        named = ", ".join(
            f"{address:#x} (folio {row})" if address else f"folio {row}"
            for row, address in block.others
        )
        more = and_more(block.count - 1 - len(block.others), "", "--all", inline=True)
        named += f" {more}" if more else ""
        lines += _item("also", named)
    lines += _item("when", when(one))
    lines += _item("by", _initiator(one))
    if one.path is not None:
        lines += _item("path", f"{one.path.label}: {one.path.meaning} ({_how(one)})")
    if one.cause.name:
        lines += _item("cause", f"{one.cause.name}: {one.cause.meaning}")
    lines += not_known(one)
    lines += evidence(one, block.ranges)
    if one.blackout_ns > 0:
        lines += _item("blackout", format_ns(one.blackout_ns))
    if one.cause.remedy:
        lines += _item("remedy", one.cause.remedy)
    if one.cause.source:
        lines += _item("kernel", one.cause.source)
    return lines


def _title(block: FolioBlock) -> str:
    one = block.first
    name = "a page (no address seen)" if one.address is None else hex(one.address)
    name += where_of(one.lies_in)
    where = f"folio {one.folio}"
    if one.owner_tgid:
        where += f", of {one.owner_comm or 'process'} ({one.owner_tgid})"
    size = "" if one.nr_pages == 1 else f", {many(one.nr_pages, 'page')}"
    nodes = "" if one.source_nid is None else f", on node {one.source_nid}"
    if one.target_nid is not None:
        nodes = f", from node {one.source_nid} to node {one.target_nid}"
    if block.count == 1:
        return f"{name} ({where}{size}) {_OUTCOMES[one.outcome]}{nodes}"
    count, pages = many(block.count, "folio"), many(block.pages, "page")
    return f"{count} ({pages}) {_OF_MANY[one.outcome]}; the first: {name} ({where}{size}){nodes}"


def _initiator(one: FolioExplanation) -> str:
    who = one.initiator
    if who is None:
        return "unknown: the record of its migration was lost"
    words = f"{who.comm or 'process'} ({who.tgid})"
    if who.tid != who.tgid:
        words += f", thread {who.tid}"
    if who.kernel_thread:
        words += ", a kernel thread"
    return words + (f", in cgroup {who.cgroup}" if who.cgroup else "")


def _how(one: FolioExplanation) -> str:
    return f"{one.reason}, {one.mode}" + (
        "" if one.migration is None else f", migration {one.migration}"
    )


def _item(label: str, text: str) -> list[str]:
    return item(label, text, indent=_INDENT)

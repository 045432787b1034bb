# SPDX-License-Identifier: GPL-2.0-or-later
"""What was found out about a page, in words for people.  Pure; `evidence` finds it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mptrace.explain.findings import (
    Allowed,
    Area,
    File,
    Finding,
    Flags,
    Gap,
    GroupEnded,
    Holder,
    Mapcount,
    Mappers,
    NotAsked,
    PageTableEntry,
    Passes,
    Pins,
    References,
    Refusal,
    Size,
    Stayed,
    Waited,
)
from mptrace.outcomes.causes.obstacles import PIN_BIAS
from mptrace.outcomes.causes.statuses import errno_name
from mptrace.recording.layouts import (
    LOOKUP_NONE,
    STAGE_ALLOCATE,
    STAGE_ISOLATE,
    STAGE_LOCK,
    STAGE_LOOKUP,
    STAGE_NAMES,
    STAGE_PUTBACK,
    STAGE_RELEASE,
    STAGE_SHARED,
    STAGE_UNMAP,
    STAGE_VMA,
)
from mptrace.units import and_more, format_count, format_ns, many, times

#: Processes that a line of "mapped by" names; JSON has all.
MOST_MAPPERS = 6

_LEVELS = {1: "PTE", 2: "PMD", 3: "PUD", 4: "P4D", 5: "PGD"}
_PTE_KINDS = {
    "none": "empty: nothing was ever there",
    "present": "present",
    "prot_none": "present, hidden by PROT_NONE",
    "swap": "in swap",
    "special": "a migration entry or a marker",
    "zero": "the zero page",
    "huge_zero": "the huge zero page",
}
_WAITED_FOR = {"folio_lock": "its lock", "writeback": "its writeback"}

#: Why there is no evidence of a page that stayed.
GAPS = {
    "old_recording": "recorded by an mptrace that did not keep the state of refused pages",
    "own_record_lost": "its state was read at the refusal, and the record was lost{causes}",
    "records_lost": "records of refused pages were lost{causes}",
    "phase_missing": "this kernel's '{phase}' phase can't be traced",
    "not_recorded": "no state of the page was recorded at its refusal",
}
#: Findings that a cause rests on, by label, for a single line; elsewhere the references.
TELLING = {
    "unsuitable_vma": ("area",),
    "never_touched": ("entry",),
    "swapped_out": ("entry",),
    "prot_none": ("entry",),
    "special_entry": ("entry",),
    "hidden": ("entry", "file"),
    "secret_memory": ("entry", "file"),
    "zero_page": ("entry",),
    "huge_zero_page": ("entry",),
    "shared": ("mapcount", "mappers"),
    "shared_ksm": ("mapcount", "mappers"),
    "not_on_lru": ("flags", "file"),
    "isolated_by_other": ("holder",),
    "hugetlb_tail": ("size",),
    "locked": ("flags",),
    "writeback": ("flags",),
    "locked_or_writeback": ("flags",),
    "no_memory": (),
    "node_outside_callers_cpuset": ("allowed",),
    "buffers_busy": ("file",),
    "private_not_released": ("file",),
    "dirty_no_migration": ("file",),
    "write_failed": ("file",),
    "refused_by_filesystem": ("file",),
}


@dataclass(frozen=True)
class Worded:
    """A finding as JSON has it: its kind, its value, and the words that the text has."""

    label: str
    value: Any
    words: str


def worded(finding: Finding) -> Worded:
    """A finding with its words."""
    return Worded(finding.label, finding.value, words_of(finding))


def words_of(finding: Finding) -> str:
    """A finding in one line."""
    return WORDS[type(finding)](finding)


def line(cause: str, findings: tuple[Finding, ...]) -> str:
    """The evidence of a cause in one line: the refusal, and what the cause rests on."""
    wanted = ("refusal", *TELLING.get(cause, ("references", "pins")))
    by_label = {finding.label: finding for finding in findings}
    return "; ".join(words_of(by_label[label]) for label in wanted if label in by_label)


def gap_words(gap: Gap | None) -> str:
    """Why there is no evidence; "" where there is."""
    if gap is None:
        return ""
    causes = f" ({', '.join(gap.causes)})" if gap.causes else ""
    return GAPS[gap.kind].format(causes=causes, phase=gap.phase)


def stayed(found: Stayed) -> str:
    """A few entries of a group whose pages stayed, with their causes."""
    if not found.count:
        return "which of its pages stayed was not recorded"
    named = ", ".join(f"entry {entry} ({cause})" for entry, cause in found.first)
    more = and_more(found.count - len(found.first), "", "mptrace dump --failed", inline=True)
    return f"{named}{' ' if more else ''}{more} stayed"


def answer(rc: int) -> str:
    """A return value of the kernel: ``-16 EBUSY``, ``7``."""
    return f"{rc} {errno_name(-rc)}" if rc < 0 else str(rc)


def _refusal(found: Refusal) -> str:
    stage, function, rc = found.stage, found.function, answer(found.rc)
    if stage >= len(STAGE_NAMES):
        return f"refused at stage {stage}, which this mptrace does not know: {rc}"
    if stage == STAGE_SHARED:
        return f"{function} found it; the kernel did not isolate it"
    if stage == STAGE_LOCK:
        return f"it had its target, and {function} gave up before the unmap: {rc}"
    if stage == STAGE_UNMAP:
        return f"still mapped after {function}: {rc}"
    if stage in (STAGE_VMA, STAGE_RELEASE):
        return f"{function} returned false"
    if stage == STAGE_ALLOCATE:
        return f"{function} returned no folio"
    if stage == STAGE_LOOKUP and found.rc == LOOKUP_NONE:
        return f"{function} found no folio"
    if stage == STAGE_PUTBACK:
        return f"the kernel left it behind ({function}); what refused it is not traced"
    if stage == STAGE_ISOLATE:
        return f"{function} refused it: {rc}"
    return f"{function} returned {rc}"


def _not_asked(found: NotAsked) -> str:
    return f"{found.function} was not asked: no mapping was found"


def _group_ended(found: GroupEnded) -> str:
    name = "an error" if found.rc is None else f"{found.rc} {errno_name(-found.rc)}"
    after = f", after {stayed(found.others)}" if found.others.count else ""
    return f"{found.function} returned {name} first{after}"


def _entry(found: PageTableEntry) -> str:
    level = _LEVELS.get(found.level, str(found.level))
    return f"page table entry ({level}): {_PTE_KINDS[found.kind]}"


def _references(found: References) -> str:
    seen = many(found.seen, "reference")
    if not found.compared:
        return seen
    if found.expected is None:
        return f"{seen} (how many it may have is not known)"
    made = " + ".join(f"{count} {what}" for what, count in found.parts)
    end = f": {format_count(found.extra)} too many" if found.extra > 0 else ""
    return f"{seen}, {format_count(found.expected)} expected ({made}){end}"


def _pins(found: Pins) -> str:
    if not found.by_references:
        return f"pinned {times(found.value)} (FOLL_PIN)"
    return f"pinned {times(found.value)}: a pin (FOLL_PIN) counts {PIN_BIAS:,} references"


def _mapcount(found: Mapcount) -> str:
    words = f"mapped {times(found.folio)}" if found.folio else "no mapping left"
    if found.page and found.is_large:
        words += f", the page itself {times(found.page)}"
    return words


def _mappers(found: Mappers) -> str:
    named = ", ".join(
        f"{each.pid} ({each.comm or 'gone'}) at {each.address}"
        for each in found.mappers[:MOST_MAPPERS]
    )
    more = len(found.mappers) - MOST_MAPPERS
    if more > 0:
        named += f" {and_more(more, '', 'mptrace dump --table mappers', inline=True)}"
    return (
        f"mapped by: found {len(found.mappers)} of {many(found.mapcount, 'mapping')}, "
        f"{format_ns(found.later_ns)} later: {named}"
    )


def _flags(found: Flags) -> str:
    return f"flags ({found.kind}): {', '.join(found.names) or 'none of note'}"


def _size(found: Size) -> str:
    return f"a folio of {many(found.value, 'page')}"


def _file(found: File) -> str:
    device = f"{found.major}:{found.minor}"
    path = "" if found.path is None else f"{found.path}, "
    words = f"file: {path}inode {found.inode} on device {device} ({found.fs or 'no name'})"
    if found.a_ops is None:
        return words
    operation = found.migrate_folio
    told = f"migrate_folio is {operation}" if operation else "no migrate_folio"
    return f"{words}; {found.a_ops}: {told}"


def _area(found: Area) -> str:
    return f"area {found.start:#x}-{found.end:#x}: {' '.join(found.flags) or 'no access'}"


def _holder(found: Holder) -> str:
    if found.comm is None:
        what = ", in a call of its own"
    else:
        what = f" ({found.comm}), in a migration for {found.reason}"
    caller = ": the caller itself" if found.is_caller else ""
    return f"isolated by thread {found.tid}{what}{caller}"


def _allowed(found: Allowed) -> str:
    return f"the target {'is' if found.value else 'is not'} in the caller's cpuset"


def _passes(found: Passes) -> str:
    named = ", ".join(f"{name} {times(count)}" for name, count in found.counts)
    within = f" within {format_ns(found.span_ns)}" if found.span_ns > 0 else ""
    return f"refused: {named}{within}"


def _waited(found: Waited) -> str:
    named = " and ".join(
        f"{format_ns(ns)} for {_WAITED_FOR[name]} ({times(count)})"
        for name, ns, count in found.waits
    )
    return f"the migration waited {named}"


#: For each kind of finding, what says it.
WORDS: dict[type, Callable[[Any], str]] = {
    Refusal: _refusal,
    NotAsked: _not_asked,
    GroupEnded: _group_ended,
    PageTableEntry: _entry,
    References: _references,
    Pins: _pins,
    Mapcount: _mapcount,
    Mappers: _mappers,
    Flags: _flags,
    Size: _size,
    File: _file,
    Area: _area,
    Holder: _holder,
    Allowed: _allowed,
    Passes: _passes,
    Waited: _waited,
}

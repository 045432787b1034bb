# SPDX-License-Identifier: GPL-2.0-or-later
"""Who migrated by which path, and who called move_pages(2), as text.  Pure."""

from collections.abc import Iterator, Sequence

from mptrace.reporting.text.layout import (
    DARK,
    Numbers,
    asked_for,
    clip,
    clip_process,
    cut,
    item,
    many,
    named,
    ns_text,
    process_name,
    short,
    table,
    unproved,
    wrapped,
)
from mptrace.reporting.text.lying import where, why_unknown
from mptrace.reporting.text.summary_when import clock, moment, span_of
from mptrace.units import and_more, format_count, format_ns

#: Rows of a table, and names in one line, that a report shows; JSON has all.
MOST_ROWS = 15
_MOST_NAMED = 4


def paths(profile: Numbers) -> list[str]:
    """One row for each path and initiator, and what is to be said of it."""
    if not _is_of_others(profile):
        return []
    asked = asked_for(profile)
    rows, rest = cut(profile["paths"], MOST_ROWS, _initiator_tgid, asked)
    lines = table(
        [
            [
                row["label"],
                _by(row),
                short(row["migrations"]),
                short(row["pages"]["moved"]),
                short(row["pages"]["failed"]),
                format_ns(row["time_ns"]),
            ]
            for row in rows
        ],
        ["path", "by", "count", "moved", "stayed", "time"],
        ("left", "left", *["right"] * 4),
        {0: clip, 1: clip_process},
    )
    for row in rows:
        lines += _wrapped_details(row, asked, profile)
    if rest:
        of = many(sum(row["migrations"] for row in rest), "migration")
        lines += wrapped("  ", and_more(len(rest), "row", "--json", of=of))
    strays = profile["folios_without_migration"]
    if strays["folios"]:
        lines += wrapped(
            "  ",
            f"{many(strays['folios'], 'folio')} ({many(strays['pages'], 'page')}) of migrations "
            "whose records are missing: in no row",
        )
    if any(row["failures"] for row in profile["paths"]):
        lines += wrapped("  ", "each page that stayed, with its evidence: mptrace explain")
    return lines


def _is_of_others(profile: Numbers) -> bool:
    strange = any(row["path"] != "move_pages" for row in profile["paths"])
    return bool(profile["paths"]) and (strange or profile["scope"] is not None)


def _initiator_tgid(row: Numbers) -> int:
    return int(row["initiator"]["tgid"])


def _tgid(row: Numbers) -> int | None:
    tgid: int | None = row["tgid"]
    return tgid


def _by(row: Numbers) -> str:
    who = row["initiator"]
    return process_name(who["comm"] or who["process"], who["tgid"])


def _wrapped_details(row: Numbers, asked: frozenset[int], profile: Numbers) -> list[str]:
    head = f"{row['label']} by {_by(row)}: "
    lines = wrapped("  ", head + "; ".join(_details(row, asked, profile)), hang="    ")
    difference = row["difference"]
    if difference is not None and any(difference.values()):
        counted = row["kernel_counted"]
        lines += wrapped(
            "    ",
            f"the kernel counted {format_count(counted['moved_pages'])} moved and "
            f"{format_count(counted['failed_pages'])} failed: the folios' records have "
            f"{difference['moved_pages']:+,} and {difference['failed_pages']:+,}"
            + (f", with {many(row['own_pages'], 'page')} of mptrace" if row["own_pages"] else ""),
        )
    for failure in row["failures"][:_MOST_NAMED]:
        verb = "unknown" if failure["outcome"] == "unknown" else "stayed"
        lines += wrapped(
            "    ",
            f"{many(failure['pages'], 'page')} {verb}: {failure['cause']}: {failure['meaning']}"
            + _first(failure["example"], profile),
        )
    more = row["failures"][_MOST_NAMED:]
    if more:
        of = many(sum(failure["pages"] for failure in more), "page")
        lines += wrapped("    ", and_more(len(more), "cause", "--json", of=of))
    return lines


def _first(example: Numbers, profile: Numbers) -> str:
    """When the first of some pages was met, and where it lay."""
    text = f"; the first at {clock(moment(example, 'start'), ms=True)}"
    lies = where(example["lies_in"])
    why = why_unknown(example["lies_in"], None, profile["mappings"]["gap"])
    if example["address"] is None or not (lies or why):
        return text
    return f"{text}, {example['address']}{lies}" + (f", {why}" if why else "")


def _details(row: Numbers, asked: frozenset[int], profile: Numbers) -> Iterator[str]:
    who = row["initiator"]
    if who["kernel_thread"]:
        yield "a kernel thread"
    if who["comm"] and who["process"] != who["comm"]:
        yield f"of {who['process']}"
    if who["threads"] > 1:
        yield many(who["threads"], "thread")
    if who["cgroup"]:
        yield f"cgroup {who['cgroup']}"
    if when := span_of(moment(row, "first"), moment(row, "last")):
        yield when
    yield ", ".join(row["modes"])
    calls = [f"{name} {format_count(n)}" for name, n in row["syscalls"].items()]
    if row["path"] not in ("move_pages", "migrate_pages", "mbind") and set(row["syscalls"]) - {
        "none",
        "unknown",
    }:
        yield "in " + named(calls, _MOST_NAMED, "system call")
    if row["failed_migrations"]:
        yield f"{format_count(row['failed_migrations'])} of {row['migrations']:,} failed"
    if row["matrix"]:
        cells = [
            f"{cell['from']}->{cell['to']} {format_count(cell['pages'])}"
            for cell in sorted(row["matrix"], key=lambda cell: -int(cell["pages"]))
        ]
        yield "nodes " + named(cells, _MOST_NAMED, "pair")
    if any(owner["tgid"] for owner in row["owners"]):
        yield f"pages of {_owners(row['owners'], asked)}{_comma(unproved(profile, 'owner'))}"
    blackout = row["blackout"]
    if blackout["folios"]:
        quantiles = (f"{name} {ns_text(blackout[name])}" for name in ("p50", "p99", "max"))
        yield f"blackout {', '.join(quantiles)}{_comma(unproved(profile, *DARK))}"


def _comma(clause: str) -> str:
    return f", {clause}" if clause else ""


def _owners(owners: Sequence[Numbers], asked: frozenset[int]) -> str:
    """Those of most pages and those asked for, and how many others there are."""
    shown, rest = cut(owners, _MOST_NAMED, _tgid, asked)
    text = ", ".join(map(_owner, shown))
    if not rest:
        return text
    # beyond so many JSON has their sum alone
    summed = any(owner["tgid"] is None for owner in rest)
    where = "mptrace dump --table folios --format csv" if summed else "--json"
    of = many(sum(map(_pages, rest)), "page")
    count = sum(owner.get("processes", 1) for owner in rest)
    return f"{text} {and_more(count, 'owner', where, of=of, inline=True)}"


def _pages(owner: Numbers) -> int:
    return int(owner["moved_pages"] + owner["failed_pages"] + owner["unknown_pages"])


def _owner(owner: Numbers) -> str:
    pages = format_count(_pages(owner))
    if owner["tgid"] == 0:
        return f"no process seen {pages}"
    name = process_name(owner["comm"], owner["tgid"], gone=owner.get("gone", False))
    return f"{name} {pages}"


def callers(profile: Numbers) -> list[str]:
    """Who called move_pages(2) and what came back; of a run of our own it is known."""
    rows = profile["callers"]
    if not rows or (profile["scope"] is None and len(rows) < 2):
        return []
    asked = asked_for(profile)
    rows, rest = cut(rows, MOST_ROWS, _tgid, asked)
    lines = table(
        [
            [
                process_name(row["comm"] or row["process"], row["tgid"]),
                short(row["calls"]),
                short(row["entries"]),
                short(row["returned_zero"]),
                short(row["returned_positive"]),
                short(sum(row["errors"].values())),
                short(row["told"]["untouched"]),
            ]
            for row in rows
        ],
        ["caller", "calls", "entries", "ret 0", "ret > 0", "error", "untouched"],
        ("left", *["right"] * 6),
        {0: clip_process},
    )
    for row in rows:
        others = [each for each in row["targets"] if each["tgid"] not in (0, row["tgid"])]
        if others:
            name = process_name(row["comm"] or row["process"], row["tgid"])
            text = f"{name} moved pages of {_targets(others, asked)} (calls)"
            lines += wrapped("  ", text, hang="    ")
    if rest:
        lines += wrapped("  ", and_more(len(rest), "caller", "--json"))
    return lines


def _targets(targets: Sequence[Numbers], asked: frozenset[int]) -> str:
    """Those of most calls and those asked for, and how many others there are."""
    shown, rest = cut(targets, _MOST_NAMED, _tgid, asked)
    texts = [
        f"{process_name(each['comm'], each['tgid'], gone=each['gone'])} "
        f"{format_count(each['calls'])}"
        for each in shown
    ]
    more = and_more(len(rest), "target", "--json", inline=True)
    return ", ".join(texts) + (f" {more}" if more else "")


def misled(profile: Numbers) -> list[str]:
    """Callers that may take an untouched status for a node."""
    lines: list[str] = []
    rows, rest = cut(profile["misled"], MOST_ROWS, _tgid, asked_for(profile))
    for row in rows:
        for text in _misled(row):
            lines += item("" if lines else "misled?", text)
    if rest:
        lines += item("", and_more(len(rest), "caller", "--json"))
    if lines:
        advice = "fill the array with an impossible value before, and query (nodes = NULL) after"
        lines += item("", f"-> {advice}")
    return lines


def _misled(row: Numbers) -> Iterator[str]:
    name = process_name(row["comm"] or row["process"], row["tgid"])
    example = row["example"]
    if example is not None:
        none = row["calls_returned_zero"]
        yield (
            f"{name}: {many(row['calls'], 'call')} returned a count"
            + (f" ({format_count(none)} of them 0)" if none else "")
            + f" and left {many(row['pages'], 'status', 'statuses')} untouched that read like a "
            f"node; {format_count(row['stayed_pages'])} of these pages did not move. E.g. "
            f"{example['address'] or 'an address not read'} (call {example['call']}, entry "
            f"{example['entry']}): reads as node {example['reads_as_node']}, "
            f"{example['outcome'].replace('_', ' ')}"
        )
    if row["unknown_pages"]:
        yield (
            f"{name}: unknown for {many(row['unknown_pages'], 'entry', 'entries')}: what the "
            "status held before, or whether the kernel wrote it, could not be told"
        )

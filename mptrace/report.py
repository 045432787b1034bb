# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a profile as text of at most 80 columns.  Returns, never prints."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tabulate import tabulate

from mptrace.statuses import RETURN_CODES, page_status, status_text
from mptrace.units import format_bytes, format_count, format_ns

WIDTH = 80
_LABEL = 11
_BAR = 40
#: Names of the phases as people read them.
_PHASE_NAMES = {"tlb_flush": "TLB flush", "lru_add": "LRU add"}
_OUTCOME_NAMES = {
    "moved": "moved",
    "already_there": "already there",
    "failed": "failed",
    "not_attempted": "never attempted",
    "unknown": "unknown",
}

Numbers = Mapping[str, Any]


def render(profile: Numbers, *, histogram: bool = False) -> str:
    """The report of a profile (:func:`mptrace.profile.profile`).

    :param histogram: add a power-of-two histogram of each phase and of the blackout.
    """
    sections = [
        _head(profile),
        _coverage(profile),
        _counts(profile),
        _agreement(profile),
        _time(profile),
        _movement(profile),
        _failures(profile),
    ]
    if histogram:
        sections.append(_histograms(profile))
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


# ---- what was traced, and how well ---------------------------------------------------


def _head(profile: Numbers) -> list[str]:
    kernel = profile["kernel"]
    page_size = format_bytes(kernel["page_size"]) if kernel.get("page_size") else "unknown size"
    lines = _item(
        "kernel",
        f"{kernel.get('release', 'unknown')} ({kernel.get('machine', 'unknown')}), "
        f"pages of {page_size}",
    )
    nodes = [
        f"{node['nid']}: {format_bytes(node.get('memory_bytes', 0))}, {_cpus(node.get('cpus'))}"
        for node in profile["nodes"]
    ]
    lines += _item("nodes", "; ".join(nodes) or "not recorded")
    hypervisor = profile["hypervisor"]
    if profile["emulated"]:
        lines += _item(
            "times", f"emulated ({hypervisor or 'unknown'}): times are ratios, not hardware's"
        )
    elif profile["emulated"] is None:
        lines += _item("times", "not recorded whether emulated: take them as ratios")
    elif hypervisor:
        lines += _item("times", f"not emulated, under {hypervisor}")
    else:
        lines += _item("times", "not emulated, no hypervisor")
    lines += _item("started", _when(profile["started"]))
    for state in _state_of_recording(profile):
        lines += _item("recording", state)
    lines += _item("lost", _lost(profile))
    lines += _item("tracing", _cost(profile["cost"]))
    return lines


def _cpus(cpus: Sequence[int] | None) -> str:
    if cpus is None:
        return "CPUs unknown"
    return f"{len(cpus)} CPU{'' if len(cpus) == 1 else 's'}"


def _when(started: Numbers | None) -> str:
    if not started or not started.get("wall_ns"):
        return "not recorded"
    wall = datetime.fromtimestamp(started["wall_ns"] // 10**9, UTC)
    return f"{wall:%Y-%m-%d %H:%M:%S} UTC"


def _state_of_recording(profile: Numbers) -> list[str]:
    states = []
    if profile["interrupted"]:
        states.append("interrupted: what was seen until then")
    if not profile["complete"]:
        states.append("not complete: the session did not end in order")
    if profile["missing_parts"]:
        states.append("parts are missing: " + ", ".join(profile["missing_parts"]))
    return states


def _lost(profile: Numbers) -> str:
    lost = profile["lost"]
    if not lost:
        return "not recorded"
    some = [f"{cause} {format_count(count)}" for cause, count in lost.items() if count]
    if some:
        return "; ".join(some)
    return "nothing (" + ", ".join(lost) + ": 0)"


def _cost(cost: Numbers) -> str:
    if not cost["measured"]:
        return f"what it cost was not measured: {cost['reason']}"
    parts = []
    if cost["ratio"]:
        parts.append(
            f"{cost['ratio']:.2f} x the calls' time ({format_ns(cost['median_open_ns'])} with, "
            f"{format_ns(cost['median_closed_ns'])} without; medians of "
            f"{len(cost['open_ns'])} and {len(cost['closed_ns'])} rounds in turn)"
        )
    if cost["bpf"]:
        parts.append(
            f"BPF ran {format_ns(cost['bpf_run_ns'])} in "
            f"{format_count(cost['bpf_run_count'])} runs of {len(cost['bpf'])} handlers per round"
        )
    return "; ".join(parts) or "what it cost was not measured"


def _coverage(profile: Numbers) -> list[str]:
    if not profile["coverage"]:
        return ["coverage   not recorded"]
    rows = []
    for phase in profile["coverage"]:
        attach = str(phase.get("attach") or "-")
        method = str(phase.get("method") or "").replace("raw_tracepoint", "raw_tp")
        proof = str(phase.get("state", ""))
        if phase.get("expected") is not None and phase.get("seen") is not None:
            proof += f" {phase['seen']}/{phase['expected']}"
        rows.append(
            [
                _clip(str(phase.get("phase", "")), 15),
                _clip(attach + (f" ({method})" if method else ""), 35),
                _clip(str(phase.get("unit", "")), 9),
                _clip(proof, 15),
            ]
        )
    lines = _table(rows, ["coverage", "attach point", "unit", "proof"])
    reasons = [
        f"{phase['phase']}: {phase['reason']}"
        for phase in profile["coverage"]
        if phase.get("reason") and phase.get("state") in ("missing", "not_separable")
    ]
    for reason in reasons:
        lines += _wrapped("  ", reason)
    if profile["unproved_kinds"]:
        lines += _wrapped("  ", "not calibrated: " + ", ".join(profile["unproved_kinds"]))
    return lines


# ---- what became of the pages ----------------------------------------------------------


def _counts(profile: Numbers) -> list[str]:
    calls, migrations = profile["calls"], profile["migrations"]
    entries, outcomes, folios = profile["entries"], profile["outcomes"], profile["folios"]
    returned = [f"{format_count(calls['returned_zero'])} returned 0"]
    if calls["returned_positive"]:
        returned.append(f"{format_count(calls['returned_positive'])} a positive count")
    for name, count in calls["errors"].items():
        returned.append(f"{format_count(count)} -{name}")
    if calls["without_end"]:
        returned.append(f"{format_count(calls['without_end'])} not seen to return")
    threads = f" from {calls['threads']} threads" if calls["threads"] > 1 else ""
    lines = _item("calls", f"{format_count(calls['count'])}{threads}: {', '.join(returned)}")
    for name in calls["errors"]:
        meaning = next((code.meaning for code in RETURN_CODES if code.name == name), "")
        lines += _item("", f"-{name}: {meaning}") if meaning else []
    text = format_count(migrations["count"])
    if migrations["failed"]:
        text += f", {format_count(migrations['failed'])} left folios behind"
    lines += _item("migrations", text)
    for other in migrations["without_call"]:
        lines += _item(
            "",
            f"{format_count(other['count'])} without a call ({other['name']}): "
            f"{format_count(other['moved_pages'])} pages moved, {format_ns(other['time_ns'])}",
        )
    sizes = [
        f"{format_count(count)} of {size} page{'' if size == '1' else 's'}"
        for size, count in folios["moved_by_size"].items()
    ]
    lines += _item(
        "folios",
        f"{format_count(folios['isolated'])} isolated, {format_count(folios['moved'])} moved"
        + (f" ({', '.join(sizes)})" if sizes else ""),
    )
    asked = entries["asked"]
    lines += _item("entries", f"{_big(asked)} asked for")
    for name, label in _OUTCOME_NAMES.items():
        count = outcomes[name]
        share = f"{100 * count / asked:6.1f} %" if asked else ""
        note = ""
        if name == "unknown" and count:
            note = "  " + ", ".join(
                f"{reason} {_big(number)}" for reason, number in profile["unknown_reasons"].items()
            )
        lines += _wrapped(
            " " * _LABEL, f"{label:<16}{_big(count):>11} {share}{note}", keep_spaces=True
        )
    if entries["untouched"]:
        lines += _item("status[]", f"left untouched for {format_count(entries['untouched'])}")
    reasons = {name: count for name, count in profile["entry_reasons"].items() if count}
    if reasons:
        lines += _item(
            "reasons",
            ", ".join(f"{name} {format_count(count)}" for name, count in reasons.items()),
        )
    return lines


def _agreement(profile: Numbers) -> list[str]:
    agreement = profile["agreement"]
    lines = _item(
        "witnesses",
        f"{format_count(agreement['checked'])} entries checked: "
        f"{format_count(agreement['agree'])} agree, "
        f"{format_count(agreement['silent'])} silent (status untouched), "
        f"{format_count(agreement['disagree'])} disagree; "
        f"{_big(agreement['unknown'])} unknown",
    )
    for entry in profile["disagreements"]:
        location = "nowhere asked" if entry["final_nid"] is None else _place(entry["final_nid"])
        text = (
            f"{entry['address']} (call {entry['call']}, entry {entry['entry']}) to node "
            f"{entry['target_nid']}: events say {entry['outcome']}, status says "
            f"{status_text(entry['status'])}, location {location}"
        )
        if entry["mapping"]:
            text += f", in {entry['mapping']}"
        lines += _item("", text)
    more = agreement["disagree"] - len(profile["disagreements"])
    if more > 0:
        lines += _item("", f"and {format_count(more)} more: mptrace dump --format jsonl")
    return lines


def _place(nid: int) -> str:
    return f"node {nid}" if nid >= 0 else status_text(nid)


# ---- where the time went ------------------------------------------------------------------


def _time(profile: Numbers) -> list[str]:
    total = profile["calls"]["time_ns"]
    if not profile["calls"]["count"]:
        return ["time       no calls"]
    rows = [
        [
            "calls",
            "call",
            format_count(profile["calls"]["count"]),
            format_ns(total),
            "100",
            *_quantiles(profile["calls"]),
        ]
    ]
    notes = []
    for name, phase in profile["phases"].items():
        label = _PHASE_NAMES.get(name, name)
        if phase["total_ns"] is None:
            notes.append(f"{label}: {phase['state'].replace('_', ' ')}: {phase['reason'] or '-'}")
            continue
        share = "" if phase["share"] is None else f"{100 * phase['share']:.1f}"
        count = "" if name == "unattributed" else _short(phase["count"])
        rows.append(
            [label, phase["unit"], count, format_ns(phase["total_ns"]), share, *_quantiles(phase)]
        )
        if phase["state"] == "unproved":
            notes.append(f"{label}: unproved" + (f": {phase['reason']}" if phase["reason"] else ""))
    blackout = profile["blackout"]
    if blackout["folios"]:
        rows.append(
            [
                "blackout",
                "folio",
                _short(blackout["folios"]),
                format_ns(blackout["total_ns"]),
                "",
                *_quantiles(blackout),
            ]
        )
    lines = _table(
        rows,
        ["time", "unit", "count", "total", "%", "p50", "p90", "p99", "max"],
        ("left", "left", *["right"] * 7),
    )
    for note in notes:
        lines += _wrapped("  ", note)
    if profile["phases"]["unattributed"]["total_ns"] < 0:
        lines += _wrapped("  ", "unattributed is negative: phases overlap, or calls were lost")
    if blackout["folios"]:
        text = (
            f"a folio was inaccessible in {format_count(blackout['windows'])} windows; "
            f"from first to last p50 {_ns(blackout['span']['p50'])}, "
            f"max {_ns(blackout['span']['max'])}"
        )
        if blackout["stayed"]["max"] is not None:
            text += f"; those that stayed all the same: max {_ns(blackout['stayed']['max'])}"
        lines += _wrapped("  ", text)
    return lines


def _quantiles(numbers: Numbers) -> list[str]:
    return [_ns(numbers[name]) for name in ("p50", "p90", "p99", "max")]


def _ns(value: int | None) -> str:
    return "" if value is None else format_ns(value)


def _movement(profile: Numbers) -> list[str]:
    rates = profile["rates"]
    if not rates["pages"]:
        return []
    lines = _item(
        "moved",
        f"{format_count(rates['pages'])} pages ({format_bytes(rates['bytes'])})"
        + (
            f" in {format_ns(rates['call_ns'])} of calls: "
            f"{format_count(round(rates['pages_per_s']))} pages/s, "
            f"{rates['bytes_per_s'] / 1e9:.3g} GB/s"
            if rates["pages_per_s"]
            else ""
        ),
    )
    cells = {(cell["from"], cell["to"]): cell["pages"] for cell in profile["matrix"]}
    targets = sorted({target for _, target in cells})
    head = ["from \\ to", *(f"node {nid}" for nid in targets)]
    rows = [
        [
            f"node {source}",
            *(
                format_count(cells[source, nid]) if (source, nid) in cells else "-"
                for nid in targets
            ),
        ]
        for source in sorted({source for source, _ in cells})
    ]
    # Many nodes: as many columns as fit, then the next ones below.
    for first in range(1, len(head), 5):
        part = slice(first, first + 5)
        lines += _table(
            [[row[0], *row[part]] for row in rows],
            [head[0], *head[part]],
            ("left", *["right"] * len(head[part])),
        )
    return lines


# ---- what went wrong -------------------------------------------------------------------------


def _failures(profile: Numbers) -> list[str]:
    """Pages that stayed, by cause; what to do about each, and where to read on."""
    groups = profile["failure_causes"]
    if not groups:
        return []
    rows = [
        [
            _short(group["count"]),
            _clip(group["cause"], 27),
            _clip(_told(group["statuses"]), 19),
            group["example"]["address"],
        ]
        for group in groups
    ]
    lines = _table(
        rows,
        ["stayed", "cause", "status told", "example"],
        ("right", "left", "left", "left"),
    )
    for group in groups:
        lines += _wrapped("  ", f"{group['cause']}: {group['meaning']}")
        mapping = group["example"]["mapping"]
        where = f"in {mapping}" if mapping not in (None, "anonymous") else ""
        seen = "; ".join(part for part in (group["evidence"], where) if part)
        if seen:
            lines += _wrapped("    ", seen)
        if group["remedy"]:
            lines += _wrapped("    -> ", group["remedy"])
    told: dict[int | None, int] = {}
    for group in groups:
        for each in group["statuses"]:
            told[each["status"]] = told.get(each["status"], 0) + each["count"]
    for status, count in sorted(told.items(), key=lambda item: -item[1]):
        row = page_status(status)
        text = f"{status_text(status)} {format_count(count)}"
        if row is not None:
            text += f": {row.meaning}" + (f" -> {row.remedy}" if row.remedy else "")
        lines += _wrapped("  ", text)
    lines += _wrapped("  ", "each page's evidence: mptrace explain")
    return lines


def _told(statuses: Sequence[Numbers]) -> str:
    """Statuses of one cause: the name of the only one, or each with its count."""
    if len(statuses) == 1:
        return status_text(statuses[0]["status"])
    return ", ".join(
        f"{status_text(each['status'])} {format_count(each['count'])}" for each in statuses
    )


def _histograms(profile: Numbers) -> list[str]:
    lines: list[str] = []
    named = {**profile["phases"], "blackout": profile["blackout"], "calls": profile["calls"]}
    for name, numbers in named.items():
        bins = numbers["histogram"]
        if not bins:
            continue
        if lines:
            lines.append("")
        lines.append(f"{_PHASE_NAMES.get(name, name)}, per {numbers.get('unit', 'call')}")
        most = max(count for _, count in bins)
        counts = dict(bins)
        low, high = min(counts), max(counts)
        for start in _doubling(low, high):
            count = counts.get(start, 0)
            bar = "#" * -(-count * _BAR // most)
            lines.append(f"  >= {format_ns(start):>7} {_short(count):>9} {bar}".rstrip())
    return lines


def _doubling(low: int, high: int) -> Iterable[int]:
    if low == 0:
        yield 0
        low = 1
    while low <= high:
        yield low
        low *= 2


# ---- text ---------------------------------------------------------------------------------------


def _item(label: str, text: str) -> list[str]:
    return _wrapped(f"{label:<{_LABEL}}", text)


def _wrapped(head: str, text: str, *, keep_spaces: bool = False) -> list[str]:
    if keep_spaces and len(head) + len(text) <= WIDTH:
        return [(head + text).rstrip()]
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    ) or [head.rstrip()]


def _table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], align: Sequence[str] = ()
) -> list[str]:
    text = tabulate(
        rows,
        headers=headers,
        tablefmt="plain",
        disable_numparse=True,
        colalign=tuple(align) or ("left",) * len(headers),
    )
    return [line.rstrip() for line in text.splitlines()]


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _short(count: int) -> str:
    """A count in at most 7 characters: 200,003 or 1.05M."""
    text = format_count(count)
    if len(text) <= 7:
        return text
    for unit, scale in (("M", 10**6), ("G", 10**9)):
        if count < 1000 * scale:
            return f"{count / scale:.2f}{unit}"
    return f"{count:.1e}"


def _big(count: int) -> str:
    return format_count(count) if count < 10**12 else f"{count:.3e}"

# SPDX-License-Identifier: GPL-2.0-or-later
"""The head of a report: the host, what was traced, and how well.  Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

from mptrace.reporting.text.layout import Numbers, clip, item, many, table, wrapped
from mptrace.reporting.text.recorder import recorder_text
from mptrace.units import format_bytes, format_count, format_ns

#: A longer reason is no sentence: older recordings have each attach point that was tried.
_REASON_LENGTH = 160


def head(profile: Numbers) -> list[str]:
    kernel = profile["kernel"]
    page_size = format_bytes(kernel["page_size"]) if kernel.get("page_size") else "unknown size"
    lines = item(
        "kernel",
        f"{kernel.get('release', 'unknown')} ({kernel.get('machine', 'unknown')}), "
        f"pages of {page_size}",
    )
    nodes = [
        f"{node['nid']}: {format_bytes(node.get('memory_bytes', 0))}, {_cpus(node.get('cpus'))}"
        for node in profile["nodes"]
    ]
    lines += item("nodes", "; ".join(nodes) or "not recorded")
    hypervisor = profile["hypervisor"]
    if profile["counted"]:
        lines += item("times", counted_text(profile["counted"]))
    elif profile["emulated"]:
        lines += item(
            "times", f"emulated ({hypervisor or 'unknown'}): times are ratios, not hardware's"
        )
    elif profile["emulated"] is None:
        lines += item("times", "not recorded whether emulated: take them as ratios")
    elif hypervisor:
        lines += item("times", f"not emulated, under {hypervisor}")
    else:
        lines += item("times", "not emulated, no hypervisor")
    lines += item("started", _when(profile["started"]))
    lines += _scope(profile)
    for state in states_of_recording(profile):
        lines += item("recording", state)
    lines += item("lost", _lost(profile))
    lines += item("tracing", _cost(profile["cost"]))
    if profile["recorder"]:
        lines += item("recorder", recorder_text(profile["recorder"]))
    if own := _own(profile["own"]):
        lines += item("own", own)
    return lines


def counted_text(counted: Numbers) -> str:
    """What a nanosecond is where instructions were counted."""
    copies = "each byte of a rep movsb is one" if counted["string_moves"] else "no erms"
    return f"instructions: 1 ns is one executed by {counted['cpu'] or 'the CPU'} ({copies})"


def _scope(profile: Numbers) -> list[str]:
    """Whose migrations were recorded, which of them, and what could not be seen."""
    lines = []
    if profile["scope"]:
        lines += item("traced", whose(profile["scope"]))
    filters = filters_text(profile["filters"])
    if filters:
        lines += item("filters", f"{'; '.join(filters)}: what does not fit was not recorded")
    if profile["rotation"]:
        rotation = profile["rotation"]
        lines += item("part", f"{parts_text(rotation)} of {rotation.get('of')}")
    if profile["tier"] == "tracepoints":
        why = str(profile["tier_reason"])
        if len(why) > _REASON_LENGTH:
            why = "'mptrace doctor' says why on that host, meta.json has it all"
        why = f": {why}" if why else ""
        lines += item("tier", f"tracepoints only, no probes in the kernel's functions{why}")
    label = "not seen"
    for sentence in profile["unseen"]:
        lines += item(label, str(sentence))
        label = ""
    return lines


def parts_text(rotation: Numbers) -> str:
    """Which recordings of a session that rotated were read."""
    numbers = rotation.get("numbers")
    if not numbers:
        return str(rotation.get("number"))
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def whose(scope: Numbers) -> str:
    """Whom a session without a driver was about."""
    kind = scope.get("kind")
    if kind == "pids":
        return "processes " + ", ".join(str(pid) for pid in scope.get("pids") or ())
    if kind == "user":
        return f"processes of user {scope.get('uid')}"
    if kind == "cgroup":
        return f"processes of cgroup {scope.get('cgroup')}"
    if kind == "command":
        status = scope.get("exit_status")
        ended = "" if status is None else f" (exit status {status})"
        return " ".join(str(word) for word in scope.get("command") or ()) + ended
    return "every process and kernel thread" if kind == "all" else str(kind)


def filters_text(filters: Numbers) -> list[str]:
    """Which migrations without a call were kept, a text for each filter."""
    found = []
    if filters.get("reasons"):
        found.append("reasons " + ", ".join(str(name) for name in filters["reasons"]))
    for key, words in (("from", "from node"), ("to", "to node")):
        if filters.get(key):
            found.append(f"{words} " + ", ".join(str(nid) for nid in filters[key]))
    if filters.get("min_ns"):
        found.append(f"at least {format_ns(filters['min_ns'])}")
    if filters.get("failed"):
        found.append("failed only")
    return found


def _cpus(cpus: Sequence[int] | None) -> str:
    if cpus is None:
        return "CPUs unknown"
    return many(len(cpus), "CPU")


def _when(started: Numbers | None) -> str:
    if not started or not started.get("wall_ns"):
        return "not recorded"
    wall = datetime.fromtimestamp(started["wall_ns"] // 10**9, UTC)
    return f"{wall:%Y-%m-%d %H:%M:%S} UTC"


def states_of_recording(profile: Numbers) -> list[str]:
    """In what a recording is not whole, but for what was lost."""
    states = []
    if profile["end_reason"]:
        states.append(f"ended before the session did: {profile['end_reason']}")
    if profile["interrupted"]:
        states.append("interrupted: what was seen until then")
    if not profile["complete"]:
        states.append("not complete: the session did not end in order")
    missing = profile["missing_parts"]
    if missing:
        some = "a part is" if len(missing) == 1 else "parts are"
        states.append(f"{some} missing: {', '.join(missing)}")
    return states


def _lost(profile: Numbers) -> str:
    lost = profile["lost"]
    if not lost:
        return "not recorded"
    some = [f"{cause} {format_count(count)}" for cause, count in lost.items() if count]
    if some:
        return "; ".join(some)
    return "nothing (" + ", ".join(lost) + ": 0)"


def _own(own: Numbers | None) -> str:
    """What was mptrace's own doing, and is in no sum."""
    units = (("calls", "call"), ("migrations", "migration"), ("pages", "page"), ("waits", "wait"))
    some = [many(own[name], what) for name, what in units if own[name]] if own else []
    if not some:
        return ""
    said = some[0] if len(some) == 1 else f"{', '.join(some[:-1])} and {some[-1]}"
    where = "column own of mptrace dump --format csv"
    return f"{said} of mptrace itself are left out of all sums: {where}"


def _cost(cost: Numbers) -> str:
    if not cost["measured"]:
        return f"what it cost was not measured: {cost['reason']}"
    parts = []
    if cost["ratio"]:
        time = "CPU time" if cost["is_cpu_time"] else "time"
        parts.append(
            f"{cost['ratio']:.2f} x the calls' {time} ({format_ns(cost['median_open_ns'])} with, "
            f"{format_ns(cost['median_closed_ns'])} without; medians of "
            f"{len(cost['open_ns'])} and {many(len(cost['closed_ns']), 'round')} in turn)"
        )
    else:
        parts.append(f"what it cost was not measured: {cost['ratio_reason']}")
    if cost["bpf"]:
        parts.append(
            f"BPF ran {format_ns(cost['bpf_run_ns'])} in "
            f"{many(cost['bpf_run_count'], 'run')} of {many(len(cost['bpf']), 'handler')} "
            "in one round"
        )
    return "; ".join(parts) or "what it cost was not measured"


def coverage(profile: Numbers) -> list[str]:
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
                str(phase.get("phase", "")),
                attach + (f" ({method})" if method else ""),
                str(phase.get("unit", "")),
                proof,
            ]
        )
    lines = table(
        rows, ["coverage", "attach point", "unit", "proof"], cuts={0: clip, 1: clip, 2: clip}
    )
    reasons = [
        f"{phase['phase']}: {phase['reason']}"
        for phase in profile["coverage"]
        if phase.get("reason") and _is_remarkable(phase)
    ]
    for reason in reasons:
        lines += wrapped("  ", reason)
    if profile["unproved_kinds"]:
        lines += wrapped("  ", "not calibrated: " + ", ".join(profile["unproved_kinds"]))
    return lines


def _is_remarkable(phase: Numbers) -> bool:
    """Whether the reason of a phase's state says more than that it was not calibrated."""
    refuted = phase.get("state") == "unproved" and phase.get("expected") is not None
    return refuted or phase.get("state") in ("missing", "not_separable")

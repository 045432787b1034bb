# SPDX-License-Identifier: GPL-2.0-or-later
"""Wall-clock times of the first screen as text.  Pure."""

from mptrace.reporting.text.layout import Numbers

#: A span of less is told in milliseconds.
_SHORT_NS = 10 * 10**9


def clock(moment: Numbers | None, *, ms: bool = False) -> str:
    """``06:17:15`` or ``06:17:15.123`` of ``{"monotonic_ns", "utc"}``; UTC."""
    if moment is None:
        return "unknown"
    if moment["utc"] is None:
        return f"monotonic {moment['monotonic_ns'] / 1e9:.3f} s"
    time = str(moment["utc"]).partition("T")[2]
    return time[:12] if ms else time[:8]


def moment(row: Numbers, name: str) -> Numbers | None:
    """The time ``NAME_ns`` of a row of JSON and, beside it, ``NAME_utc``; None: no time."""
    ns = row.get(f"{name}_ns")
    return {"monotonic_ns": ns, "utc": row.get(f"{name}_utc")} if ns else None


def day(moment: Numbers | None) -> str:
    """``2026-11-29``; "" where it is not known."""
    return "" if moment is None or moment["utc"] is None else str(moment["utc"])[:10]


def span_of(first: Numbers | None, last: Numbers | None) -> str:
    """``06:17:15-06:17:21``, shorter ones in ms; another day is named; "" of nothing."""
    if first is None or last is None:
        return ""
    ms = last["monotonic_ns"] - first["monotonic_ns"] < _SHORT_NS
    start, end = clock(first, ms=ms), clock(last, ms=ms)
    if first["utc"] is None:
        return f"{start} to {end}"
    if day(first) != day(last):
        return f"{day(first)} {start} to {day(last)} {end}"
    return start if start == end else f"{start}-{end}"

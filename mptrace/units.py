# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers to text and back: sizes, counts, times, address ranges.  Pure."""

import re

from mptrace.errors import UsageError

_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_TIME_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s)", re.IGNORECASE)
_RANGE = re.compile(r"(?:0x)?([0-9a-f]+)-(?:0x)?([0-9a-f]+)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` names: ``4096``, ``64k``, ``1.5G``, ``2MiB``.

    Suffixes are powers of 1024 whether or not they carry an ``i``.  Raises
    :class:`UsageError` for anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a size", "write bytes, or a number with k, M, G or T")
    return round(float(match[1]) * _SUFFIXES[match[2].lower()])


def parse_range(text: str) -> tuple[int, int]:
    """Return ``(start, end)`` of an address range ``0xSTART-0xEND``, end exclusive.

    Hexadecimal with or without ``0x``, as ``/proc/PID/maps`` prints it.  Raises
    :class:`UsageError` where it is not a range, or an empty one.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"'{text}' is not an address range", "write 0xSTART-0xEND, as in /proc/PID/maps"
        )
    start, end = int(match[1], 16), int(match[2], 16)
    if start >= end:
        raise UsageError(f"the address range '{text}' is empty", "its end must lie above its start")
    if end > 1 << 64:
        raise UsageError(f"'{text}' lies beyond 64-bit addresses")
    return start, end


def parse_ns(text: str) -> int:
    """Return the nanoseconds that ``text`` names: ``20ms``, ``500us``, ``1.5 s``, ``250ns``.

    Raises :class:`UsageError` for anything else, a bare number and zero, too.
    """
    match = _TIME.fullmatch(text.strip())
    found = round(float(match[1]) * _TIME_UNITS[match[2].lower()]) if match else 0
    if not found:
        raise UsageError(f"'{text}' is not a time", "write a number with ns, us, ms or s: 20ms")
    return found


def format_bytes(count: float) -> str:
    """Return ``count`` bytes with three significant digits: ``512 B``, ``1.95 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return _scaled(count, unit)
        count /= 1024
    return _scaled(count, "TiB")


def format_ns(ns: float) -> str:
    """Return a time given in nanoseconds with three significant digits: ``1.23 us``."""
    for unit in ("ns", "us", "ms"):
        # what would be rounded to 1000 is one of the next unit
        if abs(ns) < 999.5:
            return _scaled(ns, unit)
        ns /= 1000
    return _scaled(ns, "s")


def format_count(count: int) -> str:
    """Return a whole number with its thousands apart: ``200,003``."""
    return f"{count:,}"


def many(count: int, what: str, plural: str = "") -> str:
    """A count with its noun: ``1 page``, ``2 pages``, ``1 entry``, ``0 entries``.

    :param plural: what isn't made by an ``s``.
    """
    return f"{format_count(count)} {what if count == 1 else plural or what + 's'}"


def times(count: int) -> str:
    """How often: ``once``, ``2 times``."""
    return "once" if count == 1 else f"{format_count(count)} times"


def and_more(
    count: int, what: str, where: str = "", *, plural: str = "", of: str = "", inline: bool = False
) -> str:
    """How a list that was cut ends: ``and 3 more causes of 120 pages: --json``; "" for none.

    :param where: the option or command that shows the rest.
    :param of: what the rest sums up to.
    :param inline: the text goes on behind it: where the rest is stands in brackets.
    """
    if count <= 0:
        return ""
    noun = what if count == 1 else plural or f"{what}s"
    text = f"and {format_count(count)} more" + (f" {noun}" if what else "")
    text += f" of {of}" if of else ""
    if not where:
        return text
    return f"{text} ({where})" if inline else f"{text}: {where}"


def _scaled(value: float, unit: str) -> str:
    """Three significant digits also after rounding; a whole number as it is."""
    if float(value).is_integer() or abs(value) >= 99.95:
        return f"{value:.0f} {unit}"
    return f"{value:.{1 if abs(value) >= 9.995 else 2}f} {unit}"

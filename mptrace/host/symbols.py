# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be attached to: kallsyms, ftrace's list of functions, tracepoints.

The two lists have 100,000 lines and more, so each is read in one piece and
compared as sets; where there is no right to read them, they are absent.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

# tracefs by itself, and below debugfs where old kernels and habits have it.
_TRACEFS = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
_TEXT_TYPES = (b"t", b"T", b"w", b"W")
_DATA_TYPES = (b"d", b"D", b"b", b"B", b"r", b"R")


def tracefs(root: Path) -> Path | None:
    """Where tracefs is mounted and can be read, else None."""
    for place in _TRACEFS:
        path = root / place
        try:
            if (path / "events").is_dir():
                return path
        except OSError:
            continue
    return None


def kallsyms(root: Path) -> bytes:
    """The text of /proc/kallsyms, empty where it can't be read; reading it takes a while."""
    try:
        return (root / "proc/kallsyms").read_bytes()
    except OSError:
        return b""


def text_symbols(data: bytes, names: Collection[str]) -> frozenset[str]:
    """Those of the names that ``data`` of `kallsyms` has as text of the kernel itself.

    Exactly the name: a function of which only a ``.isra.0`` or ``.constprop.0``
    is left has other arguments than its prototype says.
    """
    wanted = {kind + b" " + name.encode(): name for name in names for kind in _TEXT_TYPES}
    # A line is "ffffffff81000000 T name"; a module's has "\t[module]" behind it.
    width = data.find(b" ") + 1
    return _pick(wanted, {line[width:] for line in data.split(b"\n")})


def variables(data: bytes, names: Collection[str]) -> dict[str, int]:
    """Addresses of those of the names that `kallsyms` has as data of the kernel itself."""
    found = {}
    for name in names:
        for line in _lines_ending(data, b" " + name.encode()):
            address, kind, *_ = line.split(b" ")
            # all zero where kptr_restrict hides it
            if kind in _DATA_TYPES and int(address, 16):
                found[name] = int(address, 16)
                break
    return found


def _lines_ending(data: bytes, end: bytes) -> Iterator[bytes]:
    """Lines that end with ``end``: one search for bytes takes 0.04 s, one for a pattern 0.5 s."""
    at = -1
    while (at := data.find(end + b"\n", at + 1)) >= 0:
        yield data[data.rfind(b"\n", 0, at) + 1 : at + len(end)]


def names_at(root: Path, addresses: Collection[int]) -> dict[int, str]:
    """Names that kallsyms has for exactly these addresses, modules included."""
    wanted = {f"{address:016x}".encode(): address for address in addresses}
    found: dict[int, str] = {}
    for line in kallsyms(root).split(b"\n"):
        address = wanted.get(line[:16])
        if address is not None:
            found.setdefault(address, line.split()[2].decode())
    return found


def traceable_functions(tracefs_path: Path | None, names: Collection[str]) -> frozenset[str] | None:
    """Those of the names that ftrace can attach to; None where its list can't be read."""
    if tracefs_path is None:
        return None
    try:
        data = (tracefs_path / "available_filter_functions").read_bytes()
    except OSError:
        return None
    return _pick({name.encode(): name for name in names}, set(data.split(b"\n")))


def present_tracepoints(tracefs_path: Path | None, names: Iterable[str]) -> frozenset[str]:
    """Those of the tracepoints ("category:name") that tracefs shows."""
    if tracefs_path is None:
        return frozenset()
    return frozenset(
        name for name in names if _exists(tracefs_path / "events" / name.replace(":", "/"))
    )


def _pick(wanted: dict[bytes, str], there: set[bytes]) -> frozenset[str]:
    return frozenset(name for line, name in wanted.items() if line in there)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False

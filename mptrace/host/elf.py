# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of functions in an ELF file, by where they lie in it.

The file is somebody else's and may say anything: what is read of it is bounded, and what
does not hold together has no names.  It is read, not mapped: whoever cuts it off meanwhile
would end this process.
"""

import os
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Table

#: Bytes of symbols, and of their names, that are read of one file at most.
_MOST_BYTES = 1 << 26
_MOST_HEADERS = 1 << 12
_MOST_SEGMENTS = 1 << 8
#: A name is cut off behind so many bytes.
_NAME_BYTES = 1 << 12
_PT_LOAD, _SHT_SYMTAB, _SHT_DYNSYM = 1, 2, 11
_FUNCTIONS = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
_SEGMENT = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("address", "<u8"),
        ("physical", "<u8"),
        ("bytes", "<u8"),
        ("memory", "<u8"),
        ("align", "<u8"),
    ]
)
_SECTION = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("address", "<u8"),
        ("offset", "<u8"),
        ("bytes", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("align", "<u8"),
        ("entry", "<u8"),
    ]
)


@dataclass(frozen=True)
class Functions:
    """Functions of one file; ``symbols`` in the order of their addresses, no two of one."""

    segments: Table
    symbols: Table
    names: bytes

    @property
    def nbytes(self) -> int:
        """How much memory it takes, about."""
        return self.segments.nbytes + self.symbols.nbytes + len(self.names)

    def at(self, offset: int) -> tuple[bytes, int] | None:
        """Name of the function that has the byte ``offset`` of the file, and its place in it.

        None where no function says that it has it.
        """
        address = self._address(offset)
        if address is None:
            return None
        starts: NDArray[np.uint64] = self.symbols["value"]
        row = int(np.searchsorted(starts, np.uint64(address), side="right")) - 1
        if row < 0:
            return None
        inside = address - int(starts[row])
        if inside >= int(self.symbols["size"][row]):
            return None
        start = int(self.symbols["name"][row])
        name = self.names[start : start + _NAME_BYTES].partition(b"\0")[0]
        return (name, inside) if name else None

    def _address(self, offset: int) -> int | None:
        for segment in self.segments:
            inside = offset - int(segment["offset"])
            if 0 <= inside < int(segment["bytes"]):
                # beyond 64 bits nothing lies
                found = int(segment["address"]) + inside
                return found if found < 1 << 64 else None
        return None


def functions(fd: int) -> Functions | None:
    """Functions of the file that ``fd`` is; of its dynamic symbols where it has no others.

    None where it is no ELF file of 64 bits and little endian, or a damaged one.
    """
    try:
        return _functions(fd)
    except (OSError, OverflowError, ValueError, IndexError, MemoryError, struct.error):
        return None


def _functions(fd: int) -> Functions | None:
    header = os.pread(fd, 64, 0)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return None
    segments_at, sections_at = struct.unpack_from("<QQ", header, 32)
    segment_bytes, segments, section_bytes, sections = struct.unpack_from("<HHHH", header, 54)
    if segment_bytes != _SEGMENT.itemsize or section_bytes != _SECTION.itemsize:
        return None
    loads = _array(fd, segments_at, segments * segment_bytes, _SEGMENT)
    loads = loads[loads["type"] == _PT_LOAD]
    if loads.size > _MOST_SEGMENTS:
        return None
    table = _array(fd, sections_at, min(sections, _MOST_HEADERS) * section_bytes, _SECTION)
    for kind in (_SHT_SYMTAB, _SHT_DYNSYM):
        found = table[table["type"] == kind]
        if found.size:
            names = table[int(found["link"][0])]
            symbols = _array(fd, int(found["offset"][0]), int(found["bytes"][0]), _SYMBOL)
            text = _read(fd, int(names["offset"]), int(names["bytes"]))
            return Functions(loads, _of_functions(symbols), text)
    return Functions(loads, np.empty(0, _SYMBOL), b"")


def _of_functions(symbols: Table) -> Table:
    is_function = np.isin(symbols["info"] & 15, _FUNCTIONS)
    kept: Table = symbols[is_function & (symbols["section"] != 0) & (symbols["size"] != 0)]
    kept = kept[np.argsort(kept["value"], kind="stable")]
    first = np.ones(kept.size, np.bool_)
    first[1:] = kept["value"][1:] != kept["value"][:-1]
    different: Table = kept[first]
    return different


def _array(fd: int, offset: int, size: int, layout: "np.dtype[np.void]") -> Table:
    data = _read(fd, offset, size // layout.itemsize * layout.itemsize)
    found: Table = np.frombuffer(data, layout)
    return found


def _read(fd: int, offset: int, size: int) -> bytes:
    """Raises ValueError where it is not there, or too much."""
    if size > _MOST_BYTES or offset + size > os.fstat(fd).st_size:
        raise ValueError("a table lies outside of the file")
    parts, left = [], size
    while left:
        part = os.pread(fd, left, offset)
        if not part:
            raise ValueError("the file was cut off")
        parts.append(part)
        offset, left = offset + len(part), left - len(part)
    return b"".join(parts)

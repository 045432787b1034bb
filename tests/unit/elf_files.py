# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files of 64 bits with a segment and symbols, made byte by byte."""

import struct
from collections.abc import Sequence

FUNCTION, OBJECT = 2, 1
_SYMTAB, _STRTAB = 2, 3


def elf_of(
    symbols: Sequence[tuple[bytes, int, int, int]],
    *,
    offset: int = 0x1000,
    address: int = 0x401000,
    size: int = 0x2000,
    kind: int = _SYMTAB,
) -> bytes:
    """A file whose one segment has ``size`` bytes at ``offset``, loaded at ``address``.

    :param symbols: name, address, bytes and type of each.
    :param kind: of the section with the symbols, SHT_SYMTAB or SHT_DYNSYM.
    """
    names, table = b"\0", b"\0" * 24
    for name, value, length, of_type in symbols:
        table += struct.pack("<IBBHQQ", len(names), of_type, 0, 1, value, length)
        names += name + b"\0"
    end = offset + size
    sections = b"\0" * 64
    sections += struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, end, len(table), 2, 0, 8, 24)
    sections += struct.pack(
        "<IIQQQQIIQQ", 0, _STRTAB, 0, 0, end + len(table), len(names), 0, 0, 1, 0
    )
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    sections_at = end + len(table) + len(names)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, address, 64, sections_at, 0, 64, 56, 1, 64, 3, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, offset, address, address, size, size, 0x1000)
    return (header + segment).ljust(end, b"\0") + table + names + sections

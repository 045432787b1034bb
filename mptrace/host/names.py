# SPDX-License-Identifier: GPL-2.0-or-later
"""Names in the running kernel: functions, structs, symbols, operations of file systems.

Operations and variables are read from the kernel's memory through /proc/kcore
(root, no lockdown): which function stands in ``minix_aops.migrate_folio``, or none.
"""

import struct
from functools import cached_property
from pathlib import Path

from mptrace.errors import HostError
from mptrace.host import kernel_symbols, kernel_types

_PT_LOAD = 1


class Names:
    """Answers of the running kernel; `scenarios.base.Known` says what can be asked."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def function(self, name: str) -> bool:
        """Whether BTF has a function of this name."""
        return self._types is not None and name in self._types.prototypes([name])

    def member(self, name: str) -> bool:
        """Whether BTF has this ``struct.member``, or the struct where there is no dot."""
        if self._types is None:
            return False
        if "." in name:
            return name in self._types.offsets([name])
        return name in self._types.sizes([name])

    def operation(self, table: str, member: str, struct_name: str = "") -> str | None:
        """Name of the function in ``table``'s ``member``; "" for NULL, None where it can't be read.

        ``struct_name`` is the table's type, ``address_space_operations`` by default.
        """
        address = self._symbols.get(table)
        name = f"{struct_name or 'address_space_operations'}.{member}"
        if not address or self._types is None:
            return None
        offset = self._types.offsets([name]).get(name)
        data = None if offset is None else self._read(address + offset, 8)
        if data is None:
            return None
        pointer = int.from_bytes(data, "little")
        return self._name_at.get(pointer, f"{pointer:#x}") if pointer else ""

    def size(self, struct_name: str) -> int | None:
        """Bytes of a struct by BTF; None where it is not there or can't be read."""
        return None if self._types is None else self._types.sizes([struct_name]).get(struct_name)

    def word(self, variable: str) -> int | None:
        """Value of an 8-byte variable of the kernel itself; None where it can't be read."""
        # not `_symbols`: it parses every line of kallsyms, ten times as long
        address = kernel_symbols.read(self._root, (), (variable,)).variables.get(variable)
        data = None if address is None else self._read(address, 8)
        return int.from_bytes(data, "little") if data and len(data) == 8 else None

    @cached_property
    def _types(self) -> kernel_types.KernelTypes | None:
        try:
            return kernel_types.running()
        except HostError:
            return None

    @cached_property
    def _symbols(self) -> dict[str, int]:
        # a module loaded later is not in it: scenarios load theirs before they are judged
        try:
            lines = (self._root / "proc/kallsyms").read_text().splitlines()
        except OSError:
            return {}
        parts = (line.split(None, 3) for line in lines)
        return {fields[2]: int(fields[0], 16) for fields in parts}

    @cached_property
    def _name_at(self) -> dict[int, str]:
        return {address: name for name, address in self._symbols.items()}

    def _read(self, address: int, size: int) -> bytes | None:
        """Kernel memory at an address, by the program headers of /proc/kcore."""
        try:
            with (self._root / "proc/kcore").open("rb", buffering=0) as file:
                header = file.read(64)
                (first,) = struct.unpack_from("<Q", header, 32)
                entry, count = struct.unpack_from("<HH", header, 54)
                file.seek(first)
                table = file.read(entry * count)
                for index in range(count):
                    kind, _, offset, start = struct.unpack_from("<IIQQ", table, index * entry)
                    (length,) = struct.unpack_from("<Q", table, index * entry + 32)
                    if kind == _PT_LOAD and start <= address < start + length:
                        file.seek(offset + address - start)
                        return file.read(size)
        except (OSError, struct.error):
            return None
        return None

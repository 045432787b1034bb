# SPDX-License-Identifier: GPL-2.0-or-later
"""Which function of the running kernel an address is in, by kallsyms."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mptrace.host.symbols import kallsyms

#: Bytes that a function of the kernel itself has at the most, as far as anybody says.
_MOST_BYTES = 1 << 20
#: And one of a BPF program, where another may have been loaded since.
_BPF_BYTES = 1 << 12
_PIECE_BYTES = 1 << 16
#: Where kallsyms says that BPF programs and their trampolines are.
BPF = "bpf"
_TEXT = re.compile(rb"^([0-9a-f]+) [tTwW] (\S+)(?:\t\[(\S+)\])?$", re.MULTILINE)


class KernelFunction(NamedTuple):
    """Where an address is; ``module`` is "" in the kernel itself."""

    name: str
    module: str
    offset: int


@dataclass(frozen=True)
class _Module:
    start: int
    end: int


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, some at a time."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start + _PIECE_BYTES)
        end = len(data) if end < 0 else end
        yield data[start:end]
        start = end


class KernelFunctions:
    """Functions of the kernel, its modules and BPF programs."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._modules: dict[str, _Module] | None = None
        self._starts: list[int] = []
        self._names: list[tuple[bytes, bytes]] = []

    def renew(self) -> None:
        """Read kallsyms, unless that was done and no module came or went since."""
        modules = self._modules_now()
        if modules == self._modules:
            return
        self._modules = modules
        found = []
        for part in _pieces(kallsyms(self._root)):
            # between two of them another thread may go on
            found += [(int(at, 16), name, module) for at, name, module in _TEXT.findall(part)]
        found.sort()
        # all zero where kptr_restrict hides them
        found = [each for each in found if each[0]]
        self._starts = [start for start, _, _ in found]
        self._names = [(name, module) for _, name, module in found]

    @property
    def are_known(self) -> bool:
        """Whether kallsyms could be read."""
        return bool(self._starts)

    def at(self, address: int) -> KernelFunction | None:
        """The function that an address is in, None where nothing says so; of `renew`'s time."""
        row = bisect_right(self._starts, address) - 1
        if row < 0:
            return None
        # several names of one place: the first, always the same
        while row and self._starts[row - 1] == self._starts[row]:
            row -= 1
        name, module = (each.decode(errors="replace") for each in self._names[row])
        offset = address - self._starts[row]
        bounds = (self._modules or {}).get(module)
        if module and module != BPF:
            if bounds is None or not bounds.start <= address < bounds.end:
                return None
        elif offset >= (_BPF_BYTES if module == BPF else _MOST_BYTES):
            return None
        return KernelFunction(name, module, offset)

    def _modules_now(self) -> dict[str, _Module]:
        try:
            lines = (self._root / "proc/modules").read_text(errors="replace").splitlines()
        except OSError:
            return {}
        found = {}
        for line in lines:
            fields = line.split()
            if len(fields) >= 6:
                start = int(fields[5], 16)
                found[fields[0]] = _Module(start, start + int(fields[1]))
        return found

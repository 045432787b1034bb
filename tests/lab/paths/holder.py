# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that has memory: the one whose pages are moved, or that lets the kernel move them.

Run as ``python -m paths.holder PAGES [--node N] ...``: it maps and touches PAGES base
pages, writes one line of JSON (``pid``, ``address``, ``pages``) and obeys words on its
standard input, one a line, answering each with a line; it ends at the input's end.
"""

import argparse
import ctypes
import json
import mmap
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
#: libnuma has the system calls of memory policies and its own, higher-level ones.
LIBNUMA = ctypes.CDLL("libnuma.so.1", use_errno=True)
MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 4, 14, 15
MADV_POPULATE_WRITE, MADV_SOFT_OFFLINE = 23, 101
MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND = 0, 1, 2
MPOL_MF_MOVE = 2


def check(result: int, what: str) -> int:
    """``result``, unless it says that ``what`` failed (OSError)."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def madvise(address: int, size: int, advice: int) -> None:
    """madvise(2)."""
    call = LIBC.madvise
    check(call(ctypes.c_void_p(address), ctypes.c_size_t(size), advice), f"madvise {advice}")


def mbind(address: int, size: int, policy: int, nid: int, flags: int = 0) -> None:
    """mbind(2), by libnuma, to the one node ``nid``."""
    mask = ctypes.c_ulong(0 if policy == MPOL_DEFAULT else 1 << nid)
    call = LIBNUMA.mbind
    call.restype = ctypes.c_long
    result = call(
        ctypes.c_void_p(address),
        ctypes.c_ulong(size),
        policy,
        ctypes.byref(mask),
        ctypes.c_ulong(64),
        flags,
    )
    check(result, f"mbind to node {nid}")


class Mapping:
    """Private anonymous memory of ``pages`` base pages; addresses are those of user space."""

    def __init__(self, pages: int, *, huge: bool = False) -> None:
        self.pages = pages
        size = pages * PAGE
        # a page without access on either side, so that it stays a mapping of its own
        self._map = mmap.mmap(-1, size + 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = first + PAGE
        for guard in (first, self.address + size):
            result = LIBC.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0)
            check(result, "mprotect")
        madvise(self.address, size, MADV_HUGEPAGE if huge else MADV_NOHUGEPAGE)

    def fill(self) -> None:
        """Have all pages, by one system call."""
        madvise(self.address, self.pages * PAGE, MADV_POPULATE_WRITE)

    def touch(self) -> None:
        """Write to each page."""
        for at in range(PAGE, (self.pages + 1) * PAGE, PAGE):
            self._map[at] = 1 + self._map[at] % 100

    def holes(self, keep: int) -> None:
        """Give back all pages but every ``keep``-th."""
        for first in range(0, self.pages, keep):
            count = min(keep, self.pages - first) - 1
            if count:
                madvise(self.address + (first + 1) * PAGE, count * PAGE, MADV_DONTNEED)


def on_nodes(pid: int, address: int) -> dict[int, int]:
    """Pages per node of the mapping at ``address`` of process ``pid``, by its numa_maps."""
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        words = line.split()
        if int(words[0], 16) == address:
            return {
                int(word[1 : word.index("=")]): int(word.partition("=")[2])
                for word in words
                if word[0] == "N" and word[1].isdigit()
            }
    return {}


class Holder:
    """The parent's side: starts the process, talks to it, ends it."""

    def __init__(self, pages: int, *options: object) -> None:
        argv = [sys.executable, "-m", "paths.holder", str(pages), *map(str, options)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        about = json.loads(self._answer())
        self.pid: int = about["pid"]
        self.address: int = about["address"]
        self.pages: int = about["pages"]

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the holder died"
        return line

    def tell(self, *words: object) -> Any:
        """Say ``words``; the holder's answer."""
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        return json.loads(self._answer())

    def nodes(self) -> dict[int, int]:
        """Pages of its memory per node."""
        return on_nodes(self.pid, self.address)

    def __enter__(self) -> "Holder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _serve(arguments: argparse.Namespace) -> None:
    if arguments.cgroup:  # before there is memory to charge
        Path(arguments.cgroup, "cgroup.procs").write_text(str(os.getpid()))
    mapping = Mapping(arguments.pages, huge=arguments.huge)
    size = arguments.pages * PAGE
    if arguments.node is not None:
        mbind(mapping.address, size, MPOL_BIND, arguments.node)
    mapping.fill()
    if arguments.free:  # nothing binds it any more
        mbind(mapping.address, size, MPOL_DEFAULT, 0)
    if arguments.keep:
        mapping.holes(arguments.keep)
    about = {"pid": os.getpid(), "address": mapping.address, "pages": arguments.pages}
    print(json.dumps(about), flush=True)
    busy = threading.Event()
    failed: Counter[int] = Counter()

    def touch_on() -> None:
        while busy.is_set():
            mapping.touch()

    for line in sys.stdin:
        word, *values = line.split()
        if word == "touch":
            mapping.touch()
        elif word == "busy":
            busy.set()
            threading.Thread(target=touch_on, daemon=True).start()
        elif word == "idle":
            busy.clear()
        elif word == "mbind":
            mbind(mapping.address, size, MPOL_BIND, int(values[0]), MPOL_MF_MOVE)
        elif word == "soft-offline":
            for page in range(int(values[0])):
                try:
                    madvise(mapping.address + page * PAGE, PAGE, MADV_SOFT_OFFLINE)
                except OSError as error:
                    failed[error.errno or 0] += 1
        else:
            raise ValueError(word)
        print(json.dumps({"failed": dict(failed)}), flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pages", type=int)
    parser.add_argument("--node", type=int)
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--keep", type=int)
    parser.add_argument("--cgroup")
    parser.add_argument("--huge", action="store_true")
    _serve(parser.parse_args())


if __name__ == "__main__":
    main()

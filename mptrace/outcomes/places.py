# SPDX-License-Identifier: GPL-2.0-or-later
"""A mapping of a process in words: heap, stack, a file with an offset, shared memory.  Pure."""

from dataclasses import dataclass
from typing import Any

_DELETED = " (deleted)"
_SHM = "/dev/shm/"
#: How names of shared memory begin: where shm_open(3) puts it, memfd_create(2), shmget(2).
_SHARED = (_SHM, "/memfd:", "/SYSV")
#: And the name of a shared mapping of no file: shmem_zero_setup() of mm/shmem.c.
_SHARED_ANONYMOUS = "/dev/zero (deleted)"
_HUGETLB = "/anon_hugepage"
_ANONYMOUS, _ANONYMOUS_SHARED = "[anon:", "[anon_shmem:"


@dataclass(frozen=True)
class Place:
    """What lies at an address.

    ``kind``: "heap", "stack", "anonymous", "hugetlb", "shared_memory", "file" or "special"
    (of the kernel: "[vdso]"), "" where it is unknown; then ``why_unknown`` says why.
    ``name`` is the path or the name that the process gave, "" without one; ``offset`` bytes
    in the file, None without one; ``dev``: major << 20 | minor; start and end of the mapping.
    All values are JSON-able.
    """

    kind: str = ""
    name: str = ""
    offset: int | None = None
    dev: int = 0
    inode: int = 0
    perms: str = ""
    start: int = 0
    end: int = 0
    is_deleted: bool = False
    why_unknown: str = ""
    #: Whether the recording has mappings at all.
    is_recorded: bool = True

    @classmethod
    def unknown(cls, why: str, *, is_recorded: bool = True) -> "Place":
        """One of which nothing is known."""
        return cls(why_unknown=why, is_recorded=is_recorded)

    @property
    def is_known(self) -> bool:
        """Whether something is known."""
        return bool(self.kind)

    @property
    def general(self) -> str:
        """In words, without the offset; "" where it is unknown."""
        return self._words("")

    @property
    def text(self) -> str:
        """In words: "heap", "/usr/lib/libc.so.6+0x1c000"; "" where it is unknown."""
        return self._words("" if self.offset is None else f"+{self.offset:#x}")

    def as_dict(self) -> dict[str, Any] | None:
        """For JSON; of an unknown one ``what`` is None."""
        if not self.is_known:
            return {"what": None, "why_unknown": self.why_unknown}
        device = f"{self.dev >> 20}:{self.dev & 0xFFFFF}" if self.inode else None
        return {
            "what": self.text,
            "kind": self.kind,
            "name": self.name or None,
            "offset": self.offset,
            "device": device,
            "inode": self.inode or None,
            "perms": self.perms,
            "start": hex(self.start),
            "end": hex(self.end),
            "deleted": self.is_deleted,
            "why_unknown": "",
        }

    def _words(self, offset: str) -> str:
        deleted = _DELETED if self.is_deleted else ""
        if self.kind == "file":
            return f"{self.name}{offset}{deleted}"
        if self.kind == "shared_memory":
            ending = deleted if self.name.startswith(_SHM) else ""
            return f"shared memory {self.name}{offset}{ending}"
        if self.kind == "hugetlb":
            return "anonymous hugetlb"
        if self.kind == "anonymous" and self.name:
            return f"anonymous ({self.name})"
        return self.name if self.kind == "special" else self.kind


def place_of(row: Any, address: int) -> Place:
    """What lies at an address inside a row of `mappings`."""
    name = bytes(row["name"]).decode("utf-8", "replace")
    inode, perms = int(row["inode"]), bytes(row["perms"]).decode("ascii", "replace")
    offset = int(row["offset"]) + address - int(row["start"]) if inode else None
    is_deleted = name.endswith(_DELETED)
    plain = name.removesuffix(_DELETED)
    kind, shown = "file", plain
    if name.startswith(_ANONYMOUS):
        kind, shown = "anonymous", _named(name, _ANONYMOUS)
    elif name.startswith(_ANONYMOUS_SHARED):
        kind = "shared_memory"
    elif name == "[heap]":
        kind, shown = "heap", ""
    elif name == "[stack]" or name.startswith("[stack:"):
        kind, shown = "stack", ""
    elif plain == _HUGETLB:
        kind, shown = "hugetlb", ""
    elif plain.startswith(_SHARED) or name == _SHARED_ANONYMOUS:
        kind = "shared_memory"
    elif not name and not inode:
        kind = "anonymous"
    elif not inode and name.startswith("["):
        kind = "special"
    elif not name:
        shown = f"a file without a name (inode {inode})"
    return Place(
        kind=kind,
        name=shown,
        offset=offset,
        dev=int(row["dev"]),
        inode=inode,
        perms=perms,
        start=int(row["start"]),
        end=int(row["end"]),
        is_deleted=is_deleted,
    )


def _named(name: str, head: str) -> str:
    return name.removeprefix(head).removesuffix("]")

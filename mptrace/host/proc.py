# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of a process; the only place that reads its text.

A process is given by its number as /proc has it, or as ``"self"``; ``root`` is another tree
for tests.  All raise OSError where the process is gone (FileNotFoundError, or
ProcessLookupError where it goes while it is read) or may not be looked at: who asks knows
what that means to its user.  Bytes are names that may be in any encoding.

What one module alone asks for stays there: pagemap and fdinfo with who decodes them, what
/proc says of the system as a whole with who needs it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

#: Name of a field -> its value as it stands, without blanks around it.
Fields = Mapping[str, str]

_SLASH = Path("/")
_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_MAPPED = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+ \d+) *(.*)$", re.MULTILINE
)


class Stat(NamedTuple):
    """Of a process or thread."""

    comm: bytes
    is_kthread: bool


class Image(NamedTuple):
    """What tells a process from another of its number, and its memory from that before an exec.

    Addresses are 0 where they may not be seen, and of a kernel thread or zombie.
    """

    start_ticks: int  # since boot, in ticks of sysconf(SC_CLK_TCK)
    code: int  # where its program's code begins
    stack: int  # where its stack does
    is_kthread: bool


class Mapped(NamedTuple):
    """A line of maps: a mapping from ``start`` to ``end``, which is exclusive."""

    start: int
    end: int
    perms: str
    offset: int  # in the file, bytes
    file: bytes  # device and inode as they stand, "08:02 1234"; it ends in " 0" without a file
    name: bytes  # a path, "[heap]", or b""


def pids(root: Path = _SLASH) -> list[int]:
    """All processes that can be seen, in no order."""
    return [int(name) for name in os.listdir(root / "proc") if name.isdigit()]


def tids(pid: int | str, root: Path = _SLASH) -> list[int]:
    """Its threads."""
    return [int(name) for name in os.listdir(_of(pid, root) / "task")]


def is_there(pid: int, root: Path = _SLASH) -> bool:
    """Whether there is such a process or thread, a zombie included; raises nothing."""
    return _of(pid, root).exists()


def comm(pid: int | str, root: Path = _SLASH) -> bytes:
    """Its name, at most 15 bytes."""
    return (_of(pid, root) / "comm").read_bytes().rstrip(b"\n")


def owner(pid: int | str, root: Path = _SLASH) -> int:
    """Its effective user; root where the process is not dumpable."""
    return _of(pid, root).stat().st_uid


def stat(pid: int, tid: int | None = None, root: Path = _SLASH) -> Stat:
    """Name and kind of a process, or of its thread ``tid``."""
    place = _of(pid, root) if tid is None else _of(pid, root) / "task" / str(tid)
    name, fields = _stat(place)
    return Stat(name, bool(int(fields[6]) & _PF_KTHREAD))


def image(pid: int, root: Path = _SLASH) -> Image:
    """Which process this is, and with which program."""
    _, fields = _stat(_of(pid, root))
    start, code, stack = (int(fields[at]) for at in (19, 23, 25))
    return Image(start, code, stack, bool(int(fields[6]) & _PF_KTHREAD))


def status(pid: int | str, root: Path = _SLASH) -> Fields:
    """The fields of its status, as text: ``status(7)["Tgid"]``."""
    return _fields((_of(pid, root) / "status").read_text(errors="replace"))


def own_status(root: Path = _SLASH) -> Fields:
    """`status` of this process; {} where /proc can't be read, raises nothing."""
    try:
        return status("self", root)
    except OSError:
        return {}


def tgid(pid: int, root: Path = _SLASH) -> int:
    """The process that a process or thread belongs to."""
    return int(status(pid, root)["Tgid"])


def cgroup(pid: int | str, root: Path = _SLASH) -> str | None:
    """Path of its cgroup (v2) below the mount, "/..." beyond the namespace's; None without one."""
    for line in (_of(pid, root) / "cgroup").read_text(errors="replace").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return None


def kernel_stack(tid: int, root: Path = _SLASH) -> list[str]:
    """Functions of the kernel in which a thread sleeps, the innermost first; of root only."""
    lines = (_of(tid, root) / "stack").read_text().splitlines()
    return [line.split()[1].partition("+")[0] for line in lines]


def pid_namespace(pid: int | str, root: Path = _SLASH) -> str:
    """Its PID namespace, as ``pid:[4026531836]``."""
    return os.readlink(_of(pid, root) / "ns/pid")


def maps(pid: int | str, root: Path = _SLASH) -> bytes:
    """The text of its maps, for `mapped`; b"" of a kernel thread."""
    return (_of(pid, root) / "maps").read_bytes()


def maps_begin(pid: int, most: int, root: Path = _SLASH) -> tuple[bytes, bool]:
    """The text of the first ``most`` mappings, and whether there are more.

    The kernel gives some 4 KiB at once, and has the process's lock no longer than that takes.
    """
    text, lines = bytearray(), 0
    with (_of(pid, root) / "maps").open("rb", buffering=0) as file:
        while piece := file.read(1 << 16):
            text += piece
            lines += piece.count(b"\n")
            if lines > most:
                end = 0
                for _ in range(most):
                    end = text.index(b"\n", end) + 1
                return bytes(text[:end]), True
    return bytes(text), False


def mapped(text: bytes) -> Iterator[Mapped]:
    """The mappings in the text of maps, in order of addresses."""
    return map(_mapped_of, _MAPPED.finditer(text))


def smaps(pid: int | str, root: Path = _SLASH) -> list[tuple[Mapped, Fields]]:
    """Its mappings, each with its fields: ``"Rss": "4 kB"``; none of a kernel thread."""
    text = (_of(pid, root) / "smaps").read_bytes()
    found = list(_MAPPED.finditer(text))
    ends = [*(line.start() for line in found[1:]), len(text)]
    return [
        (_mapped_of(line), _fields(text[line.end() : end].decode(errors="replace")))
        for line, end in zip(found, ends, strict=False)  # of no mapping, one end
    ]


def smaps_bytes(fields: Fields, name: str) -> int:
    """A size of `smaps`, in bytes; 0 where this kernel does not have it."""
    return int(fields.get(name, "0").split()[0]) * 1024


def _of(pid: int | str, root: Path) -> Path:
    return root / "proc" / str(pid)


def _stat(place: Path) -> tuple[bytes, list[bytes]]:
    """The name in a stat, and the fields behind it: the third one of proc(5) is the first."""
    # the name may have parentheses and blanks itself
    _, _, rest = (place / "stat").read_bytes().partition(b" (")
    name, _, fields = rest.rpartition(b") ")
    return name, fields.split()


def _fields(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in lines}


def _mapped_of(line: re.Match[bytes]) -> Mapped:
    start, end, perms, offset, file, name = line.groups()
    return Mapped(int(start, 16), int(end, 16), perms.decode(), int(offset, 16), file, name)

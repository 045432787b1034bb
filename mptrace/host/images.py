# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process has mapped where: the files behind its return addresses, and their functions.

A process may end, or call exec(), between the moment that an address is of and the one in
which its mappings are read.  The kernel says with a stack where its program's own stack
begins; as long as /proc says the same it is that program.
"""

import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mptrace.host import elf, proc

#: Files whose functions are kept, and files that are kept open until they are read.
_MOST_KNOWN, _MOST_OPEN = 64, 128
#: Bytes that the functions of all files kept may take: more than those of one file.
_MOST_BYTES = 1 << 28
_FORMAT = "%x-%x"


#: A file as it was when it was looked at: device, inode, time of the last change, bytes.
FileId = tuple[int, int, int, int]


class UserFunction(NamedTuple):
    """Where an address is: ``path`` as maps has it, ``symbol`` b"" where none is known.

    ``offset`` is from the symbol, without one from the begin of the file (of memory that
    is no file's: from that of its mapping).
    """

    path: bytes
    symbol: bytes
    offset: int


class Gone(Exception):
    """A process's mappings can't be had; the message says why, in a few words."""


class Files:
    """Functions of the files that processes have mapped, by what identifies a file.

    One thread may hold files while another one reads functions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[FileId, elf.Functions | None] = OrderedDict()
        #: Descriptors (O_PATH) of those that were not read yet.
        self._unread: dict[FileId, int] = {}

    def hold(self, link: Path) -> FileId | None:
        """What identifies the file behind a link, so that its functions can be had later.

        None where there is none, where it is no regular file, or too many are open.
        """
        try:
            # it has no effect on what it opens: a device may mind being opened
            fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        told = os.fstat(fd)
        file = (told.st_dev, told.st_ino, told.st_mtime_ns, told.st_size)
        is_file = stat.S_ISREG(told.st_mode)
        with self._lock:
            if is_file and not self.has(file) and len(self._unread) < _MOST_OPEN:
                self._unread[file] = fd
            else:
                os.close(fd)
            return file if self.has(file) else None

    def has(self, file: FileId) -> bool:
        """Whether the functions of a file can still be had."""
        return file in self._known or file in self._unread

    def functions(self, file: FileId) -> elf.Functions | None:
        """Functions of a file, read the first time; None where it has none."""
        with self._lock:
            fd = self._unread.pop(file, -1)
            if fd < 0:
                if file in self._known:
                    self._known.move_to_end(file)
                return self._known.get(file)
        try:
            found = _read(fd)
        finally:
            os.close(fd)
        with self._lock:
            self._known[file] = found
            while len(self._known) > _MOST_KNOWN or self._bytes() > _MOST_BYTES:
                self._known.popitem(last=False)
        return found

    def _bytes(self) -> int:
        return sum(each.nbytes for each in self._known.values() if each is not None)

    def close(self) -> None:
        """Let all files go that were not read."""
        with self._lock:
            for fd in self._unread.values():
                os.close(fd)
            self._unread.clear()


def _read(path_fd: int) -> elf.Functions | None:
    try:
        fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return elf.functions(fd)
    finally:
        os.close(fd)


class Image:
    """The mappings that a process had, and the files at the addresses that were asked for."""

    def __init__(self, mappings: list[proc.Mapped], files: Files) -> None:
        self._starts = [each.start for each in mappings]
        self._mappings = mappings
        self._files = files
        #: By what maps says of a file; None: it has no functions.
        self._held: dict[tuple[bytes, bytes], FileId | None] = {}
        #: Why its process can't be asked any more, "" as long as that is not known.
        self.gone = ""
        #: When it was read, from when on it may be again (CLOCK_MONOTONIC), and how long that is.
        self.read_ns = self.next_ns = self.gap_ns = 0

    def hold(self, pid: int, addresses: Iterable[int], root: Path = Path("/")) -> None:
        """Look at the files that are mapped at these addresses; ``pid`` is the process."""
        for address in addresses:
            mapping = self._mapping(address)
            if mapping is None or not _is_file(mapping):
                continue
            key = (mapping.file, mapping.name)
            if key not in self._held:
                name = _FORMAT % (mapping.start, mapping.end)
                self._held[key] = self._files.hold(root / "proc" / str(pid) / "map_files" / name)

    def has(self, addresses: Iterable[int]) -> bool:
        """Whether all that can be known of these addresses is known."""
        for mapping in map(self._mapping, addresses):
            if mapping is None:
                return False
            if _is_file(mapping):
                key = (mapping.file, mapping.name)
                if key not in self._held:
                    return False
                file = self._held[key]
                if file is not None and not self._files.has(file):
                    return False
        return True

    def at(self, address: int, *, is_next: bool) -> UserFunction | None:
        """Where an address is, None where nothing is mapped.

        :param is_next: it is where a call returns to, which may be behind its function's end.
        """
        mapping = self._mapping(address)
        if mapping is None:
            return None
        offset = address - mapping.start + (mapping.offset if _is_file(mapping) else 0)
        file = self._held.get((mapping.file, mapping.name))
        functions = None if file is None else self._files.functions(file)
        found = functions.at(offset - is_next) if functions else None
        if found is None:
            return UserFunction(mapping.name, b"", offset)
        name, inside = found
        return UserFunction(mapping.name, name, inside + is_next)

    def has_data(self, address: int) -> bool:
        """Whether something is mapped at an address that no program can run."""
        mapping = self._mapping(address)
        return mapping is not None and "x" not in mapping.perms

    def _mapping(self, address: int) -> proc.Mapped | None:
        row = bisect_right(self._starts, address) - 1
        if row < 0 or address >= self._mappings[row].end:
            return None
        return self._mappings[row]


def image_of(
    tgid: int,
    tid: int,
    begin: int,
    addresses: Iterable[int],
    files: Files,
    root: Path = Path("/"),
) -> Image:
    """The mappings of a process now, and what is mapped at ``addresses``.

    :param begin: where the stack of its program begins, as the kernel said.
    :raises Gone: it has ended, or is another program.
    """
    for number in (tgid, tid):  # a process may go on without its first thread
        try:
            found = sorted(proc.mapped(proc.maps(number, root)))
        except (FileNotFoundError, ProcessLookupError):
            found = []
        except OSError as error:
            raise Gone(f"its mappings can't be read: {error.strerror}") from None
        if found:
            break
    else:
        raise Gone("it had ended")
    image = Image(found, files)
    image.hold(number, addresses, root)
    # afterwards: so it was that program while all this was read
    try:
        now = proc.image(number, root).stack
    except (OSError, ValueError, IndexError):
        raise Gone("it had ended") from None
    # that of a process that is ending is hidden
    if now != begin:
        raise Gone("it had called exec()" if now else "it had ended")
    return image


def _is_file(mapping: proc.Mapped) -> bool:
    return not mapping.file.endswith(b" 0")

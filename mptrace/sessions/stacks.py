# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of a session: read from the kernel's maps once each, numbered, and their frames named.

Numbers are given while the rings are drained; names are looked for by other threads, as a
file's symbols take longer than a ring can wait.  One looks at new processes, because they
end; another one reads the files that these had mapped.
"""

import errno
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mptrace.arrays import Table
from mptrace.host.images import Files, Gone, Image, image_of
from mptrace.host.kernel_functions import BPF, KernelFunctions
from mptrace.host.processes import in_initial_namespace
from mptrace.recording.joins import pair_ids, ranks
from mptrace.recording.stack_layouts import (
    CUT,
    FRAME_KERNEL,
    FRAME_USER,
    MODULE_BYTES,
    NO_STACK,
    STACK_FRAME,
    STACK_USE,
    SYMBOL_BYTES,
    UNNAMED,
    WITHOUT_STACK,
)

#: Different stacks, and frames of them all, that are recorded; beyond it they are unknown.
MAX_STACKS = 1 << 15
MAX_FRAMES = 1 << 17
#: Programs of processes whose mappings are kept.
_MOST_IMAGES = 256
#: A reading of mappings stands for so long; further ones come ever later.
_FRESH_NS, _AGAIN_NS, _MOST_AGAIN_NS = 1_000_000_000, 250_000_000, 60_000_000_000
#: Seconds that a session waits for names in all, when it ends or a round of it does.
NAMING_SECONDS = 30.0

#: Addresses of a stack, by "kernel" or "user" and its key in the kernel's map.
Read = Callable[[str, int], tuple[int, ...]]
Emit = Callable[[Table], None]

TOO_MANY = "too many different stacks"
NOT_THERE = "the kernel did not keep it"
_OF_USER = ("user", "tgid", "tid", "image")
_NOT_MAPPED = "nothing was mapped there when its mappings were read"
_NO_IMAGE = "can't tell whether it called exec()"
_NO_CODE = b"no code is there: the function before keeps no frame pointer"
_OTHER_NAMESPACE = "process numbers are another namespace's"
_REFUSALS = {
    errno.EEXIST: "another stack had its place",
    errno.ENOMEM: "there were too many different stacks",
    errno.EFAULT: "the kernel could not read it",
}
# Functions by which a probe of mptrace's was called.
_OF_PROBES = ("bpf_trace_run", "__bpf_trace_", "__traceiter_", "bpf_prog_", "bpf_trampoline_")


@dataclass(frozen=True)
class _Stack:
    """One to be named; ``tgid`` is 0 in the kernel."""

    number: int
    addresses: tuple[int, ...]
    tgid: int = 0
    tid: int = 0
    image: int = 0


class Stacks:
    """Takes what the kernel said of stacks; gives the rows of both tables.

    :param read: reads a stack from the kernel's map.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._emit: Emit = _drop
        self._lock = threading.Lock()
        self._numbers: dict[object, int] = {}
        #: What the kernel's keys stand for; they never stand for anything else later.
        self._of_key: dict[tuple[object, ...], int] = {}
        self._rows: dict[int, Table | None] = {}
        #: Stacks whose rows the present recording has, or will have.
        self._recorded: set[int] = set()
        self._frames = 0
        #: Those that have no names yet.
        self._waiting: dict[int, _Stack] = {}
        #: Stacks of processes to be looked at; a task of it is done when the stack is named.
        self._queue: queue.Queue[_Stack | None] = queue.Queue()
        self._seen: queue.Queue[tuple[_Stack, Image | str] | None] = queue.Queue()
        self._namer = _Namer()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"mptrace-{name}", daemon=True)
            for target, name in ((self._look, "processes"), (self._name, "stacks"))
        ]
        self._error: BaseException | None = None
        #: A file or a process is stuck, and the one who reads it: nobody waits once more.
        self._gave_up = False

    def start(self, emit: Emit) -> None:
        """Begin naming; ``emit`` gets rows of dtype STACK_FRAME, from another thread."""
        self._emit = emit
        # it takes a while, for which the rings might not wait later
        self._namer.renew()
        for thread in self._threads:
            thread.start()

    def add(self, samples: Table) -> tuple[Table, Table]:
        """Rows of ``stack_uses`` for these samples, shape (n,), and frames that are known now."""
        uses = np.zeros(samples.size, STACK_USE)
        for name in ("id", "tid", "tgid", "kind"):
            uses[name] = samples[name]
        ready: list[Table] = []
        if not samples.size:
            return uses, np.empty(0, STACK_FRAME)
        with self._lock:
            # few different ones, many samples
            keys, place = ranks(samples["kernel"])
            in_kernel = _Stack(0, ())
            found = [self._numbered(in_kernel, key, ready) for key in keys.tolist()]
            uses["kernel_stack"] = np.array(found, np.uint32)[place]
            group = pair_ids(pair_ids(samples["user"], samples["tgid"]), samples["image"])
            _, first, place = np.unique(group, return_index=True, return_inverse=True)
            found = []
            for sample in samples[first]:
                key, tgid, tid, image = (int(sample[name]) for name in _OF_USER)
                found.append(self._numbered(_Stack(0, (), tgid, tid, image), key, ready))
            uses["user_stack"] = np.array(found, np.uint32)[place]
        return uses, np.concatenate([np.empty(0, STACK_FRAME), *ready])

    def forget(self) -> Table:
        """Record each stack anew when it is met: another recording has begun.

        Returns the frames of those that the one before has no names of, addresses only.
        """
        with self._lock:
            rest = self._unnamed()
            self._recorded.clear()
            return rest

    def wait(self, seconds: float = NAMING_SECONDS) -> None:
        """Wait until all are named, no longer than that, and never again if that was too short."""
        with self._queue.all_tasks_done:
            self._gave_up |= not self._queue.all_tasks_done.wait_for(
                lambda: not self._queue.unfinished_tasks or self._error is not None,
                0 if self._gave_up else seconds,
            )

    def stop(self) -> Table:
        """Name no more; returns the frames of those that have no names yet, addresses only.

        Harmless when called again; raises what ended the thread.
        """
        self._stopped.set()
        self._queue.put(None)
        self._seen.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(0 if self._gave_up else NAMING_SECONDS)
                self._gave_up |= thread.is_alive()
        if not any(thread.is_alive() for thread in self._threads):
            self._namer.close()
        if self._error is not None:
            raise self._error
        with self._lock:
            rest = self._unnamed()
            self._waiting.clear()
            return rest

    def _unnamed(self) -> Table:
        """Frames of those that the present recording needs, and nobody has named yet."""
        waiting = (stack for number, stack in self._waiting.items() if number in self._recorded)
        return np.concatenate(
            [np.empty(0, STACK_FRAME), *(_unnamed(stack, UNNAMED) for stack in waiting)]
        )

    def _numbered(self, stack: _Stack, key: int, ready: list[Table]) -> int:
        """The number of a stack; its rows go to ``ready`` where they are there already."""
        if key == NO_STACK:
            return WITHOUT_STACK
        where = (stack.tgid, stack.image, key)
        number = self._of_key.get(where)
        if number is None:
            number = self._met(stack, key)
            if len(self._of_key) < 2 * MAX_STACKS:
                self._of_key[where] = number
        if number not in self._recorded:
            self._recorded.add(number)
            rows = self._rows[number]
            if rows is not None:
                ready.append(rows)
        return number

    def _met(self, stack: _Stack, key: int) -> int:
        """The number of one that has a new key; one of new content is to be named."""
        part = "user" if stack.tgid else "kernel"
        if key < 0:
            why = _REFUSALS.get(-key, f"the kernel said {errno.errorcode.get(-key, -key)}")
            return self._unknown(stack.tgid, why)
        addresses = self._read(part, key)
        if not addresses:
            return self._unknown(stack.tgid, NOT_THERE)
        content = (stack.tgid, stack.image, addresses)
        number = self._numbers.get(content)
        if number is not None:
            return number
        if len(self._numbers) >= MAX_STACKS or self._frames + len(addresses) > MAX_FRAMES:
            return self._unknown(stack.tgid, TOO_MANY)
        number = self._next(content)
        self._frames += len(addresses)
        self._waiting[number] = _Stack(number, addresses, stack.tgid, stack.tid, stack.image)
        self._queue.put(self._waiting[number])
        return number

    def _next(self, content: object) -> int:
        number = len(self._numbers) + 1
        self._numbers[content] = number
        self._rows[number] = None
        return number

    def _unknown(self, tgid: int, why: str) -> int:
        """The one stack that stands for all that are unknown for this reason."""
        content = (bool(tgid), why)
        number = self._numbers.get(content)
        if number is None:
            number = self._next(content)
            rows = np.zeros(1, STACK_FRAME)
            rows["stack"], rows["unknown"] = number, why.encode()
            rows["kind"] = FRAME_USER if tgid else FRAME_KERNEL
            self._rows[number] = rows
        return number

    # ---- the threads that look and name

    def _look(self) -> None:
        while (stack := self._queue.get()) is not None and not self._stopped.is_set():
            try:
                image = self._namer.look_at(stack)
            except BaseException as error:  # carried to the session's thread
                self._fail(error)
                return
            self._seen.put((stack, image))

    def _name(self) -> None:
        while (seen := self._seen.get()) is not None and not self._stopped.is_set():
            try:
                self._finish(*seen)
            except BaseException as error:  # carried to the session's thread
                self._fail(error)
                return

    def _fail(self, error: BaseException) -> None:
        with self._queue.all_tasks_done:
            self._error = self._error or error
            self._queue.all_tasks_done.notify_all()

    def _finish(self, stack: _Stack, image: Image | str) -> None:
        rows = self._namer.rows(stack, image)
        with self._lock:
            self._rows[stack.number] = rows
            # else it is recorded as it was
            is_waiting = self._waiting.pop(stack.number, None) is not None
            wanted = is_waiting and stack.number in self._recorded
        if wanted:
            self._emit(rows)
        self._queue.task_done()


class _Namer:
    """Asks the kernel and processes what is at addresses."""

    def __init__(self) -> None:
        self._kernel = KernelFunctions()
        self._files = Files()
        self._images: dict[tuple[int, int], Image | str] = {}
        try:
            self._why_nobody = "" if in_initial_namespace() else _OTHER_NAMESPACE
        except OSError:
            self._why_nobody = "/proc can't be read"

    def renew(self) -> None:
        """Read the kernel's functions, before anything is asked."""
        self._kernel.renew()

    def look_at(self, stack: _Stack) -> Image | str:
        """What the stack's process has mapped, or why that is not known; read if need be."""
        if not stack.tgid:
            return ""
        key = (stack.tgid, stack.image)
        before = self._images.get(key)
        # a process that was gone stays gone
        if isinstance(before, str) or (before and before.gone):
            return before
        if self._why_nobody or not stack.image:
            return self._images.setdefault(key, self._why_nobody or _NO_IMAGE)
        now = time.monotonic_ns()
        if before is not None:
            is_fresh = now - before.read_ns < _FRESH_NS and before.has(stack.addresses)
            if is_fresh or now < before.next_ns:
                return before
        found: Image | str
        try:
            where = (stack.tgid, stack.tid, stack.image)
            found = image_of(*where, stack.addresses, self._files)
            gap = _AGAIN_NS if before is None else min(2 * before.gap_ns, _MOST_AGAIN_NS)
            found.read_ns, found.gap_ns, found.next_ns = now, gap, time.monotonic_ns() + gap
        except Gone as gone:
            found = str(gone)
            if before is not None:
                # what it had mapped before is still true
                before.gone, found = str(gone), before
        self._images[key] = found
        while len(self._images) > _MOST_IMAGES:
            self._images.pop(next(iter(self._images)))
        return found

    def close(self) -> None:
        """Look at nothing any more."""
        self._files.close()

    def rows(self, stack: _Stack, image: Image | str) -> Table:
        """Frames of a stack, shape (n,), the innermost first; without those of the probe.

        :param image: what `look_at` said of it.
        """
        return self._user(stack, image) if stack.tgid else self._in_kernel(stack)

    def _in_kernel(self, stack: _Stack) -> Table:
        self._kernel.renew()
        rows = _unnamed(stack, "" if self._kernel.are_known else "kallsyms can't be read")
        is_probes = True
        kept = np.ones(rows.size, np.bool_)
        for place, address in enumerate(stack.addresses):
            # where a call returns to may be behind its function's end
            found = self._kernel.at(address - 1)
            is_probes = is_probes and found is not None and _is_probes(found.name, found.module)
            kept[place] = not is_probes
            if found is not None:
                rows["symbol"][place] = _cut(found.name.encode(), SYMBOL_BYTES)
                rows["module"][place] = _cut(found.module.encode(), MODULE_BYTES)
                rows["offset"][place] = found.offset + 1
        # of nothing but a probe's frames: as it stands
        rows = rows[kept] if kept.any() else rows
        rows["depth"] = np.arange(rows.size)
        return rows

    def _user(self, stack: _Stack, image: Image | str) -> Table:
        if isinstance(image, str):
            return _unnamed(stack, image)
        rows = _unnamed(stack, "")
        for place, (row, address) in enumerate(zip(rows, stack.addresses, strict=True)):
            if image.has_data(address):
                # what the kernel followed was no frame pointer: this is a guess, as is the rest
                row["unknown"] = _NO_CODE
                return rows[: place + 1]
            found = image.at(address, is_next=bool(row["depth"]))
            if found is None:
                row["unknown"] = (image.gone or _NOT_MAPPED).encode()
                continue
            row["symbol"] = _cut(found.symbol, SYMBOL_BYTES)
            row["module"] = _cut(found.path, MODULE_BYTES)
            row["offset"] = found.offset
        return rows


def _unnamed(stack: _Stack, why: str) -> Table:
    rows = np.zeros(len(stack.addresses), STACK_FRAME)
    rows["stack"], rows["tgid"] = stack.number, stack.tgid
    rows["kind"] = FRAME_USER if stack.tgid else FRAME_KERNEL
    rows["depth"] = np.arange(rows.size)
    rows["address"] = stack.addresses
    rows["unknown"] = why.encode()
    return rows


def _is_probes(name: str, module: str) -> bool:
    return module == BPF or name.startswith(_OF_PROBES)


def _cut(text: bytes, size: int) -> bytes:
    """A text that fits; a zero byte, at which numpy would end it, as what it may be read as."""
    text = text.replace(b"\0", b"?")
    return text if len(text) <= size else text[: size - len(CUT)] + CUT


def _drop(_rows: Table) -> None:
    """Before `start`."""

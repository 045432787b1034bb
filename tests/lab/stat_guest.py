# SPDX-License-Identifier: GPL-2.0-or-later
"""In the guest: mptrace stat and top while others migrate, and what the kernel says of it.

Shares nothing with mptrace.  The oracles are /proc/vmstat and a tracefs instance of
our own, with the tracepoint mm_migrate_pages and kprobe events on the waits; its clock
is CLOCK_MONOTONIC, as that of `mptrace stat --json`.

Prints one JSON object: what each mptrace printed and left with, and what was counted
beside it.  argv: the Python that has mptrace.
"""

import ctypes
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

PAGE = 4096
PAGES, PINNED, ROUNDS, STORM = 509, 11, 6, 211
SECONDS = 400
MPTRACE = [sys.argv[1], "-m", "mptrace"]
INSTANCE = Path("/sys/kernel/tracing/instances/stat-test")
KPROBES = Path("/sys/kernel/tracing/kprobe_events")
WAITS = ("migration_entry_wait", "pmd_migration_entry_wait", "migration_entry_wait_huge")
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p


class Memory:
    """Touched pages of this process, to be moved."""

    def __init__(self, pages):
        self.pages = pages
        # pages come from the node of the CPU that touches them first: node 0
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {0})
        # huge pages would move as one
        self.base = libc.mmap(None, ctypes.c_size_t(pages * PAGE), 3, 0x22, -1, ctypes.c_long(0))
        libc.madvise(ctypes.c_void_p(self.base), ctypes.c_size_t(pages * PAGE), 15)
        ctypes.memset(self.base, 1, pages * PAGE)
        os.sched_setaffinity(0, cpus)

    def pin(self, count):
        """Hold a reference to every other of the first pages by a pipe."""
        self.pipe = os.pipe()
        for number in range(count):
            vector = struct.pack("QQ", self.base + 2 * number * PAGE, PAGE)
            assert libc.vmsplice(self.pipe[1], vector, ctypes.c_ulong(1), 0) == PAGE

    def move(self, nid):
        """move_pages(2) of all to a node."""
        pages = (ctypes.c_void_p * self.pages)(
            *range(self.base, self.base + self.pages * PAGE, PAGE)
        )
        nodes = (ctypes.c_int * self.pages)(*[nid] * self.pages)
        status = (ctypes.c_int * self.pages)()
        number = ctypes.c_long(279)
        return libc.syscall(number, 0, ctypes.c_ulong(self.pages), pages, nodes, status, 2)


def mover():
    """Child: on each line of stdin move there and back, while a thread touches the pages."""
    memory = Memory(PAGES)
    memory.pin(PINNED)
    print("ready", flush=True)
    for _ in sys.stdin:
        done = threading.Event()

        def touch(done=done):
            while not done.is_set():
                for number in range(PAGES):
                    ctypes.memset(memory.base + number * PAGE, 2, 1)

        toucher = threading.Thread(target=touch)
        toucher.start()
        for nid in (1, 0) * ROUNDS:
            memory.move(nid)
        done.set()
        toucher.join()
        print("moved", toucher.native_id, flush=True)


def sleeper():
    """Child: 499 pages on whatever node; sleeps until stdin ends."""
    Memory(499)
    print("ready", flush=True)
    sys.stdin.read()


def storm(processes):
    """Processes that move three pages each and are gone."""
    for _ in range(processes):
        pid = os.fork()
        if not pid:
            memory = Memory(3)
            memory.move(1)
            memory.move(0)
            os._exit(0)
        os.waitpid(pid, 0)


def vmstat():
    """pgmigrate_success and pgmigrate_fail."""
    fields = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return [int(fields["pgmigrate_success"]), int(fields["pgmigrate_fail"])]


def start_tracing():
    """An instance with the tracepoint and the kprobe events on."""
    KPROBES.write_text("".join(f"p:statwaits/{name} {name}\n" for name in WAITS))
    INSTANCE.mkdir()
    (INSTANCE / "trace_clock").write_text("mono")
    (INSTANCE / "buffer_size_kb").write_text("16384")
    for name in ("migrate/mm_migrate_pages", *(f"statwaits/{name}" for name in WAITS)):
        (INSTANCE / "events" / name / "enable").write_text("1")


def stop_tracing():
    """Rows [ns, tid, kind, moved, failed, reason] of everything that was traced."""
    (INSTANCE / "tracing_on").write_text("0")
    lost = re.findall(r"overrun: (\d+)", "".join(
        p.read_text() for p in INSTANCE.glob("per_cpu/cpu*/stats")
    ))  # fmt: skip
    assert set(lost) == {"0"}, lost
    rows = []
    line_of = re.compile(r"-(\d+)\s+\[\d+\]\s+\S+\s+(\d+)\.(\d{6}): (\w+): (.*)")
    for line in (INSTANCE / "trace").read_text().splitlines():
        if line.startswith("#") or not (found := line_of.search(line)):
            continue
        tid, seconds, micro, name, rest = found.groups()
        ns = (int(seconds) * 10**6 + int(micro)) * 1000
        if name == "mm_migrate_pages":
            counts = dict(re.findall(r"(\w+)=(\w+)", rest))
            moved, failed = int(counts["nr_succeeded"]), int(counts["nr_failed"])
            rows.append([ns, int(tid), "migration", moved, failed, counts["reason"]])
        else:
            rows.append([ns, int(tid), "wait", 0, 0, ""])
    (INSTANCE / "events/enable").write_text("0")
    INSTANCE.rmdir()
    KPROBES.write_text("")
    return rows


def child(what):
    """A process of this file; it is ready when this returns."""
    started = subprocess.Popen(
        [sys.executable, __file__, sys.argv[1], what],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout.readline() == "ready\n"
    return started


class Stat:
    """`mptrace stat` in the background."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [*MPTRACE, "stat", *arguments, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()

    def wait_for_intervals(self, count):
        """Until it has printed so many more; it counts when it has printed the first."""
        with self.changed:
            wanted = len(self.lines) + count
            assert self.changed.wait_for(lambda: len(self.lines) >= wanted, SECONDS), self.lines

    def end(self, number=0):
        """Its values, exit status and complaints; after a signal, or when it ends by itself."""
        if number:
            self.process.send_signal(number)
        self.reader.join(SECONDS)
        errors = self.process.stderr.read()
        status = self.process.wait(SECONDS)
        return {"values": list(map(json.loads, self.lines)), "status": status, "errors": errors}


class Top:
    """`mptrace top` in a terminal of 80x24."""

    def __init__(self):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.environ["TERM"] = "xterm"
            os.execv(MPTRACE[0], [*MPTRACE, "top", "0.5"])
        self.text = b""

    def wait_for(self, text):
        """Read until the terminal was sent this."""
        deadline = time.monotonic() + SECONDS
        while text not in self.text:
            assert time.monotonic() < deadline, (text, self.text)
            if select.select([self.fd], [], [], 1)[0]:
                self.text += os.read(self.fd, 1 << 16)

    def press(self, key):
        """A key; what was read until now is forgotten."""
        self.text = b""
        os.write(self.fd, key)

    def end(self):
        """What it still wrote, and its exit status."""
        try:
            while data := os.read(self.fd, 1 << 16):
                self.text += data
        except OSError:  # EIO: the terminal's other end is closed
            pass
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return {"text": self.text.decode(errors="replace"), "status": status}


def main():
    """Provoke, count, print."""
    for name in ("kernel/numa_balancing", "vm/compaction_proactiveness"):
        Path("/proc/sys", name).write_text("0")
    moving, sleeping = child("mover"), child("sleeper")
    start_tracing()
    before = vmstat()
    everybody = Stat("0.5", "--by", "process", "--max-rows", "64")
    chosen = Stat("0.5", "-p", str(moving.pid))
    top = Top()
    everybody.wait_for_intervals(1)
    chosen.wait_for_intervals(1)
    top.wait_for(b"counting")

    moving.stdin.write("go\n")
    moving.stdin.flush()
    moved, toucher = moving.stdout.readline().split()
    assert moved == "moved"
    top.wait_for(b"statmover")
    top.press(b"s")
    # the terminal is only sent what changes
    top.wait_for(b"time")
    top.press(b"q")
    result = {"top": top.end()}
    subprocess.run(["migratepages", str(sleeping.pid), "0", "1"], check=True)
    subprocess.run(["migratepages", str(sleeping.pid), "1", "0"], check=True)
    compacting = subprocess.Popen(["sh", "-c", "echo 1 >/proc/sys/vm/compact_memory; exit"])
    compacting.wait()
    # twice more than half of the room, and time to make room; then more than there is
    for processes in (35, 35, STORM - 70):
        storm(processes)
        everybody.wait_for_intervals(2)
    moving.stdin.close()
    moving.wait()
    result["chosen"] = chosen.end()
    result["everybody"] = everybody.end(signal.SIGINT)
    after = vmstat()
    result["traced"] = stop_tracing()
    sleeping.stdin.close()
    result["vmstat"] = [b - a for a, b in zip(before, after, strict=True)]
    result["mover"] = {"tgid": moving.pid, "tids": [moving.pid, int(toucher)]}
    result["compacting"] = compacting.pid
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        Path("/proc/self/comm").write_text(f"stat{sys.argv[2]}")
        {"mover": mover, "sleeper": sleeper}[sys.argv[2]]()
    else:
        main()

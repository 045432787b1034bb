# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: three recordings of `mptrace record -a`, and what is known of them without it.

usage: conduct.py HOLDER, in an empty directory.  Leaves the recordings ``failures`` (pages in a
pipe that can't be moved), ``idle`` (for a while) and ``own`` (mptrace's own pages move, too), and
prints JSON.
"""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

PAGES, HELD = 211, 13
IDLE_S = 13


class Holder:
    """holder.c, with pages on node 0 of which some can't be moved."""

    def __init__(self, program):
        self._process = subprocess.Popen(
            [program, str(PAGES), str(HELD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        pid, address = self._process.stdout.readline().split()
        self.pid, self.address = int(pid), int(address, 16)

    def tell(self, line):
        """The numbers that it answers to a line."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return [int(number) for number in self._process.stdout.readline().split()]

    def end(self):
        """It ends with its input."""
        self._process.stdin.close()
        assert self._process.wait() == 0


@contextmanager
def recorded(name, *options):
    """``mptrace record -a`` from when it traces until it ended in order; its process."""
    argv = [sys.executable, "-m", "mptrace", "record", "-a", "--tier", "bpf", "-o", name, *options]
    prefix = ["numactl", "--preferred=0"]
    with subprocess.Popen([*prefix, *argv], stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if "tracing:" in line:
                break
        else:
            raise AssertionError("mptrace record ended")
        yield process
        if not options:
            process.send_signal(signal.SIGINT)
        print(process.stderr.read(), file=sys.stderr)
    assert process.returncode == 0, process.returncode


def counted():
    """The kernel's counts of base pages that moved, and that did not."""
    rows = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return [int(rows[name]) for name in ("pgmigrate_success", "pgmigrate_fail")]


def migrate(pid, source, target):
    """By migratepages(8): what the kernel counted meanwhile."""
    before = counted()
    subprocess.run(["migratepages", str(pid), str(source), str(target)], check=True)
    return [after - first for first, after in zip(before, counted(), strict=True)]


def failures(holder):
    """By migrate_pages(2), then by move_pages(2) of its own there, back, and there again."""
    with recorded("failures"):
        migrated = migrate(holder.pid, 0, 1)
        calls = []
        for target in (1, 0, 1):
            before = counted()
            (ret,) = holder.tell(f"move {target}")
            moved, failed = (now - then for then, now in zip(before, counted(), strict=True))
            where = holder.tell("where")
            calls.append(
                {"target": target, "ret": ret, "moved": moved, "failed": failed, "where": where}
            )
        return {"migrated": migrated, "calls": calls}


def own(holder):
    """The recorder's heap by somebody's move_pages(2), the holder's pages by migrate_pages(2)."""
    with recorded("own") as recorder:
        for line in Path(f"/proc/{recorder.pid}/maps").read_text().splitlines():
            if line.endswith("[heap]"):
                start, end = (int(number, 16) for number in line.split()[0].split("-"))
        pages = min((end - start) // 4096, 509)
        ret, there = holder.tell(f"push {recorder.pid} {start:x} {pages} 1")
        migrated = migrate(holder.pid, 1, 0)
    return {
        "recorder": recorder.pid,
        "pages": pages,
        "ret": ret,
        "there": there,
        "migrated": migrated,
    }


def main():
    """See the module."""
    # what moves pages here is what is asked to
    for name in ("kernel/numa_balancing", "vm/compaction_proactiveness"):
        Path("/proc/sys", name).write_text("0")
    holder = Holder(sys.argv[1])
    about = {"pid": holder.pid, "address": holder.address, "pages": PAGES, "held": HELD}
    about["failures"] = failures(holder)
    about["own"] = own(holder)
    with recorded("idle", "-d", str(IDLE_S)):
        pass
    holder.end()
    print(json.dumps(about))


if __name__ == "__main__":
    main()

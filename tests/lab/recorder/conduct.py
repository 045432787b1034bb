# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: sessions of `mptrace record` at one time over one workload.

usage: conduct.py COMPAT HOLDER, in an empty directory.  Leaves recordings, what the callers
kept (hostile/, mover/) and about.json: who was who, and when what was done.

`all` sees everything from the first to the last moment; `part.NNNNNN` are the same,
rotated; the others have a scope or filters each.
"""

import json
import os
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import numpy as np

from mptrace.recording.reader import Recording

HERE = Path(__file__).parent
PAGE = 4096
NOBODY = 65534
CGROUP = Path("/sys/fs/cgroup/mptrace-test")


class Peer:
    """A program that answers a line of JSON with one."""

    def __init__(self, *argv, **options):
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )

    def tell(self, line):
        """The answer to a line."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.listen()

    def listen(self):
        """The next line."""
        return json.loads(self._process.stdout.readline())

    def end(self):
        """It ends with its input; its exit status."""
        self._process.stdin.close()
        return self._process.wait()


class Caller:
    """tests/lab/mover.py, with some pages on node 0."""

    def __init__(self, name, pages, prefix=()):
        self.name, self.pages, self.made = name, pages, 0
        self._peer = Peer(*prefix, sys.executable, str(HERE.parent / "mover.py"))
        self.pid = self._peer.listen()["pid"]
        self.base = self.tell(do="map", kind="4k", pieces=[[pages, 0]])["base"]

    def tell(self, **command):
        """One command of the mover."""
        answer = self._peer.tell(json.dumps(command))
        assert "error" not in answer, answer
        return answer

    def move(self, label, target, *, of=None):
        """Move all pages of its own or of another one; what the caller knows of it."""
        of = of or self
        self.made += 1
        stem = Path(f"mover/{label}")
        addresses = array("Q", range(of.base, of.base + of.pages * PAGE, PAGE))
        stem.with_suffix(".addresses").write_bytes(addresses.tobytes())
        stem.with_suffix(".targets").write_bytes(array("i", [target] * of.pages).tobytes())
        out = stem.with_suffix(".out")
        out.touch()
        out.chmod(0o666)
        spec = {
            "count": of.pages,
            "pid": 0 if of is self else of.pid,
            "addresses": str(stem.with_suffix(".addresses")),
            "targets": str(stem.with_suffix(".targets")),
            "out": str(out),
            "fill": 0x7777,
        }
        told = self.tell(do="calls", calls=[spec])["calls"][0]
        return {**told, "label": label, "count": of.pages, "caller": self.name}

    def end(self):
        """It ends."""
        self._peer.end()


class Victim:
    """holder.c: its pages are moved by others."""

    def __init__(self, program, pages):
        self.pages = pages
        self._process = subprocess.Popen(
            [program, str(pages), "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        pid, address = self._process.stdout.readline().split()
        self.name, self.pid, self.base = "victim", int(pid), int(address, 16)

    def tell(self, line):
        """It does what the line says."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "0\n"

    def end(self):
        """It ends."""
        self._process.stdin.close()
        assert self._process.wait() == 0


class Recorder:
    """A session of its own process."""

    def __init__(self, *options):
        self._stderr = open(f"{options[-1]}.err", "w+")  # noqa: SIM115
        argv = [sys.executable, "-m", "mptrace", "record", *options]
        self._process = subprocess.Popen(argv, stderr=self._stderr)

    def wait_ready(self):
        """Until it traces."""
        while "tracing" not in Path(self._stderr.name).read_text():
            assert self._process.poll() is None, Path(self._stderr.name).read_text()
            time.sleep(0.1)

    def end(self, number):
        """Send a signal; exit status and what it said."""
        self._process.send_signal(number)
        status = self._process.wait()
        return {"status": status, "err": Path(self._stderr.name).read_text()}


def migratepages(pid, source, target):
    """Another program's way, for all pages of a process."""
    subprocess.run(["migratepages", str(pid), str(source), str(target)], check=True)


def scope_work(case, callers):
    """A call by each caller, and two ways to move the victim's pages by a stranger."""
    own, victim, user, grouped, stranger = callers
    calls = []
    for number, target in enumerate((1, 0)):
        for caller in (own, user, grouped, stranger):
            calls.append(caller.move(f"{case}-{number}-{caller.name}", target))
    calls.append(stranger.move(f"{case}-victim", 1, of=victim))
    migratepages(victim.pid, 1, 0)
    return calls


def filter_work(case, callers):
    """Migrations by two paths, some of which fail, and a call."""
    own, victim, *_ = callers
    for page in (0, 5):
        victim.tell(f"hold {page}")
    migratepages(victim.pid, 0, 1)
    migratepages(victim.pid, 1, 0)
    victim.tell("release")
    calls = [own.move(f"{case}-call", 1), own.move(f"{case}-back", 0)]
    Path("/proc/sys/vm/compact_memory").write_text("1")
    return calls


def done(what):
    """Say where it is, to whoever looks for the time that it takes."""
    print(f"{time.monotonic():.1f} s after boot: {what}", file=sys.stderr, flush=True)


def main():
    """All of it."""
    done("begin")
    Path("/proc/sys/kernel/numa_balancing").write_text("0")
    for name in ("mover", "hostile"):
        Path(name).mkdir()
    CGROUP.mkdir()
    join = ["sh", "-c", f'echo $$ >{CGROUP}/cgroup.procs; exec "$@"', "-"]
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    whole = Recorder("-a", "-o", "all")
    # what it compiles the others find
    whole.wait_ready()
    parts = Recorder("-a", "--rotate-time", "2", "--rotate-size", "96K", "-o", "part")
    less = Recorder("-a", "--detail", "outcomes", "-o", "less")
    scopes = Peer(sys.executable, str(HERE / "scopes.py"))
    own, victim = Caller("own", 23), Victim(sys.argv[2], 29)
    user, grouped = Caller("user", 31, become), Caller("grouped", 37, join)
    stranger = Caller("stranger", 41)
    callers = (own, victim, user, grouped, stranger)
    scopes.listen()
    parts.wait_ready()
    less.wait_ready()
    done("four tracers are there")

    about = {"pids": {caller.name: caller.pid for caller in callers}, "cases": {}}

    def run(case, work, wanted, filters):
        asked = {"output": case, "wanted": wanted, "filters": filters}
        scopes.tell(json.dumps(asked))
        before_ns = time.monotonic_ns()
        calls = work(case, callers)
        after_ns = time.monotonic_ns()
        answer = scopes.tell("")
        about["cases"][case] = {
            **asked,
            "calls": calls,
            "before_ns": before_ns,
            "after_ns": after_ns,
            "answer": answer,
        }
        done(case)

    run("pid_of_caller", scope_work, {"pids": [own.pid]}, {})
    run("pid_of_target", scope_work, {"pids": [victim.pid]}, {})
    run("user", scope_work, {"uid": NOBODY}, {})
    run("cgroup", scope_work, {"cgroup": "/mptrace-test"}, {})
    run("reason", filter_work, {}, {"reasons": ["compaction"]})
    run("from", filter_work, {}, {"source_nids": [0]})
    run("to", filter_work, {}, {"target_nids": [0]})
    # about half of the folios take longer than half of them did
    folios = Recording.open("from").table("folios")
    took = folios["end_ns"] - folios["start_ns"]
    run("min", filter_work, {}, {"min_ns": int(np.median(took[folios["call_id"] == 0]))})
    run("failed", filter_work, {}, {"failed": True})
    about["scopes_status"] = scopes.end()

    # calls that take long enough to lie in two parts
    long = Caller("long", 5003)
    written = len(list(Path().glob("part.0*")))
    while len(list(Path().glob("part.0*"))) < written + 2:
        time.sleep(0.1)
    about["long"] = [long.move(f"long-{number}", 1 - number % 2) for number in range(4)]
    about["pids"]["long"] = long.pid
    for caller in (*callers, long):
        caller.end()
    about["parts"] = parts.end(signal.SIGTERM)
    done("the rotated session")

    # what follows is for the session that sees everything
    hostile = [sys.executable, str(HERE / "hostile.py"), "hostile"]
    about["hostile_status"] = subprocess.run(hostile, check=False).returncode
    done("hostile callers")
    with open("hostile/compat.raw", "wb") as told:
        about["compat_status"] = subprocess.run([sys.argv[1]], stdout=told, check=False).returncode
    subprocess.run([sys.executable, str(HERE / "batches.py"), "batches.json"], check=True)
    done("32-bit callers and batches")
    about["whole"] = whole.end(signal.SIGINT)
    about["less"] = less.end(signal.SIGINT)
    done("the whole session")
    Path("about.json").write_text(json.dumps(about))


if __name__ == "__main__":
    os.chmod(".", 0o777)
    main()

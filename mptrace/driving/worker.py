# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver's own process: ``python -m mptrace.driving.worker [PARENT]``, a JSON line per request.

Requests come on stdin, replies go to stdout (see ``protocol``):

    {"op": "setup", "workload": {...}}                 puts a workload in place
    {"op": "round", "record": true, "out": "DIR"}      there, and back if it says so
    {"op": "status", "out": "FILE"}                    statuses of the last round as .npy
    {"op": "teardown"}                                 gives it back
    {"op": "quit"}

Whatever comes on stdin during a round ends it after the calls under way;
``{"op": "interrupt"}`` is for that and has no reply of its own.  SIGTERM,
SIGHUP, the end of stdin and the parent's death end the process.  However it
ends in order, pages of another process are moved back first.
"""

import contextlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.driving import protocol, rounds, workloads
from mptrace.driving.in_place import Prepared, prepare
from mptrace.driving.protocol import RoundTotals, SetupReply, TeardownReply
from mptrace.driving.rounds import Issued
from mptrace.errors import MptraceError, UsageError
from mptrace.host.parent import die_with_parent

_READ_BYTES = 1 << 16


class Requests:
    """Lines of a file descriptor, without losing sight of those that are there already."""

    def __init__(self, fd: int) -> None:
        """Read from ``fd``."""
        self._fd = fd
        self._buffer = b""

    def line(self) -> bytes:
        """Wait for the next line; nothing at the end of the stream."""
        while b"\n" not in self._buffer:
            data = os.read(self._fd, _READ_BYTES)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def waiting(self) -> bool:
        """Whether another line, or the end of the stream, is there to be read."""
        return bool(self._buffer or select.select([self._fd], [], [], 0)[0])


class Server:
    """The state between requests: at most one workload in place."""

    def __init__(self, requests: Requests) -> None:
        """Start with nothing in place."""
        self.requests = requests
        self.idle = False
        self.stopping = False
        self._prepared: Prepared | None = None
        self._statuses = np.empty(0, rounds.STATUS)
        self._next_call = 0
        self._round = 0

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request asks and return its reply; raises MptraceError."""
        name = request.get("op")
        if name == "setup":
            return protocol.to_reply(self._setup(request.get("workload", {})))
        if name == "round":
            return self._one_round(bool(request.get("record")), str(request.get("out", "")))
        if name == "status":
            np.save(str(request["out"]), self._statuses)
            return {"ok": True}
        if name == "teardown":
            return protocol.to_reply(self.teardown())
        raise UsageError(f"the worker does not know '{name}'")

    def teardown(self) -> TeardownReply:
        """Give back what is in place; nothing in place is nothing to do."""
        prepared, self._prepared = self._prepared, None
        return TeardownReply(*prepared.close()) if prepared else TeardownReply()

    def _setup(self, options: Mapping[str, Any]) -> SetupReply:
        with contextlib.suppress(MptraceError):  # the last one's target may be gone
            self.teardown()
        workload = workloads.from_dict(options)
        if workload.target != "pid":
            _be_the_first_to_go()
        prepared = self._prepared = prepare(workload, os.getpid())
        self._round = 0
        return SetupReply(
            tgid=os.getpid(),
            target_pid=prepared.target_pid,
            entries=int(prepared.forward.addresses.size),
            base_pages=prepared.base_pages,
            calls=len(prepared.forward.bounds) * (1 + prepared.workload.back),
            workload=prepared.workload.to_dict(),
            would_move=list(prepared.survey.mappings) if prepared.survey else [],
        )

    def _one_round(self, record: bool, out: str) -> dict[str, Any]:
        if not self._prepared:
            raise UsageError("no workload is in place")
        if record and not out:
            raise UsageError("a recorded round needs a directory")
        directions = [self._prepared.forward]
        if self._prepared.workload.back:
            directions.append(self._prepared.backward)
        self._prepared.moved = True
        parts: list[Issued] = []
        for calls in directions:
            if parts and parts[-1].gone:
                break
            parts.append(
                rounds.issue(
                    calls,
                    number=self._next_call,
                    round_=self._round,
                    record=record,
                    wanted=lambda: not (self.stopping or self.requests.waiting()),
                )
            )
            self._next_call += len(calls.bounds)
        self._statuses = np.concatenate([part.statuses for part in parts])
        files = _save(Path(out), self._round, parts) if record else {}
        reply = protocol.to_reply(_summary(self._round, parts, files))
        self._round += 1
        gone = parts[-1].gone
        return {**protocol.to_error(gone), "round": reply} if gone else reply


def main() -> None:
    """Serve until told to end, by whichever of the ways."""
    server = Server(Requests(0))
    parent = int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid()
    _arrange_signals(server)
    die_with_parent(parent, signal.SIGTERM)
    # What a library prints must not get between the replies.
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
            _serve(server, out)
    finally:
        server.idle = False
        with contextlib.suppress(MptraceError):  # the target may be gone; nobody listens
            server.teardown()


def _serve(server: Server, out: int) -> None:
    while not server.stopping:
        server.idle = True
        line = server.requests.line()
        server.idle = False
        if not line:
            return
        try:
            request = json.loads(line)
            if request.get("op") == "quit":
                return
            if request.get("op") == "interrupt":  # too late: the round had ended
                continue
            reply = server.answer(request)
        except MptraceError as error:
            reply = protocol.to_error(error)
        except Exception as error:  # a defect: say so, with its traceback on stderr
            traceback.print_exc()
            told = f"{type(error).__name__}: {error}"
            reply = protocol.to_error(MptraceError(f"the worker failed: {told}"))
        data = json.dumps(reply).encode() + b"\n"
        while data:
            data = data[os.write(out, data) :]


def _arrange_signals(server: Server) -> None:
    def stop(*_: object) -> None:
        server.stopping = True
        if server.idle:
            raise SystemExit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)


def _be_the_first_to_go() -> None:
    """If our memory is too much after all, the OOM killer shall take us and nobody else."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _save(out: Path, round_: int, parts: list[Issued]) -> dict[str, str]:
    tables: dict[str, list[npt.NDArray[np.void]]] = {
        "driver_calls": [part.calls for part in parts],
        "locations": [part.locations for part in parts],
    }
    files = {}
    for name, pieces in tables.items():
        files[name] = str(out / f"{name}-{round_:06d}.npy")
        np.save(files[name], np.concatenate(pieces))
    return files


def _summary(round_: int, parts: list[Issued], files: dict[str, str]) -> RoundTotals:
    calls = np.concatenate([part.calls for part in parts])
    spent = (calls["after_ns"] - calls["before_ns"]).astype(np.int64)
    cpu_ns = sum(int(part.cpu_ns.sum()) for part in parts)
    errnos, counts = np.unique(calls["errno_"][calls["ret"] < 0], return_counts=True)
    return RoundTotals(
        round=round_,
        n_calls=len(calls),
        entries=int(calls["entries"].sum()),
        call_ns=int(spent.sum()),
        cpu_ns=cpu_ns,
        positive=int((calls["ret"] > 0).sum()),
        errnos={str(number): int(count) for number, count in zip(errnos, counts, strict=True)},
        files=files,
    )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The parent's side of the worker: start it, ask it, load its arrays, notice its death."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.driving import protocol
from mptrace.driving.protocol import RoundTotals, SetupReply, TeardownReply
from mptrace.driving.workloads import Workload
from mptrace.errors import MptraceError, TargetError
from mptrace.recording import layouts

_READ_BYTES = 1 << 16
_PATIENCE_S = 60  # for the way back of another process's pages at the end


@dataclass(frozen=True)
class RoundReply:
    """A round's totals and its rows, of which there are none unless it was recorded."""

    totals: RoundTotals
    calls: npt.NDArray[np.void]  #: driver_layouts.DRIVER_CALL
    locations: npt.NDArray[np.void]  #: driver_layouts.LOCATION

    @property
    def call_ns(self) -> int:
        """Time of all its calls, there and back, summed over threads."""
        return self.totals.call_ns

    @property
    def cpu_ns(self) -> int:
        """CPU time of the calling threads in all its calls."""
        return self.totals.cpu_ns

    @property
    def entries(self) -> int:
        """Entries of all its calls, there and back."""
        return self.totals.entries


class TargetGone(TargetError):
    """The target process ended in the middle of a round; ``partial`` is what was done of it."""

    partial: RoundReply | None = None


class Worker:
    """A worker process.  A context manager: leaving it closes the worker.

    One request at a time: after :meth:`begin_round` comes :meth:`finish_round`.
    Every method raises the :class:`MptraceError` that the worker replied, or
    one that says that the worker died.  Start it from a thread that stays: the
    kernel ends the worker with the thread that started it.
    """

    def __init__(self) -> None:
        """Start the process; it says nothing until asked."""
        self._buffer = b""
        self._out: tempfile.TemporaryDirectory[str] | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mptrace.driving.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is the parent's to decide on
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the worker: the tgid of its calls."""
        return self._process.pid

    def setup(self, workload: Workload) -> SetupReply:
        """Put a workload in place, moving nothing yet; one that is there is given back."""
        self._send({"op": "setup", "workload": workload.to_dict()})
        return protocol.from_reply(SetupReply, self._receive())

    def round(self, *, record: bool = False, out: Path | None = None) -> RoundReply:
        """Run one round and wait for it; see :meth:`begin_round`, :meth:`finish_round`."""
        self.begin_round(record=record, out=out)
        return self.finish_round()

    def begin_round(self, *, record: bool = False, out: Path | None = None) -> None:
        """Start one round; ``out`` is where .npy files are kept, None: nowhere."""
        if record and out is None:
            self._out = tempfile.TemporaryDirectory(prefix="mptrace-")
            out = Path(self._out.name)
        self._send({"op": "round", "record": record, "out": str(out or "")})

    def poll(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` for the reply of what was begun; whether it is there."""
        return b"\n" in self._buffer or bool(select.select([self._stdout()], [], [], timeout_s)[0])

    def interrupt(self) -> None:
        """Have the round under way end after its present calls; its reply still comes."""
        self._send({"op": "interrupt"})

    def finish_round(self) -> RoundReply:
        """Wait for the round begun and load its rows; raises :class:`TargetGone` too."""
        try:
            reply = self._receive()
            if "round" not in reply or "error" not in reply:
                return _load(protocol.from_reply(RoundTotals, reply))
            gone = TargetGone(str(reply["error"]), str(reply.get("hint", "")))
            gone.partial = _load(protocol.from_reply(RoundTotals, reply["round"]))
            raise gone
        finally:
            if self._out:
                self._out.cleanup()
                self._out = None

    def statuses(self) -> npt.NDArray[np.void]:
        """Return the statuses of the last round, ``rounds.STATUS``, there and back."""
        with tempfile.TemporaryDirectory(prefix="mptrace-") as folder:
            path = Path(folder) / "statuses.npy"
            self._send({"op": "status", "out": str(path)})
            reply = self._receive()
            if "error" in reply:
                raise protocol.from_error(reply)
            return np.asarray(np.load(path))

    def teardown(self) -> TeardownReply:
        """Give the workload back; another process's pages go back where they were."""
        self._send({"op": "teardown"})
        return protocol.from_reply(TeardownReply, self._receive())

    def close(self) -> None:
        """End the worker, whatever it is doing; it gives back first what it has in place."""
        if self._process.poll() is None:
            self._process.terminate()
        with contextlib.suppress(OSError):
            self._stdin().close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout().close()

    def _send(self, request: Mapping[str, Any]) -> None:
        try:
            self._stdin().write(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ValueError) as error:
            raise self._death() from error

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = os.read(self._stdout().fileno(), _READ_BYTES)
            if not data:
                raise self._death()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _death(self) -> MptraceError:
        status = self._process.wait()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        hint = "the kernel's log may say more: dmesg" if status == -signal.SIGKILL else ""
        return MptraceError(f"the worker process {self.pid} ended unexpectedly {how}", hint)

    def _stdin(self) -> Any:
        return self._process.stdin

    def _stdout(self) -> Any:
        return self._process.stdout


def _load(totals: RoundTotals) -> RoundReply:
    rows = {
        name: np.asarray(np.load(totals.files[name])) if totals.files else np.empty(0, layout)
        for name, layout in layouts.TABLES.items()
        if name in ("driver_calls", "locations")
    }
    return RoundReply(totals, rows["driver_calls"], rows["locations"])

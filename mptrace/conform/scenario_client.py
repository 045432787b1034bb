# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks the scenario server for scenarios, one at a time, and outlives all of them."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mptrace.conform.stage.journal import SERVER, Journal
from mptrace.errors import HostError


@dataclass(frozen=True)
class ScenarioRun:
    """What came of one scenario: the call, or why there is none.

    ``made`` has the keys of ``stage.Made``; None with ``skip`` or ``error`` set.
    An ``error`` beside a call is what failed afterwards, as cleaning up did.
    """

    made: dict[str, Any] | None
    skip: str = ""
    error: str = ""


class ScenarioClient:
    """Starts the server; scenarios run in children of it.

    Start it before anything is traced: it is forked for each scenario.  It and
    its children die with the thread that started it.  They keep the descriptors
    ``keep`` open: the lock of a journal is held until the last of them is gone.
    """

    def __init__(self, journal: Journal, keep: Sequence[int] = ()) -> None:
        self._journal = journal
        self._pid = 0
        theirs_in, self._writing = os.pipe()
        self._reading, theirs_out = os.pipe()
        for fd in (theirs_in, theirs_out):
            os.set_inheritable(fd, True)
        arguments = [str(theirs_in), str(theirs_out), str(journal.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", SERVER, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out, *keep),
            # Ctrl-C is for the parent alone, which then ends the scenario
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""

    def run(
        self,
        name: str,
        nodes: Sequence[int],
        *,
        ready: Callable[[int], None] = lambda _: None,
        made: Callable[[], None] = lambda: None,
        seconds: float = 180.0,
    ) -> ScenarioRun:
        """Run one scenario; undo what it left behind, were it killed.

        ``ready`` is called with the caller's process id before the judged call,
        ``made`` after it.  A scenario that takes longer than ``seconds`` is killed,
        as it is when this is left by an exception; what it changed is in the
        journal then.  Raises HostError where the server died or can't be rid of it.
        """
        try:
            return self._run(name, nodes, ready, made, seconds)
        except BaseException:
            self._end()
            raise
        finally:
            self._pid = 0

    def _run(
        self,
        name: str,
        nodes: Sequence[int],
        ready: Callable[[int], None],
        made: Callable[[], None],
        seconds: float,
    ) -> ScenarioRun:
        deadline = time.monotonic() + seconds
        self._send({"run": name, "nodes": list(nodes)})
        call: dict[str, Any] | None = None
        skip = error = ""
        killed = False
        while True:
            try:
                event = self._receive(deadline)
            except TimeoutError:
                if killed:
                    raise HostError(f"the scenario '{name}' can't be killed") from None
                error = f"took longer than {seconds:.0f} s and was killed"
                killed = True
                deadline = time.monotonic() + 30
                self._kill()
                continue
            kind = event["event"]
            if kind == "started":
                self._pid = event["pid"]
            elif kind == "ready":
                ready(event["tgid"])
                self._send({"go": True})
            elif kind == "made":
                call = event["call"]
                made()
                self._send({"go": True})
            elif kind == "skip":
                skip = event["reason"]
            elif kind == "error":
                error = event["reason"] + ("\n" + event["trace"] if event.get("trace") else "")
            else:
                break
        if event["status"] and not error:
            error = f"its process ended with status {event['status']}"
        if event["status"]:
            # helpers of a killed scenario die with it; what it changed is in the journal
            self._kill()
            self._journal.restore()
        return ScenarioRun(call, skip, error)

    def close(self) -> None:
        """End the server."""
        os.close(self._writing)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._reading)

    def __enter__(self) -> "ScenarioClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self) -> None:
        """Kill the scenario and see it gone: it must change nothing while all is restored."""
        self._kill()
        deadline = time.monotonic() + 10
        with contextlib.suppress(TimeoutError, HostError):
            while (event := self._receive(deadline))["event"] != "gone":
                if event["event"] == "started":
                    self._pid = event["pid"]
                    self._kill()

    def _kill(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)

    def _send(self, line: dict[str, Any]) -> None:
        try:
            os.write(self._writing, json.dumps(line).encode() + b"\n")
        except BrokenPipeError as broken:
            raise HostError("the process that runs scenarios died") from broken

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reading], [], [], left)[0]:
                raise TimeoutError
            data = os.read(self._reading, 65536)
            if not data:
                raise HostError("the process that runs scenarios died")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event


class LastingClient:
    """A client that starts another server where its own dies, or can't kill a scenario."""

    def __init__(self, journal: Journal, lock: int) -> None:
        self._journal = journal
        self._lock = lock
        self._client = ScenarioClient(journal, keep=(lock,))

    def run(
        self,
        name: str,
        nodes: tuple[int, ...],
        ready: Callable[[int], None],
        made: Callable[[], None],
    ) -> ScenarioRun:
        """As `ScenarioClient.run`; the server's death is an error of the scenario."""
        try:
            return self._client.run(name, nodes, ready=ready, made=made)
        except HostError as error:
            self._client.close()
            self._client = ScenarioClient(self._journal, keep=(self._lock,))
            return ScenarioRun(None, error=error.message)

    def close(self) -> None:
        """End the server."""
        self._client.close()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The order in which a session with a driver ends, with everything played but the session."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mptrace.driving.workloads import Workload
from mptrace.sessions import run as module
from mptrace.sessions.run import RunRequest, _Session


class Played:
    """What a session asks for, and in which order it does what matters at its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        note = self.order.append
        self.tracer: Any = SimpleNamespace(
            has_stacks=False,
            losses=dict,
            open_gate=lambda _: note("gate open"),
            close_gate=lambda: note("gate closed"),
            begin_detaching=lambda: note("detaching"),
        )
        reply = SimpleNamespace(calls=(), locations=(), call_ns=1, cpu_ns=1, entries=2)
        self.worker: Any = SimpleNamespace(
            begin_round=lambda **_: None,
            poll=lambda _: True,
            finish_round=lambda: reply,
            teardown=lambda: note("workload given back"),
        )
        self.writer: Any = SimpleNamespace(
            finish=lambda _: note("recording complete"),
            flush=lambda: None,
            rows={"folios": 2, "lookups": 0},
        )
        pump = SimpleNamespace(
            start=lambda: None,
            finish=lambda: note("rings empty"),
            keeping=self._keeping,
            append=lambda *_: None,
            met=lambda: SimpleNamespace(addresses=()),
        )
        monkeypatch.setattr(module, "Pump", lambda *_, **__: pump)

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        yield


def test_detaching_begins_when_all_is_taken_and_the_recording_is_completed_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not before the rings are empty: a probe that goes in the middle of a call loses its end."""
    played = Played(monkeypatch)
    workload = Workload(pages=2, repeats=1)
    request = RunRequest(workload, tmp_path / "r", measure_cost=False)
    session = _Session(
        request, workload, played.writer, played.worker, played.tracer, lambda _: None
    )
    assert not session.run(1).interrupted
    assert played.order == [
        "gate open",
        "gate closed",
        "workload given back",
        "gate closed",
        "rings empty",
        "detaching",
        "recording complete",
    ]

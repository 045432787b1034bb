# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tier a session is recorded by, with sessions that are played."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mptrace.errors import HostError
from mptrace.host.facts import HostFacts
from mptrace.sessions import record as module
from mptrace.sessions.record import record
from mptrace.sessions.request import RecordRequest, RecordResult, Wanted
from mptrace.tracing.plan.scope import Scope

DONE = RecordResult((), {}, {}, None, False)


class Session:
    """What `record` asks for, played; ``opening`` and ``during`` are errors that come then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **errors: HostError) -> None:
        self.ran: list[str] = []
        self.said: list[str] = []
        self.reasons: list[str] = []
        self._errors = errors
        tracer = SimpleNamespace(
            close=lambda: self.ran.append("closed"),
            begin_detaching=lambda: self.ran.append("detaching"),
            plan=SimpleNamespace(notes=()),
        )
        host = HostFacts((), "", False)
        worker = SimpleNamespace(__enter__=lambda *_: None, __exit__=lambda *_: None)
        for name, value in {
            "check_privileges": lambda: None,
            "read_host_facts": lambda: host,
            "keep_small": lambda: None,
            "read_facts": lambda: SimpleNamespace(migrate_reasons={}),
            "resolve_scope": lambda *_: Scope("all"),
            "Worker": lambda: type("Played", (), vars(worker))(),
            "calibrated": lambda *_: self._at("opening") or (tracer, ()),
            "first_meta": lambda *_: {"own": [1]},
            "Parts": lambda *_, **__: None,
            "BpfSession": lambda *_: SimpleNamespace(run=self._run),
            "_by_tracepoints": self._by_tracepoints,
        }.items():
            monkeypatch.setattr(module, name, value)

    def _at(self, moment: str) -> None:
        if moment in self._errors:
            raise self._errors[moment]

    def _run(self) -> RecordResult:
        self.ran.append("bpf")
        self._at("during")
        return DONE

    def _by_tracepoints(self, *arguments: Any) -> RecordResult:
        self.ran.append("tracepoints")
        self.reasons.append(arguments[-1])
        return DONE

    def record(self, output: Path, tier: str = "auto") -> None:
        """A session of everybody."""
        with contextlib.ExitStack() as ending:
            record(RecordRequest(Wanted(), output, tier=tier), self.said.append, ending)
            self.ran.append("summary")


def test_what_can_not_be_opened_is_recorded_by_tracepoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is said whole, in a sentence; what a compiler printed is left out."""
    session = Session(monkeypatch, opening=HostError("no usable attach point for call\n  a line"))
    session.record(tmp_path / "r")
    assert session.ran == ["tracepoints", "summary"]
    assert session.reasons == ["no usable attach point for call"]
    assert session.said == [
        "no BPF here: no usable attach point for call",
        "recording with tracepoints alone; 'mptrace doctor' says what is missing",
    ]


def test_an_error_in_the_middle_begins_no_second_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the one that there is: what that one recorded stays."""
    session = Session(monkeypatch, during=HostError("a map is gone"))
    with pytest.raises(HostError, match="a map is gone"):
        session.record(tmp_path / "r")
    assert session.ran == ["bpf", "closed"]


def test_probes_are_detached_while_the_summary_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is begun before, and waited for afterwards."""
    session = Session(monkeypatch)
    session.record(tmp_path / "r")
    assert session.ran == ["bpf", "detaching", "summary", "closed"]


@pytest.mark.parametrize("moment", ["opening", "during"])
def test_bpf_alone_is_never_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """--tier bpf."""
    session = Session(monkeypatch, **{moment: HostError("refused")})
    with pytest.raises(HostError, match="refused"):
        session.record(tmp_path / "r", "bpf")
    assert "tracepoints" not in session.ran

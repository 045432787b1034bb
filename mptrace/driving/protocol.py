# SPDX-License-Identifier: GPL-2.0-or-later
"""The replies that the worker gives its client, as values and as JSON.  Pure.

A request is one line of JSON, ``{"op": "setup", "workload": {...}}``; so is its
reply: the fields of a dataclass below with ``"ok": true``, or ``error``,
``hint`` and ``type`` of an error.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mptrace import errors
from mptrace.errors import MptraceError


@dataclass(frozen=True)
class SetupReply:
    """A workload is in place: whose pages, how many, and how a round will look."""

    tgid: int  #: the worker, which calls move_pages(2)
    target_pid: int  #: the process whose pages move
    entries: int  #: entries of the arrays, each way
    base_pages: int  #: base pages that the entries' folios hold
    calls: int  #: calls of one round
    workload: dict[str, Any]  #: the options as resolved: with the nodes chosen
    #: "pid" only: what a round would move, per mapping: start, end, name, pages, nodes.
    would_move: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RoundTotals:
    """One round, there and back: sums over its calls, times in ns."""

    round: int
    n_calls: int
    entries: int  #: entries passed, over all calls
    call_ns: int  #: of CLOCK_MONOTONIC
    cpu_ns: int  #: of the calling threads' CPU time
    positive: int  #: calls that returned a positive count
    errnos: dict[str, int]  #: errno -> calls that returned -1 with it
    files: dict[str, str] = field(default_factory=dict)  #: table -> .npy file, when recorded


@dataclass(frozen=True)
class TeardownReply:
    """The workload is gone; pages of another process were moved back."""

    restored: int = 0  #: pages that were elsewhere and are back on their node
    left: int = 0  #: pages that stayed elsewhere


_Reply = TypeVar("_Reply", SetupReply, RoundTotals, TeardownReply)


def to_reply(reply: SetupReply | RoundTotals | TeardownReply) -> dict[str, Any]:
    """Return the JSON object of a reply."""
    return {"ok": True, **dataclasses.asdict(reply)}


def from_reply(shape: type[_Reply], reply: Mapping[str, Any]) -> _Reply:
    """Return the reply of a JSON object; raises the error that it carries."""
    if "error" in reply:
        raise from_error(reply)
    return shape(**{name.name: reply[name.name] for name in dataclasses.fields(shape)})


def to_error(error: MptraceError) -> dict[str, Any]:
    """Return the JSON object of an error."""
    return {
        "error": error.message,
        "hint": error.hint,
        "type": type(error).__name__,
        "exit_code": error.exit_code,
    }


def from_error(reply: Mapping[str, Any]) -> MptraceError:
    """Return the error of such an object, of the same class where it is one of ours."""
    shape = getattr(errors, str(reply.get("type")), MptraceError)
    if not (isinstance(shape, type) and issubclass(shape, MptraceError)):
        shape = MptraceError
    return shape(str(reply["error"]), str(reply.get("hint", "")))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns what `mptrace record` was asked for, by names, into a `Scope`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mptrace.errors import TargetError, UsageError
from mptrace.host import proc
from mptrace.host.facts import HostFacts
from mptrace.host.processes import cgroup_id
from mptrace.recording.meta import RecorderCost
from mptrace.recording.rotation import Rotation
from mptrace.sessions.command import User
from mptrace.tracing.plan.request import Request
from mptrace.tracing.plan.scope import Filters, Scope


@dataclass(frozen=True)
class Wanted:
    """Whom a session is about: one of these, or everybody."""

    pids: tuple[int, ...] = ()
    uid: int | None = None
    cgroup: str = ""
    command: tuple[str, ...] = ()
    #: As whom the command runs; None: as this process.
    user: User | None = None


@dataclass(frozen=True)
class WantedFilters:
    """As `scope.Filters`, with names for the reasons."""

    reasons: tuple[str, ...] = ()
    source_nids: tuple[int, ...] = ()
    target_nids: tuple[int, ...] = ()
    min_ns: int = 0
    failed: bool = False


@dataclass(frozen=True)
class RecordRequest:
    """What `mptrace record` was asked for."""

    wanted: Wanted
    output: Path
    filters: WantedFilters = field(default_factory=WantedFilters)
    force: bool = False
    #: Earlier recordings of that name make room, where they are not to be replaced.
    aside: bool = False
    #: Seconds after which it ends, 0: at a signal, or when the command or the processes end.
    duration_s: float = 0.0
    rotation: Rotation = field(default_factory=Rotation)
    bounds: Request = field(default_factory=lambda: Request(others=True))
    #: "bpf", "tracepoints", or "auto": the latter where the kernel refuses the former.
    tier: str = "auto"
    command_line: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordResult:
    """What was recorded: the recordings that are there, rows per table, losses by cause.

    ``exit_status`` is the command's, None without one; ``interrupted``: a signal
    ended it before its time.  ``recorder``: what recording itself took.
    """

    recordings: tuple[Path, ...]
    rows: dict[str, int]
    lost: dict[str, int]
    exit_status: int | None
    interrupted: bool
    recorder: RecorderCost | None = None


def resolve_scope(
    wanted: Wanted, filters: WantedFilters, reasons: Mapping[int, str], host: HostFacts
) -> Scope:
    """The scope in numbers; ``reasons`` are the kernel's, by number.

    Raises UsageError and TargetError for what is not there.
    """
    chosen = _resolve_filters(filters, reasons, host)
    return replace(scope_of(wanted), filters=chosen)


def scope_of(wanted: Wanted) -> Scope:
    """Whom a session is about, in numbers, without filters; of a command, no process yet.

    Raises TargetError for what is not there.
    """
    if wanted.pids:
        return Scope("pids", tgids=tuple(dict.fromkeys(map(_tgid, wanted.pids))))
    if wanted.command:
        return Scope("pids")
    if wanted.uid is not None:
        return Scope("user", uid=wanted.uid)
    if wanted.cgroup:
        try:
            number, _ = cgroup_id(wanted.cgroup)
        except FileNotFoundError:
            raise TargetError(
                f"there is no cgroup (v2) '{wanted.cgroup}'",
                "give a directory below /sys/fs/cgroup, or its path below that",
            ) from None
        return Scope("cgroup", cgroup_id=number)
    return Scope("all")


def _tgid(pid: int) -> int:
    """The thread group of a process or thread."""
    try:
        return proc.tgid(pid)
    except OSError:
        raise TargetError(f"there is no process {pid}", "ps -e lists all processes") from None


def _resolve_filters(
    filters: WantedFilters, reasons: Mapping[int, str], host: HostFacts
) -> Filters:
    numbers = {name: number for number, name in reasons.items()}
    for name in filters.reasons:
        if name not in numbers:
            raise UsageError(
                f"this kernel has no reason '{name}'", "it has: " + ", ".join(sorted(numbers))
            )
    there = {node.nid for node in host.nodes}
    for nid in (*filters.source_nids, *filters.target_nids):
        if nid not in there:
            raise UsageError(
                f"this host has no node {nid}", "it has: " + ", ".join(map(str, sorted(there)))
            )
    return Filters(
        reasons=tuple(numbers[name] for name in filters.reasons),
        source_nids=filters.source_nids,
        target_nids=filters.target_nids,
        min_ns=filters.min_ns,
        failed=filters.failed,
    )


def meta_of(wanted: Wanted, filters: WantedFilters, scope: Scope) -> dict[str, Any]:
    """Keys ``scope`` and ``filters`` of meta.json."""
    return {"scope": _scope_meta(wanted, scope), "filters": _filters_meta(filters)}


def _scope_meta(wanted: Wanted, scope: Scope) -> dict[str, Any]:
    kind = "command" if wanted.command else scope.kind
    return {
        "kind": kind,
        "pids": list(scope.tgids),
        "uid": wanted.uid,
        "cgroup": wanted.cgroup,
        "command": list(wanted.command),
        "as": wanted.user.name if wanted.user else "",
    }


def _filters_meta(filters: WantedFilters) -> dict[str, Any]:
    return {
        "reasons": list(filters.reasons),
        "from": list(filters.source_nids),
        "to": list(filters.target_nids),
        "min_ns": filters.min_ns,
        "failed": filters.failed,
    }

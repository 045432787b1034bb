# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording's ``meta.json`` says at the start, and the names of kernel addresses in it."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mptrace import __version__
from mptrace.host import maps_reader
from mptrace.host.facts import HostFacts, KernelFacts
from mptrace.host.processes import own_tgids
from mptrace.host.symbols import names_at
from mptrace.recording.clock import now
from mptrace.recording.layouts import MAX_ENTRIES
from mptrace.recording.meta import Coverage
from mptrace.tracer import Tracer
from mptrace.tracing.plan.candidates import UNPROVED_KINDS


def symbols_of(addresses: Collection[int]) -> dict[str, str]:
    """Names of kernel addresses for ``meta.json``: hexadecimal address -> name."""
    wanted = [address for address in addresses if address]
    found = names_at(Path("/"), wanted) if wanted else {}
    return {f"{address:#x}": name for address, name in sorted(found.items())}


def first_meta(
    host: HostFacts, facts: KernelFacts, tracer: Tracer, coverage: tuple[Coverage, ...]
) -> dict[str, Any]:
    """Keys of ``meta.json`` that are known at the start, of a session without a workload."""
    return {
        "tool_version": __version__,
        "detail": tracer.plan.request.detail,
        "command": [],
        "interrupted": False,
        "kernel": {
            "release": facts.release,
            "machine": facts.machine,
            "page_size": facts.page_size,
        },
        **host.to_meta(),
        "started": now(),
        "workload": None,
        "mappings": [],
        "mappings_gap": maps_reader.gap(),
        "reasons": {str(number): name for number, name in facts.migrate_reasons.items()},
        "modes": {str(number): name for number, name in facts.migrate_modes.items()},
        "coverage": [c.to_dict() for c in coverage],
        "unproved_kinds": _unproved_kinds(coverage),
        "own": own_tgids(),
        "memory_bound_bytes": tracer.plan.memory_bound_bytes,
        "lost": {},
        "symbols": {},
        "page_flags": dict(facts.page_flags),
        "cost": None,
        "cost_reason": "the session did not end",
        "max_entries": MAX_ENTRIES,
        **({"stacks": True} if tracer.has_stacks else {}),
    }


def _unproved_kinds(coverage: tuple[Coverage, ...]) -> list[str]:
    """Kinds of memory and paths that no calibrated phase covers."""
    unproved = {c.phase for c in coverage if c.state != "proved"}
    return sorted({kind for phase, kind in UNPROVED_KINDS.items() if phase in unproved})

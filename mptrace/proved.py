# SPDX-License-Identifier: GPL-2.0-or-later
"""A tracer whose phases a calibration has proved, and what a recording says of it first."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from mptrace import __version__, calibrate
from mptrace.calibrate import Coverage, Seen
from mptrace.candidates import (
    UNPROVED_KINDS,
    candidate_functions,
    candidate_offsets,
    candidate_sizes,
    candidate_tracepoints,
    candidate_variables,
)
from mptrace.errors import HostError
from mptrace.facts import HostFacts, KernelFacts
from mptrace.kernel.facts import read_kernel_facts
from mptrace.kernel.privileges import read_privileges
from mptrace.kernel.symbols import names_at
from mptrace.plan import Plan, Request, make_plan
from mptrace.processes import own_tgids
from mptrace.records import MAX_ENTRIES
from mptrace.tracer import Tracer
from mptrace.workerclient import Worker
from mptrace.workloads import Explicit, Workload

#: Plans tried before the session goes on with what is proved.
_MAX_PLANS = 4

Progress = Callable[[str], None]


def read_facts() -> KernelFacts:
    """Facts of the running kernel, as far as the plan's candidates ask for them.

    Raises HostError where it offers no BTF.
    """
    facts = read_kernel_facts(
        candidate_functions(),
        candidate_offsets(),
        candidate_sizes(),
        candidate_tracepoints(),
        candidate_variables(),
    )
    if not facts.functions:
        raise HostError(
            "this kernel offers no BTF (/sys/kernel/btf/vmlinux): struct offsets can't be known",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF, or run it in a guest: mptrace lab",
        )
    return facts


def check_privileges() -> None:
    """Raise HostError where this process may not trace."""
    missing = read_privileges(Path("/")).missing()
    if missing:
        raise HostError(
            f"tracing needs root, or {' and '.join(missing)}",
            "run it with sudo; 'mptrace doctor' says what else is missing, "
            "'mptrace report' works without",
        )


def symbols_of(addresses: Collection[int]) -> dict[str, str]:
    """Names of kernel addresses for ``meta.json``: hexadecimal address -> name."""
    wanted = [address for address in addresses if address]
    found = names_at(Path("/"), wanted) if wanted else {}
    return {f"{address:#x}": name for address, name in sorted(found.items())}


# ---- the plan, proved ---------------------------------------------------------


def calibrated(
    facts: KernelFacts,
    bounds: Request,
    worker: Worker | None,
    nodes: tuple[int, ...],
    progress: Progress,
) -> tuple[Tracer, tuple[Coverage, ...]]:
    """A tracer whose phases were proved as far as they can be, open, with its gate closed.

    A phase that fires another number of times than it must falls back to its
    next candidate; where there is none left, the first is used and unproved.
    Without a ``worker``, or with memory on one node only, nothing can be proved.
    """
    excluded: dict[tuple[str, str, str], str] = {}
    for _ in range(_MAX_PLANS):
        plan = make_plan(facts, bounds, excluded)
        _check_essentials(plan)
        progress("attaching the probes")
        tracer = Tracer(plan, facts.release)
        if refused := tracer.open():
            excluded.update(refused)
            tracer.close()
            continue
        if worker is None or len(nodes) < 2:
            return tracer, calibrate.uncalibrated(plan, "memory on one node only: not calibrated")
        try:
            progress(f"calibrating: {calibrate.PAGES} pages there and back")
            coverage = _calibrate(tracer, worker, nodes)
            # what has no other candidate stays attached, and unproved
            refuted = {
                key: reason
                for key, reason in calibrate.refuted(coverage).items()
                if _has_alternative(key, reason, facts, bounds, excluded)
            }
        except BaseException:
            tracer.close()
            raise
        if not refuted:
            return tracer, coverage
        excluded.update(refuted)
        tracer.close()
    raise HostError(
        f"no set of attach points worked in {_MAX_PLANS} tries: "
        + "; ".join(
            f"{phase} by {function}: {why}" for (phase, function, _), why in excluded.items()
        ),
        "run 'mptrace doctor', or 'mptrace lab' for a guest that can be traced",
    )


def _check_essentials(plan: Plan) -> None:
    missing = plan.missing_essentials()
    if missing:
        raise HostError(
            "this kernel can't be traced: no attach point for "
            + "; ".join(f"{p.phase} ({p.reason})" for p in missing),
            "run 'mptrace doctor' for each check, or 'mptrace lab' for a guest that can",
        )


def _has_alternative(
    key: tuple[str, str, str],
    reason: str,
    facts: KernelFacts,
    bounds: Request,
    excluded: dict[tuple[str, str, str], str],
) -> bool:
    other = make_plan(facts, bounds, {**excluded, key: reason})
    return any(p.method for p in other.phases if p.phase == key[0])


def _calibrate(tracer: Tracer, worker: Worker, nodes: tuple[int, ...]) -> tuple[Coverage, ...]:
    source, target = nodes[0], nodes[1]
    plain = Workload(pages=calibrate.PAGES, source_nids=(source,), target_nids=(target,))
    pinned = replace(
        plain,
        back=False,
        explicit=Explicit(
            entries=tuple((page, target) for page in range(calibrate.PAGES)),
            pinned=tuple(range(1, 1 + 2 * calibrate.PINNED, 2)),
        ),
    )
    return calibrate.judge(
        tracer.plan, _watch(tracer, worker, plain), _watch(tracer, worker, pinned)
    )


def _watch(tracer: Tracer, worker: Worker, workload: Workload) -> Seen:
    """What the tracer sees of one round of a workload; small ones only."""
    tgid = worker.setup(workload).tgid
    tracer.drain()
    tracer.open_gate(tgid)
    worker.round(record=False)
    tracer.close_gate()
    worker.teardown()
    drained = tracer.drain()
    return Seen(drained.calls, drained.migrations, drained.folios)


# ---- what a recording says of it --------------------------------------------------


def first_meta(
    host: HostFacts, facts: KernelFacts, tracer: Tracer, coverage: tuple[Coverage, ...]
) -> dict[str, Any]:
    """Keys of ``meta.json`` that are known at the start, of a session without a workload."""
    return {
        "tool_version": __version__,
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
    }


def _unproved_kinds(coverage: tuple[Coverage, ...]) -> list[str]:
    """Kinds of memory and paths that no calibrated phase covers."""
    proved = {c.phase for c in coverage if c.state == "proved"}
    return sorted({kind for phase, kind in UNPROVED_KINDS.items() if phase not in proved})


def now() -> dict[str, int]:
    """The time on the wall and CLOCK_MONOTONIC, taken together."""
    return {"wall_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()}

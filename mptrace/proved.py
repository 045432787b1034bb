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

#: Calibrations made before the session goes on with what is proved.
_MAX_CALIBRATIONS = 4

Progress = Callable[[str], None]
#: (phase, function, method) -> why it is not used.
_Excluded = dict[tuple[str, str, str], str]


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
    make: Callable[[Plan, str], Tracer] = Tracer,
) -> tuple[Tracer, tuple[Coverage, ...]]:
    """A tracer whose phases were proved as far as they can be, open, with its gate closed.

    A phase that fires another number of times than it must falls back to its next
    candidate.  Where none is left, or after so many calibrations, the session goes on:
    the phase stays attached, and unproved, with the reason.  Without a ``worker``, or
    with memory on one node only, nothing can be proved.  Raises HostError where an
    essential phase can't be attached at all.
    """
    # the kernel's refusals are final; what was refuted may still be the best there is
    refused: _Excluded = {}
    refuted: _Excluded = {}
    calibrations = 0
    while True:
        plan = _planned(facts, bounds, refused, refuted)
        _check_essentials(plan)
        progress("attaching the probes")
        tracer = make(plan, facts.release)
        if found := tracer.open():
            refused.update(found)
            tracer.close()
            continue
        if worker is None or len(nodes) < 2:
            return tracer, calibrate.uncalibrated(plan, "memory on one node only: not calibrated")
        try:
            progress(f"calibrating: {calibrate.PAGES} pages there and back")
            coverage = _calibrate(tracer, worker, nodes)
            calibrations += 1
            wrong = calibrate.refuted(coverage)
            # what has no other candidate stays attached, and unproved
            found = {
                key: reason
                for key, reason in wrong.items()
                if _has_alternative(key, reason, facts, bounds, {**refused, **refuted})
            }
        except BaseException:
            tracer.close()
            raise
        if not found or calibrations == _MAX_CALIBRATIONS:
            for (phase, function, _), reason in wrong.items():
                progress(f"not proved: {phase} by {function}: {reason}")
            return tracer, coverage
        refuted.update(found)
        tracer.close()


def _planned(facts: KernelFacts, bounds: Request, refused: _Excluded, refuted: _Excluded) -> Plan:
    """The next plan; takes back what was refuted last where the kernel refused all else."""
    while True:
        plan = make_plan(facts, bounds, {**refused, **refuted})
        without = {phase.phase for phase in plan.phases if not phase.method}
        last = {key[0]: key for key in refuted if key[0] in without}
        if not last:
            return plan
        for key in last.values():
            del refuted[key]


def _check_essentials(plan: Plan) -> None:
    missing = plan.missing_essentials()
    if missing:
        raise HostError(
            "no usable attach point for " + ", ".join(p.phase for p in missing),
            "'mptrace doctor' says for each why; 'mptrace lab' boots a guest that can be traced",
        )


def _has_alternative(
    key: tuple[str, str, str],
    reason: str,
    facts: KernelFacts,
    bounds: Request,
    excluded: _Excluded,
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

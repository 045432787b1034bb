# SPDX-License-Identifier: GPL-2.0-or-later
"""A tracer whose phases a calibration has proved."""

from collections.abc import Callable
from dataclasses import replace

from mptrace.driving.worker_client import Worker
from mptrace.driving.workloads import Explicit, Workload
from mptrace.errors import HostError, Progress
from mptrace.host.facts import KernelFacts
from mptrace.host.read import read_kernel_facts
from mptrace.recording.meta import Coverage
from mptrace.tracer import Tracer
from mptrace.tracing.plan import calibration
from mptrace.tracing.plan.attaching import Excluded, attached
from mptrace.tracing.plan.calibration import Seen
from mptrace.tracing.plan.candidates import (
    candidate_functions,
    candidate_offsets,
    candidate_sizes,
    candidate_tracepoints,
    candidate_variables,
)
from mptrace.tracing.plan.plan import Plan, make_plan
from mptrace.tracing.plan.request import Request

#: Calibrations made before the session goes on with what is proved.
_MAX_CALIBRATIONS = 4


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
        tries=False,
    )
    if not facts.functions:
        raise HostError(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux), and mptrace can't do without",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF, or run it in a guest: mptrace lab",
        )
    return facts


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
    the phase stays attached, and unproved, with the reason.  Without a ``worker``, with
    memory on one node only, or with buffers too small for the calibration nothing can be
    proved, and nothing is refuted.  Raises HostError where an essential phase can't be
    attached at all.
    """
    # the kernel's refusals are final; what was refuted may still be the best there is
    refused: Excluded = {}
    refuted: Excluded = {}

    def planned() -> Tracer:
        plan = _planned(facts, bounds, refused, refuted)
        _check_essentials(plan)
        progress("attaching the probes")
        return make(plan, facts.release)

    calibrations = 0
    while True:
        tracer = attached(planned, refused)
        if worker is None or len(nodes) < 2:
            return tracer, calibration.uncalibrated(
                tracer.plan, "memory on one node only: not calibrated"
            )
        try:
            progress(f"calibrating: moving {calibration.PAGES} pages there and back")
            coverage = _calibrate(tracer, worker, nodes)
            calibrations += 1
            wrong = calibration.refuted(coverage)
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


def _planned(facts: KernelFacts, bounds: Request, refused: Excluded, refuted: Excluded) -> Plan:
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
            "'mptrace doctor' says why for each; 'mptrace lab' boots a guest that can be traced",
        )


def _has_alternative(
    key: tuple[str, str, str],
    reason: str,
    facts: KernelFacts,
    bounds: Request,
    excluded: Excluded,
) -> bool:
    other = make_plan(facts, bounds, {**excluded, key: reason})
    return any(p.method for p in other.phases if p.phase == key[0])


def _calibrate(tracer: Tracer, worker: Worker, nodes: tuple[int, ...]) -> tuple[Coverage, ...]:
    source, target = nodes[0], nodes[1]
    plain = Workload(pages=calibration.PAGES, source_nids=(source,), target_nids=(target,))
    pinned = replace(
        plain,
        back=False,
        explicit=Explicit(
            entries=tuple((page, target) for page in range(calibration.PAGES)),
            pinned=tuple(range(1, 1 + 2 * calibration.PINNED, 2)),
        ),
    )
    before = tracer.losses()
    seen = _watch(tracer, worker, plain), _watch(tracer, worker, pinned)
    after = tracer.losses()
    full = [cause for cause in after if cause.endswith("_full") and after[cause] > before[cause]]
    if full:
        return calibration.uncalibrated(
            tracer.plan, f"the buffers are too small to calibrate ({', '.join(full)}): see --buffer"
        )
    return calibration.judge(tracer.plan, *seen)


def _watch(tracer: Tracer, worker: Worker, workload: Workload) -> Seen:
    """What the tracer sees of one round of a workload; small ones only."""
    tgid = worker.setup(workload).tgid
    tracer.drain()
    tracer.open_gate(tgid)
    worker.round(record=False)
    tracer.close_gate()
    worker.teardown()
    drained = tracer.drain()
    return Seen(drained.calls, drained.migrations, drained.folios, drained.lookups)

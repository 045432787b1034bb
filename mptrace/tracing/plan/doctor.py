# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges what was read and tried: can this host trace, and can it migrate?

Pure: facts in, checks out.  `reporting.text.doctor` renders them.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mptrace.host.facts import Access, HostFacts, KernelFacts
from mptrace.recording.detail import LEVEL_ALL
from mptrace.tracing.plan.attaching import Excluded, attached
from mptrace.tracing.plan.detail import essential
from mptrace.tracing.plan.plan import PhasePlan, Plan, make_plan
from mptrace.tracing.plan.request import Request
from mptrace.units import format_bytes

OK = "ok"
WARN = "warn"
FAIL = "fail"

# What a check is about: a failure in TRACE or MIGRATE decides the verdict.
TRACE = "trace"
MIGRATE = "migrate"
MEASURE = "measure"

_LAB = "`mptrace lab` boots a guest that has it"
# Remedies that point to the check which has the cause.
_SEE = "see "
_PRIVILEGES = "see privileges"


@dataclass(frozen=True)
class Check:
    """One question, its answer in ``text``, and the way out where it is not ok."""

    name: str
    state: str
    text: str
    remedy: str = ""
    concerns: str = TRACE


@dataclass(frozen=True)
class PhaseCheck:
    """How a phase would be seen: by which attach point and method, or why it can't be."""

    phase: str
    unit: str
    attach: str
    method: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The checks in order, the phases in order, and what follows from them."""

    checks: tuple[Check, ...]
    phases: tuple[PhaseCheck, ...]

    @property
    def can_trace(self) -> bool:
        """Whether no check of tracing failed and every essential phase can be seen."""
        return not self.failed(TRACE) and all(p.state != FAIL for p in self.phases)

    @property
    def can_migrate(self) -> bool:
        """Whether pages can be moved from node to node here."""
        return not self.failed(MIGRATE)

    def failed(self, concerns: str) -> tuple[Check, ...]:
        """The failed checks of one concern."""
        return tuple(c for c in self.checks if c.state == FAIL and c.concerns == concerns)

    def causes(self) -> tuple[str, ...]:
        """Names of what to mend: failed checks but for those that follow from another.

        Where no check failed and tracing fails all the same: the phases that do.
        """
        failed = (*self.failed(TRACE), *self.failed(MIGRATE))
        names = tuple(c.name for c in failed if not c.remedy.startswith(_SEE))
        if self.failed(TRACE):
            return names
        return tuple(p.phase for p in self.phases if p.state == FAIL) + names


def settle(kernel: KernelFacts, try_attach: Callable[[str, str], str]) -> Plan:
    """The plan of which every phase attaches, each refusal answered by the next candidate.

    ``try_attach`` takes a method and a function or tracepoint, and returns ""
    or why it was refused.
    """
    refused: Excluded = {}
    attempt = functools.cache(try_attach)
    return attached(
        lambda: _Trial(make_plan(kernel, Request(others=True), refused), attempt), refused
    ).plan


class _Trial:
    """A plan of which each phase is attached for an instant, and nothing stays attached."""

    def __init__(self, plan: Plan, attempt: Callable[[str, str], str]) -> None:
        self.plan = plan
        self._attempt = attempt

    def open(self) -> Excluded:
        return {
            (phase.phase, phase.attach, phase.method): reason
            for phase in self.plan.phases
            if phase.method and (reason := self._attempt(phase.method, phase.attach))
        }

    def close(self) -> None:
        pass


def examine(kernel: KernelFacts, host: HostFacts, access: Access, plan: Plan) -> Diagnosis:
    """Judge everything that was read and tried; ``plan`` is a settled one."""
    checks = (
        *_check_privileges(access),
        *_check_bcc(access),
        *_check_btf(kernel, access),
        *_check_methods(kernel, host, access),
        *_check_ring_buffer(access),
        *_check_tracefs(access),
        *_check_lockdown(kernel, host, access),
        *_check_nodes(host, access),
        *_check_move_pages(access),
        *_check_emulation(host),
        *_check_settings(host),
    )
    return Diagnosis(checks, tuple(map(_check_phase, plan.phases)))


def _check_privileges(access: Access) -> Iterator[Check]:
    if access.missing_capabilities:
        yield Check(
            "privileges",
            FAIL,
            f"missing {', '.join(access.missing_capabilities)}",
            "run mptrace with sudo, or give it these capabilities",
        )
    elif access.in_user_namespace:
        yield Check(
            "privileges",
            FAIL,
            "these capabilities hold only in a user namespace, which BPF does not accept",
            "run mptrace outside the rootless container",
        )
    else:
        yield Check("privileges", OK, "CAP_BPF, CAP_PERFMON, CAP_SYS_NICE")


def _check_bcc(access: Access) -> Iterator[Check]:
    if access.bcc:
        yield Check(
            "bcc",
            FAIL,
            access.bcc,
            "install python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora); make the "
            "virtual environment from the distribution's Python with --system-site-packages; "
            "PyPI's bcc is another package",
        )
    else:
        yield Check("bcc", OK, access.bcc_version)


def _check_btf(kernel: KernelFacts, access: Access) -> Iterator[Check]:
    if access.btf:
        yield Check(
            "BTF", FAIL, access.btf, f"a kernel with CONFIG_DEBUG_INFO_BTF=y is needed; {_LAB}"
        )
    else:
        count = len(kernel.functions)
        yield Check("BTF", OK, f"has {count} of the functions that mptrace looks for")


def _check_methods(kernel: KernelFacts, host: HostFacts, access: Access) -> Iterator[Check]:
    # Either of a pair will do: functions by fentry or kprobe, tracepoints by either.
    for pair, concern in (
        (("fentry", "kprobe"), FAIL),
        # the tracepoints are phases that a session can do without
        (("raw_tracepoint", "tracepoint"), WARN),
    ):
        reasons = {method: kernel.methods.get(method, "not tried") for method in pair}
        state = WARN if "" in reasons.values() else concern
        for method, reason in reasons.items():
            if reason:
                remedy = _method_remedy(reason, host, access)
                yield Check(method, state, reason, remedy)
            else:
                yield Check(method, OK, "loads and attaches")


def _method_remedy(reason: str, host: HostFacts, access: Access) -> str:
    if access.missing_capabilities or access.in_user_namespace:
        return _PRIVILEGES
    if access.btf and "BTF" in reason:
        return "see BTF"
    if "tracefs" in reason:
        return "see tracefs"
    paranoid = host.settings.get("perf_event_paranoid", "")
    if "EACCES" in reason and paranoid.isdecimal() and int(paranoid) > 2:
        # Debian's and Ubuntu's kernels: above 2, perf_event_open(2) wants CAP_SYS_ADMIN.
        return "run mptrace as root, or sysctl kernel.perf_event_paranoid=2"
    if "kernel memory" in reason or host.settings.get("lockdown") == "confidentiality":
        return "see lockdown"
    if "no kprobes" in reason:
        return f"a kernel with CONFIG_KPROBE_EVENTS=y is needed; {_LAB}"
    if "EPERM" in reason or "EACCES" in reason:
        return f"the kernel refuses it even to root (lockdown, a security module); {_LAB}"
    return f"this kernel doesn't offer it; {_LAB}"


def _check_ring_buffer(access: Access) -> Iterator[Check]:
    if not access.ring_buffer:
        yield Check("ring buffer", OK, "8 MiB, without a memlock limit")
    elif access.missing_capabilities or access.in_user_namespace:
        yield Check("ring buffer", FAIL, access.ring_buffer, _PRIVILEGES)
    elif not access.small_ring_buffer:
        # before 5.11 maps count against RLIMIT_MEMLOCK; bcc raises it where it may
        yield Check(
            "ring buffer", WARN, f"8 MiB: {access.ring_buffer}, 4 KiB works", "ulimit -l unlimited"
        )
    else:
        yield Check(
            "ring buffer",
            FAIL,
            access.small_ring_buffer,
            f"a kernel with BPF_MAP_TYPE_RINGBUF (5.8 or later) is needed; {_LAB}",
        )


def _check_tracefs(access: Access) -> Iterator[Check]:
    if access.tracefs:
        yield Check("tracefs", OK, access.tracefs)
        return
    remedy = {
        "not mounted": "mount -t tracefs tracefs /sys/kernel/tracing",
        "this kernel has none": "a kernel with CONFIG_TRACING=y is needed",
    }.get(access.tracefs_reason, "run mptrace as root, or mount it with gid= for this user")
    yield Check("tracefs", WARN, access.tracefs_reason, remedy)


def _check_lockdown(kernel: KernelFacts, host: HostFacts, access: Access) -> Iterator[Check]:
    lockdown = host.settings.get("lockdown")
    if lockdown == "confidentiality":
        yield Check(
            "lockdown",
            FAIL,
            "confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity or none; Secure Boot may forbid that",
        )
    elif lockdown is not None:
        yield Check("lockdown", OK, lockdown)
    elif access.has_securityfs:
        yield Check("lockdown", OK, "this kernel has none")
    elif "" in kernel.methods.values():
        # The attempts read kernel memory, which is what confidentiality forbids.
        yield Check("lockdown", OK, "unknown (no securityfs), but BPF may read kernel memory")
    else:
        yield Check(
            "lockdown",
            WARN,
            "unknown: securityfs is not mounted or can't be read",
            "mount -t securityfs securityfs /sys/kernel/security",
        )


def _check_nodes(host: HostFacts, access: Access) -> Iterator[Check]:
    with_memory = [node for node in host.nodes if node.memory_bytes > 0]
    usable = [node for node in with_memory if node.nid in access.allowed_nodes]
    text = "; ".join(f"node {n.nid}: {format_bytes(n.memory_bytes)}" for n in with_memory)
    if len(with_memory) < 2:
        yield Check(
            "memory nodes",
            FAIL,
            text or "none: this kernel knows no NUMA",
            "moving pages needs two; `mptrace lab` boots a guest with two",
            MIGRATE,
        )
    elif len(usable) < 2:
        allowed = ",".join(map(str, access.allowed_nodes)) or "none"
        yield Check(
            "memory nodes",
            FAIL,
            f"the cpuset of this process allows only: {allowed}",
            "start it in a cpuset with two memory nodes (cpuset.mems)",
            MIGRATE,
        )
    else:
        yield Check("memory nodes", OK, text, concerns=MIGRATE)


def _check_move_pages(access: Access) -> Iterator[Check]:
    reason = access.move_pages
    if not reason:
        yield Check("move_pages(2)", OK, "works on a page of mptrace's own", concerns=MIGRATE)
        return
    remedy = "a seccomp filter forbids it: in Docker, --cap-add SYS_NICE lifts that"
    if "ENOSYS" in reason:
        remedy = f"a kernel with CONFIG_NUMA and CONFIG_MIGRATION is needed; {_LAB}"
    yield Check("move_pages(2)", FAIL, reason, remedy, MIGRATE)


def _check_emulation(host: HostFacts) -> Iterator[Check]:
    if host.emulated:
        times = "times are ratios, not hardware's"
        if host.counted is not None:
            times = "its clocks count instructions, 1 ns is one"
        yield Check(
            "emulation",
            WARN,
            f"{host.hypervisor} emulates this machine: {times}",
            concerns=MEASURE,
        )
    else:
        yield Check("emulation", OK, f"none ({host.hypervisor or 'hardware'})", concerns=MEASURE)


# setting -> (label, harmless values, what it does, the way out).  A harmless value is
# shown for the three that matter most.
_DISTURBING = {
    "numa_balancing": (
        "NUMA balancing",
        {"0"},
        "moves pages on its own",
        "sysctl kernel.numa_balancing=0 while measuring",
    ),
    "compaction_proactiveness": (
        "compaction",
        {"0"},
        "proactive: moves pages on its own",
        "sysctl vm.compaction_proactiveness=0 while measuring",
    ),
    "thp": (
        "THP",
        {"madvise", "never"},
        "base pages may become huge ones",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    ),
    "ksm_run": (
        "KSM",
        {"0", "2"},
        "merges pages, which then count as shared",
        "echo 0 > /sys/kernel/mm/ksm/run",
    ),
    "demotion_enabled": (
        "demotion",
        {"false", "0"},
        "reclaim moves pages to slower nodes",
        "echo false > /sys/kernel/mm/numa/demotion_enabled",
    ),
    "zone_reclaim_mode": (
        "zone reclaim",
        {"0"},
        "a full node reclaims before it allocates elsewhere",
        "sysctl vm.zone_reclaim_mode=0 while measuring",
    ),
}
_ALWAYS_SHOWN = frozenset({"numa_balancing", "compaction_proactiveness", "thp"})


def _check_settings(host: HostFacts) -> Iterator[Check]:
    for setting, (label, harmless, effect, remedy) in _DISTURBING.items():
        value = host.settings.get(setting)
        if value is not None and value not in harmless:
            yield Check(label, WARN, f"{value}: {effect}", remedy, MEASURE)
        elif setting in _ALWAYS_SHOWN:
            yield Check(label, OK, value or "this kernel has none", concerns=MEASURE)


def _check_phase(phase: PhasePlan) -> PhaseCheck:
    state = OK if phase.method else FAIL if phase.phase in essential(LEVEL_ALL) else WARN
    return PhaseCheck(phase.phase, phase.unit, phase.attach, phase.method, state, phase.reason)

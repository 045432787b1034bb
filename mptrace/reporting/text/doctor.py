# SPDX-License-Identifier: GPL-2.0-or-later
"""A diagnosis as text of so many columns, or as a JSON-able dict.  Returns, never prints."""

import dataclasses
import textwrap
from typing import Any

from mptrace.host.facts import HostFacts, KernelFacts
from mptrace.reporting.text.layout import WIDTH, clip, columns, table, wide
from mptrace.tracing.plan.doctor import FAIL, OK, Diagnosis

SCHEMA_VERSION = 1

#: With it migrations can be recorded even where no function can be traced.
_BY_TRACEPOINTS = "migrate:mm_migrate_pages"
_NAME_WIDTH = 16
_STATE_WIDTH = 6
_INDENT = " " * (_STATE_WIDTH + _NAME_WIDTH)


def render(diagnosis: Diagnosis, kernel: KernelFacts, *, width: int = WIDTH) -> str:
    """The checks, a line each with its remedy below; the phases; the verdict last."""
    with columns(width):
        return _render(diagnosis, kernel)


def _render(diagnosis: Diagnosis, kernel: KernelFacts) -> str:
    lines = [f"kernel {kernel.release} ({kernel.machine})", ""]
    for check in diagnosis.checks:
        lines += _wrapped(f"{check.state:<{_STATE_WIDTH}}{check.name:<{_NAME_WIDTH}}", check.text)
        if check.remedy and check.state != OK:
            lines += _wrapped(_INDENT + "-> ", check.remedy)
    lines += ["", *_phase_table(diagnosis), *_phase_reasons(diagnosis), ""]
    if not diagnosis.can_trace and _BY_TRACEPOINTS in kernel.tracepoints:
        lines += _wrapped("", "`mptrace record` shows what tracepoints alone tell here.")
    lines += _verdict(diagnosis)
    return "\n".join(lines)


def to_json(diagnosis: Diagnosis, kernel: KernelFacts, host: HostFacts) -> dict[str, Any]:
    """The same as values; states are "ok", "warn" and "fail"."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kernel": {
            "release": kernel.release,
            "machine": kernel.machine,
            "page_size": kernel.page_size,
        },
        "hypervisor": host.hypervisor,
        "emulated": host.emulated,
        "counted": None if host.counted is None else dict(host.counted),
        "memory_nodes": list(host.memory_nodes),
        "settings": dict(host.settings),
        "can_trace": diagnosis.can_trace,
        "can_migrate": diagnosis.can_migrate,
        "checks": [dataclasses.asdict(check) for check in diagnosis.checks],
        "phases": [dataclasses.asdict(phase) for phase in diagnosis.phases],
    }


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        wide(),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    ) or [head.rstrip()]


def _phase_table(diagnosis: Diagnosis) -> list[str]:
    rows = [
        (p.state, p.phase, p.unit, p.attach or "-", p.method.replace("tracepoint", "tp") or "-")
        for p in diagnosis.phases
    ]
    heads = ("", "phase", "unit", "attach point", "method")
    return table(rows, heads, cuts={1: clip, 3: clip})


# Where no method for functions works at all, the checks above have said so and
# eighteen phases needn't repeat it.
def _phase_reasons(diagnosis: Diagnosis) -> list[str]:
    if all(c.state == FAIL for c in diagnosis.checks if c.name in ("fentry", "kprobe")):
        return ["", *_wrapped("-> ", "functions need fentry or kprobe, which fail here")]
    lines: list[str] = []
    for phase in diagnosis.phases:
        if phase.reason:
            lines += _wrapped(f"{phase.state:<{_STATE_WIDTH}}{phase.phase:<17}", phase.reason)
    return ["", *lines] if lines else []


def _verdict(diagnosis: Diagnosis) -> list[str]:
    trace, migrate = (
        "yes" if can else "no" for can in (diagnosis.can_trace, diagnosis.can_migrate)
    )
    line = f"can trace: {trace}; can migrate here: {migrate}."
    if diagnosis.can_trace and diagnosis.can_migrate:
        return [line]
    line = (
        f"{line.removesuffix('.')} (failed: {', '.join(diagnosis.causes())}); "
        "`mptrace lab -- COMMAND` runs a command in a guest that can do both."
    )
    return textwrap.wrap(line, wide(), break_on_hyphens=False)

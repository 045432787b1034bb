# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts that `calibrated.read_facts` returned on real kernels (tests/fixtures/facts-*.json)."""

import json
from pathlib import Path

from mptrace.host.facts import KernelFacts, Prototype
from mptrace.tracing.plan.candidates import CANDIDATES

FIXTURES = Path(__file__).parents[1] / "fixtures"
#: Phases in the order of the report, each once.
PHASES = tuple(dict.fromkeys(candidate.phase for candidate in CANDIDATES))


def facts_of(name: str) -> KernelFacts:
    """Facts as `calibrated.read_facts` returned them on a real kernel."""
    raw = json.loads((FIXTURES / f"facts-{name}.json").read_text())
    raw["functions"] = {
        function: Prototype(**{**fields, "parameters": tuple(fields["parameters"])})
        for function, fields in raw["functions"].items()
    }
    for key in ("symbols", "tracepoints", "traceable"):
        raw[key] = None if raw[key] is None else frozenset(raw[key])
    for key in ("migrate_reasons", "migrate_modes"):
        raw[key] = {int(number): text for number, text in raw[key].items()}
    return KernelFacts(**raw)

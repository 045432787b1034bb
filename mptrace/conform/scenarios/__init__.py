# SPDX-License-Identifier: GPL-2.0-or-later
"""The scenarios: each file makes one outcome of move_pages(2) happen for real.

A file holds ``provoke`` (what is done), ``expect`` (what this kernel should
answer, keyed on facts) and ``SCENARIO`` (the two with their documentation).
"""

import importlib
import pkgutil
from functools import cache

from mptrace.conform.scenarios.base import PAGE_STATE, REASON, RETURN_CODE, Scenario
from mptrace.errors import UsageError

_SUBJECTS = (PAGE_STATE, RETURN_CODE, REASON)


@cache
def catalogue() -> dict[str, Scenario]:
    """All scenarios by name, in the order in which they run: by subject, then by name."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        scenario = getattr(importlib.import_module(f"{__name__}.{module.name}"), "SCENARIO", None)
        if isinstance(scenario, Scenario):
            found.append(scenario)
    found.sort(key=lambda s: (_SUBJECTS.index(s.subject), s.name))
    return {scenario.name: scenario for scenario in found}


def find(name: str) -> Scenario:
    """The scenario of this name; raises UsageError for a name that is none."""
    scenarios = catalogue()
    if name not in scenarios:
        raise UsageError(f"there is no scenario '{name}'", "mptrace conform --list   shows all")
    return scenarios[name]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings of the host that disturb migrations or forbid tracing, as they are."""

import gzip
import re
import zlib
from pathlib import Path

from mptrace.errors import HostError

#: Frames in a map of stacks: struct bpf_stacktrace of BCC.
STACK_FRAMES = 127
# setting -> file.  Of a choice like "always [madvise] never" the chosen one is kept.
_FILES = {
    "numa_balancing": "proc/sys/kernel/numa_balancing",
    "compaction_proactiveness": "proc/sys/vm/compaction_proactiveness",
    "zone_reclaim_mode": "proc/sys/vm/zone_reclaim_mode",
    "thp": "sys/kernel/mm/transparent_hugepage/enabled",
    "thp_defrag": "sys/kernel/mm/transparent_hugepage/defrag",
    "ksm_run": "sys/kernel/mm/ksm/run",
    "lru_gen": "sys/kernel/mm/lru_gen/enabled",
    "demotion_enabled": "sys/kernel/mm/numa/demotion_enabled",
    "lockdown": "sys/kernel/security/lockdown",
    "perf_event_paranoid": "proc/sys/kernel/perf_event_paranoid",
    "unprivileged_bpf_disabled": "proc/sys/kernel/unprivileged_bpf_disabled",
    "kptr_restrict": "proc/sys/kernel/kptr_restrict",
}
_CHOSEN = re.compile(r"\[([^\]]+)\]")


def read_settings(root: Path) -> dict[str, str]:
    """Setting -> value, in a fixed order; a setting that can't be read is absent."""
    settings = {}
    for name, place in _FILES.items():
        try:
            text = (root / place).read_text().strip()
        except OSError:
            continue
        chosen = _CHOSEN.search(text)
        settings[name] = chosen[1] if chosen else text
    return settings


def check_stacks(root: Path = Path("/")) -> None:
    """Raise HostError where the kernel keeps shorter stacks than its maps are made for."""
    try:
        most = int((root / "proc/sys/kernel/perf_event_max_stack").read_text())
    except (OSError, ValueError):
        return
    if most < STACK_FRAMES:
        raise HostError(
            f"no stacks can be recorded: kernel.perf_event_max_stack is {most}",
            f"sysctl kernel.perf_event_max_stack={STACK_FRAMES}, or leave out --stacks",
        )


def nodes_shift(root: Path, release: str) -> int | None:
    """CONFIG_NODES_SHIFT of the kernel; None where no configuration of it can be read."""
    value = config_value(root, release, "CONFIG_NODES_SHIFT")
    return int(value) if value is not None else None


def config_value(root: Path, release: str, option: str) -> str | None:
    """Value of an option in the kernel's own configuration, else in that of its package."""
    pattern = re.compile(rf"^{option}=(.*)$".encode(), re.MULTILINE)
    for place in (
        "proc/config.gz",
        f"boot/config-{release}",
        f"lib/modules/{release}/config",
        f"usr/lib/modules/{release}/config",
    ):
        try:
            data = (root / place).read_bytes()
            found = pattern.search(gzip.decompress(data) if place.endswith(".gz") else data)
        except (OSError, EOFError, zlib.error):  # unreadable, cut short, damaged
            continue
        return found[1].decode().strip() if found else None
    return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""What this process may do, from its capabilities."""

from dataclasses import dataclass
from pathlib import Path

from mptrace.errors import HostError
from mptrace.host import proc

# Numbers of include/uapi/linux/capability.h.
_CAPABILITIES = {
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
#: Enough to trace and to move other processes' pages; CAP_SYS_ADMIN stands in
#: for the first two, as it did before they were split off it.
NEEDED = ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_NICE")


@dataclass(frozen=True)
class Privileges:
    """Effective capabilities by name, of those that matter here."""

    capabilities: frozenset[str]
    #: In a user namespace capabilities hold for what belongs to it, and BPF doesn't.
    in_user_namespace: bool = False

    def missing(self) -> tuple[str, ...]:
        """Those of NEEDED that this process lacks."""
        held = set(self.capabilities)
        if "CAP_SYS_ADMIN" in held:
            held |= {"CAP_BPF", "CAP_PERFMON"}
        return tuple(name for name in NEEDED if name not in held)


def read_privileges(root: Path) -> Privileges:
    """Privileges of the calling process, from /proc/self."""
    mask = int(proc.own_status(root).get("CapEff", "0"), 16)
    # The initial namespace maps all identifiers to themselves.
    identifiers = _text(root / "proc/self/uid_map").split()
    return Privileges(
        capabilities=frozenset(name for name, bit in _CAPABILITIES.items() if mask >> bit & 1),
        in_user_namespace=bool(identifiers) and identifiers != ["0", "0", "4294967295"],
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def check_privileges() -> None:
    """Raise HostError where this process may not trace."""
    missing = read_privileges(Path("/")).missing()
    if missing:
        raise HostError(
            f"tracing needs root, or {' and '.join(missing)}",
            "run it with sudo; 'mptrace doctor' says what else is missing; "
            "'mptrace report' needs no root",
        )

# SPDX-License-Identifier: GPL-2.0-or-later
"""What this process can reach: bcc, tracefs, securityfs, the nodes of its cpuset."""

import re
import subprocess
import sys
from pathlib import Path

from mptrace.host import proc
from mptrace.host.topology import parse_list

_BCC_SECONDS = 120  # LLVM is loaded too, which takes seconds under emulation
# `from bcc import BPF` fails in PyPI's unrelated package of that name.
_IMPORT_BCC = "import bcc; from bcc import BPF; print(bcc.__version__)"


def try_bcc() -> tuple[str, str]:
    """Import bcc in another process: (its version, ""), or ("", why it can't be)."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT_BCC],
            capture_output=True,
            text=True,
            timeout=_BCC_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"importing it takes more than {_BCC_SECONDS} s"
    if done.returncode == 0:
        return done.stdout.strip(), ""
    return "", (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def tracefs_reason(root: Path) -> str:
    """Why no tracefs can be read: none in the kernel, not mounted, no right."""
    if not re.search(r"\ttracefs$", _text(root / "proc/filesystems"), re.MULTILINE):
        return "this kernel has none"
    if " tracefs " in _text(root / "proc/self/mounts"):
        return "mounted, but not readable for this user"
    return "not mounted"


def has_securityfs(root: Path) -> bool:
    """Whether securityfs is mounted where lockdown is looked for."""
    try:
        return any((root / "sys/kernel/security").iterdir())
    except OSError:
        return False


def allowed_nodes(root: Path) -> tuple[int, ...]:
    """Nodes that the cpuset of this process allows (Mems_allowed_list)."""
    return parse_list(proc.own_status(root).get("Mems_allowed_list", ""))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Attempts leave nothing behind and tell refused from absent, on whatever host this is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mptrace.host import access, bpf_support, symbols

ROOT = Path("/")
METHODS = ("fentry", "kprobe", "tracepoint", "raw_tracepoint")
PRINT_METHODS = """
import json
from mptrace.host import bpf_support
print(json.dumps({**bpf_support.try_methods(None, None), "ring": bpf_support.try_ring_buffer()}))
"""


def test_attempts_leave_no_descriptor_behind() -> None:
    """After every attempt, working or refused, as many descriptors are open as before."""
    tracefs = symbols.tracefs(ROOT)
    before = len(os.listdir("/proc/self/fd"))

    bpf_support.try_methods(tracefs, None)
    bpf_support.try_ring_buffer()
    bpf_support.try_ring_buffer(3)
    bpf_support.try_move_pages()

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_target_that_is_not_there_is_refused() -> None:
    """A method that works for its own target names a reason for one that doesn't exist."""
    for method, target in (
        ("fentry", "no_such_function"),
        ("kprobe", "no_such_function"),
        ("raw_tracepoint", "migrate:no_such_tracepoint"),
        ("tracepoint", "migrate:no_such_tracepoint"),
    ):
        assert bpf_support.try_attach(method, target, symbols.tracefs(ROOT), None) != ""


def test_a_ring_of_three_bytes_is_refused() -> None:
    """The kernel's errno comes through: EINVAL, or EPERM without the privilege."""
    assert bpf_support.try_ring_buffer(3) in ("creating: EINVAL", "creating: EPERM")


def test_move_pages_works_for_a_page_of_our_own() -> None:
    """No privilege is needed to ask for, and to move, one's own page."""
    assert bpf_support.try_move_pages() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop it")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_without_privilege_loading_is_refused() -> None:
    """Without capabilities every method says EPERM at loading, not that the kernel lacks it."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", PRINT_METHODS],
        capture_output=True,
        text=True,
        check=True,
    )

    reasons = json.loads(done.stdout)
    assert reasons.pop("fentry") == "no BTF to find functions in"
    assert reasons.pop("ring") == "creating: EPERM"
    assert set(reasons.values()) == {"loading: EPERM"}


def test_tracefs_reasons(tmp_path: Path) -> None:
    """None in the kernel, none mounted, and mounted without a right to read differ."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "filesystems").write_text("nodev\tproc\n\text4\n")
    assert access.tracefs_reason(tmp_path) == "this kernel has none"

    (proc / "filesystems").write_text("nodev\tproc\nnodev\ttracefs\n")
    (proc / "self/mounts").write_text("proc /proc proc rw 0 0\n")
    assert access.tracefs_reason(tmp_path) == "not mounted"

    (proc / "self/mounts").write_text("tracefs /sys/kernel/tracing tracefs rw 0 0\n")
    assert access.tracefs_reason(tmp_path) == "mounted, but not readable for this user"


def test_allowed_nodes_come_from_the_cpuset(tmp_path: Path) -> None:
    """Mems_allowed_list as the kernel prints it; nothing where it can't be read."""
    assert access.allowed_nodes(tmp_path) == ()

    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Mems_allowed:\t5\nMems_allowed_list:\t0,2-3\n")
    assert access.allowed_nodes(tmp_path) == (0, 2, 3)


def test_bcc_of_another_package_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI's unrelated `bcc` has no BPF: it does not count, and the reason says so."""
    (tmp_path / "bcc.py").write_text("__version__ = '1.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    version, reason = access.try_bcc()

    assert version == ""
    assert "cannot import name 'BPF'" in reason
    assert "bcc" not in sys.modules

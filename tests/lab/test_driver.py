# SPDX-License-Identifier: GPL-2.0-or-later
"""Driver, workloads, worker and where on a real NUMA kernel: guest_driver.py, run in the guest."""

import sys
from pathlib import Path

from mptrace.lab.guest import Guest

CHECKS = Path(__file__).with_name("guest_driver.py")


def test_driver_in_the_guest(guest: Guest, guest_dir: str) -> None:
    """Every check of guest_driver.py holds; what it printed is the message."""
    # Files of the guest's own: the host's /tmp shows through and may change below.
    own = [f"--basetemp={guest_dir}/pytest", "-p", "no:cacheprovider"]
    done = guest.run([sys.executable, "-m", "pytest", "-q", *own, str(CHECKS)], timeout=900)
    assert done.returncode == 0, done.text + done.errors
